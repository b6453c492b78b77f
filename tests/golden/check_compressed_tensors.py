#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Loads a folder that `lowbit quantize --convention compressed-tensors` wrote as its users do.

usage: check_compressed_tensors.py DIR SAME.gguf     (with the interpreter of scripts/deps golden)

SAME.gguf is `lowbit quantize -m DIR f32 -o SAME.gguf`: what lowbit decodes the folder to, which the gguf
package reads. Every matrix that transformers and compressed-tensors decompress must be those numbers
rounded once to the model's dtype, and the logits must be those of a model with these matrices.
"""
import sys

import gguf
import torch
import transformers
from transformers.utils.quantization_config import CompressedTensorsConfig

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}


def rotated_halves(w, n_heads):
    """GGUF's llama order of the rows of q and k undone: [h, d/2, 2] -> [h, 2, d/2]."""
    return w.reshape(n_heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def main():
    folder, same = sys.argv[1:]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=CompressedTensorsConfig(dequantize=True))
    plain = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()}, strict=False)
    plain.eval()
    reader = gguf.GGUFReader(same)
    stored = {t.name: t for t in reader.tensors}
    config = model.config
    arch = reader.fields["general.architecture"].contents()
    modules = dict(model.named_modules())
    n_equal = 0
    for layer in range(config.num_hidden_layers):
        for name, short in NAMES.items():
            tensor = stored[f"blk.{layer}.{short}.weight"]
            w = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            if arch == "llama" and short in ("attn_q", "attn_k"):
                w = rotated_halves(w, config.num_attention_heads if short == "attn_q" else config.num_key_value_heads)
            want = torch.from_numpy(w.copy()).to(model.dtype)
            got = modules[f"model.layers.{layer}.{name}"].weight
            if not torch.equal(got, want):
                sys.exit(f"layer {layer} {name}: {int((got != want).sum())} of {want.numel()} numbers differ")
            plain.get_submodule(f"model.layers.{layer}.{name}").weight.data.copy_(want)
            n_equal += want.numel()
    tokens = torch.arange(1, 33).reshape(1, -1) * 7 % config.vocab_size
    with torch.no_grad():
        logits, expected = model(tokens).logits, plain(tokens).logits
    if not torch.equal(logits, expected):
        sys.exit(f"the logits differ by up to {(logits - expected).abs().max()}")
    print(f"{n_equal} weights and {logits.numel()} logits are equal ({model.dtype})")


if __name__ == "__main__":
    main()
