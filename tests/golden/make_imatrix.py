#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes small importance matrices into imatrix/, for the tests of our reader: three.gguf with the
`gguf` package (0.19.0), three.dat with `struct`, both with the same contents in llama-imatrix's
forms (the facts are from its tools/imatrix and common/imatrix-loader).

Entry k has the mean squares (i + 1) * 2^k / 4, over 1024 tokens; `experts` has two experts, the
second of which saw no token.
"""
import pathlib
import struct

import numpy as np
from gguf import GGUFWriter

FOLDER = pathlib.Path(__file__).parent / "imatrix"
NAMES = ("blk.0.attn_q.weight", "blk.0.ffn_down.weight")
N_TOKENS, CHUNK = 1024, 512


def means(k):
    return (np.arange(8 * (k + 1)) + 1).astype(np.float32) * 2**k / 4


def main():
    FOLDER.mkdir(exist_ok=True)
    writer = GGUFWriter(FOLDER / "three.gguf", "unused")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["first.txt", "second.txt"])
    writer.add_uint32("imatrix.chunk_count", N_TOKENS // CHUNK)
    writer.add_uint32("imatrix.chunk_size", CHUNK)
    for k, name in enumerate(NAMES):
        writer.add_tensor(name + ".in_sum2", means(k) * N_TOKENS)
        writer.add_tensor(name + ".counts", np.array([N_TOKENS], dtype=np.float32))
    experts = np.stack([means(0) * 100, np.zeros(8, dtype=np.float32)])
    writer.add_tensor("experts.in_sum2", experts)
    writer.add_tensor("experts.counts", np.array([[100], [0]], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    out = struct.pack("<i", 3)
    for name, values in ((NAMES[0], means(0)), (NAMES[1], means(1)),
                         ("experts", np.concatenate([means(0), np.ones(8)]))):
        n_chunks = 1 if name == "experts" else N_TOKENS // CHUNK
        out += struct.pack("<i", len(name)) + name.encode()
        out += struct.pack("<ii", n_chunks, len(values))
        out += (values * n_chunks).astype("<f4").tobytes()
    dataset = b"second.txt"
    out += struct.pack("<ii", N_TOKENS // CHUNK, len(dataset)) + dataset
    (FOLDER / "three.dat").write_bytes(out)


if __name__ == "__main__":
    main()
