#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes compressed_tensors/: a small folder in that convention, made by the compressed-tensors
package (0.20.0), and what it decompresses to. Run with the interpreter of scripts/deps golden.

  model.safetensors  modules in all the formats that lowbit reads
  config.json        quantization_config as the package prints it
  expected.f32       the decompressed matrices in f32, in the order of `modules` of modules.json
"""
import json
import pathlib

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent / "compressed_tensors"
ROWS, COLS = 10, 64
TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
#          module      weights                                                      format   scales
MODULES = [
    ("int4_group", {"num_bits": 4, "strategy": "group", "group_size": 16}, "pack-quantized", torch.float16),
    ("int4_asym", {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False}, "pack-quantized",
     torch.bfloat16),
    ("int8_asym", {"num_bits": 8, "strategy": "channel", "symmetric": False}, "pack-quantized", torch.float16),
    ("int2_group", {"num_bits": 2, "strategy": "group", "group_size": 16, "symmetric": False}, "pack-quantized",
     torch.float32),
    ("int8_packed", {"num_bits": 8, "strategy": "channel"}, "pack-quantized", torch.float16),
    ("int8_naive", {"num_bits": 8, "strategy": "channel"}, "int-quantized", torch.float16),
    ("e4m3_tensor", {"num_bits": 8, "type": "float", "strategy": "tensor"}, "float-quantized", torch.float16),
    ("e4m3_channel", {"num_bits": 8, "type": "float", "strategy": "channel"}, "float-quantized", torch.bfloat16),
    ("e4m3_block", {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [16, 16]},
     "float-quantized", torch.float32),
]


def extremes(w, args):
    """min and max of everything that shares a scale, in the shape of the scales."""
    if args.strategy == "tensor":
        return w.min().reshape(1), w.max().reshape(1)
    if args.strategy == "channel":
        return w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    if args.strategy == "group":
        groups = w.reshape(ROWS, -1, args.group_size)
        return groups.amin(-1), groups.amax(-1)
    height, width = args.block_structure
    padded = torch.nn.functional.pad(w, (0, -COLS % width, 0, -ROWS % height))
    blocks = padded.reshape(padded.shape[0] // height, height, -1, width)
    return blocks.amin((1, 3)), blocks.amax((1, 3))


def main():
    FOLDER.mkdir(exist_ok=True)
    torch.manual_seed(1)
    tensors, groups, expected = {}, {}, []
    for name, weights, form, scale_dtype in MODULES:
        args = QuantizationArgs(**weights)
        inputs = QuantizationArgs(**TOKEN) if form == "int-quantized" else None
        scheme = QuantizationScheme(targets=[name], weights=args, input_activations=inputs, format=form)
        groups[name] = scheme
        w = torch.randn(ROWS, COLS) * torch.rand(ROWS, 1)
        low, high = extremes(w, args)
        scale, zero = calculate_qparams(low, high, args)
        state = {"weight": w, "weight_scale": scale.to(scale_dtype), "weight_zero_point": zero}
        compressor = BaseCompressor.get_value_from_registry(form)
        # Codes are rounded with f32 arithmetic on the stored scale.
        state["weight_scale"] = state["weight_scale"].float()
        stored = compressor.compress(state, scheme)
        decompressed = compressor.decompress(dict(stored), scheme)
        expected.append(decompressed["weight"].float())
        stored["weight_scale"] = stored["weight_scale"].to(scale_dtype)
        for key, value in stored.items():
            if value is not None:
                tensors[f"{name}.{key}"] = value.contiguous()
    tensors["norm.weight"] = torch.ones(COLS, dtype=torch.float16)
    save_file(tensors, FOLDER / "model.safetensors", metadata={"format": "pt"})
    config = QuantizationConfig(config_groups=groups, format="mixed-precision", quantization_status="compressed",
                                ignore=["lm_head"])
    text = json.dumps({"quantization_config": config.model_dump(mode="json")}, indent=1)
    (FOLDER / "config.json").write_text(text + "\n")
    (FOLDER / "modules.json").write_text(json.dumps([name for name, *_ in MODULES]) + "\n")
    (FOLDER / "expected.f32").write_bytes(torch.stack(expected).numpy().astype("<f4").tobytes())


if __name__ == "__main__":
    main()
