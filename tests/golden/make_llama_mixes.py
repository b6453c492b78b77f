#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes llama_mixes.txt: the type that llama-quantize gives every matrix, for all its mixes.

usage: make_llama_mixes.py FOLDER_OF_LLAMA_QUANTIZE (scripts/peer prints it)

llama-quantize looks at names, row lengths and metadata alone, so the models are made here with the
`gguf` package: as deep and as wide as real ones, with two rows per matrix. A line is

  MODEL MIX [imatrix] ROLE=TYPE*N,TYPE*N,... ROLE=...

with the types of a role in the order of the layers; "imatrix" stands where the types differ from
those without one. A mix that llama-quantize refuses for a model is "refused".
"""
import itertools
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGUFWriter

OUT = pathlib.Path(__file__).parent / "llama_mixes.txt"
#         name       arch     layers d    ff    heads kv tied
MODELS = [("smollm", "llama", 30, 576, 1536, 9, 3, True),
          ("wide", "llama", 30, 768, 1536, 12, 4, True),
          ("qwen", "qwen2", 24, 896, 4864, 14, 2, False),
          ("odd", "llama", 13, 200, 344, 4, 4, False),
          ("large", "llama", 80, 256, 512, 4, 2, False),
          ("grouped", "llama", 19, 256, 512, 8, 1, False)]
MIXES = """Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_0 Q4_1 Q4_K_S Q4_K_M Q5_0 Q5_1 Q5_K_S Q5_K_M Q6_K Q8_0
IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS TQ1_0 TQ2_0 Q1_0
MXFP4_MOE""".split()
ROLES = {"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o", "ffn_gate": "gate",
         "ffn_up": "up", "ffn_down": "down"}
N_ROWS = 2


def make_model(path, arch, n_layers, d, ff, n_heads, n_kv, tied):
    writer = GGUFWriter(path, arch)
    writer.add_block_count(n_layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(d)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(N_ROWS)
    names = [("token_embd", d)] + ([] if tied else [("output", d)])
    for layer in range(n_layers):
        names += [(f"blk.{layer}.{name}", ff if name == "ffn_down" else d) for name in ROLES]
    for name, cols in names:
        writer.add_tensor(name + ".weight", np.ones((N_ROWS, cols), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return names


def make_imatrix(path, names):
    writer = GGUFWriter(path, "unused")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, cols in names:
        writer.add_tensor(name + ".weight.in_sum2", np.ones(cols, dtype=np.float32))
        writer.add_tensor(name + ".weight.counts", np.array([512], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def types_of(program, model, mix, imatrix):
    options = ["--imatrix", str(imatrix)] if imatrix else []
    done = subprocess.run([program, "--dry-run", *options, str(model), mix], capture_output=True, text=True)
    if done.returncode != 0:
        return "refused"
    found = {}
    for name, kind in re.findall(r"\] +(\S+)\.weight +- \[.*MiB \((\S+)\)", done.stdout + done.stderr):
        parts = name.split(".")
        role, layer = (ROLES[parts[2]], int(parts[1])) if parts[0] == "blk" else (name, 0)
        found.setdefault(role, {})[layer] = kind.lower()
    texts = []
    for role in ("token_embd", "output", *ROLES.values()):
        if role not in found:
            continue
        kinds = [found[role][layer] for layer in sorted(found[role])]
        runs = [(kind, len(list(group))) for kind, group in itertools.groupby(kinds)]
        texts.append(role + "=" + ",".join(f"{kind}*{n}" for kind, n in runs))
    return " ".join(texts)


def main():
    program = pathlib.Path(sys.argv[1]) / "llama-quantize"
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, *sizes in MODELS:
            model, imatrix = pathlib.Path(folder) / f"{name}.gguf", pathlib.Path(folder) / "imatrix.gguf"
            names = make_model(model, *sizes)
            make_imatrix(imatrix, names)
            n_matrices = len(names)
            for mix in MIXES:
                plain, weighted = (types_of(program, model, mix, file) for file in (None, imatrix))
                if plain != "refused":
                    counted = sum(int(n) for n in re.findall(r"\*(\d+)", plain))
                    assert counted == n_matrices, (name, mix, plain)
                lines.append(f"{name} {mix} {plain}")
                if weighted != plain:
                    lines.append(f"{name} {mix} imatrix {weighted}")
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
