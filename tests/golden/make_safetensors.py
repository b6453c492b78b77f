#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes small safetensors files with the `safetensors` package (0.8.0) into safetensors/.

single/   one file: f32, f16, bf16, a scalar, and an int64 buffer
sharded/  two files and an index
Number i of a tensor is (i % 17 - 8) / 4, which all three dtypes hold exactly.
"""
import json
import pathlib

import numpy as np
from ml_dtypes import bfloat16
from safetensors.numpy import save_file

FOLDER = pathlib.Path(__file__).parent / "safetensors"


def tensor(dtype, *shape):
    return ((np.arange(int(np.prod(shape))) % 17 - 8) / 4).astype(dtype).reshape(shape)


def main():
    tensors = {
        "norm.weight": tensor("float32", 5),
        "a.weight": tensor("float16", 3, 7),
        "b.weight": tensor(bfloat16, 2, 3, 4),
        "c.scalar": tensor("float32"),
        "position_ids": np.arange(2),
    }
    single, sharded = FOLDER / "single", FOLDER / "sharded"
    for folder in (single, sharded):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}\n')
    save_file(tensors, single / "model.safetensors", {"format": "pt"})
    weight_map = {}
    for number, names in enumerate((["norm.weight", "a.weight"], ["b.weight", "c.scalar"]), 1):
        name = f"model-{number:05}-of-00002.safetensors"
        save_file({n: tensors[n] for n in names}, sharded / name, {"format": "pt"})
        weight_map.update({n: name for n in names})
    index = {"metadata": {"total_size": 118}, "weight_map": weight_map}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()
