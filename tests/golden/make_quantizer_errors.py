#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes quantizer/errors.txt: the squared error that the peer's own quantizer (llama.cpp, release
in scripts/fetch) leaves on stated matrices, type by type; and quantizer/real.f16, the one matrix that
no formula makes: rows of ffn_down of the reference model.

A line is `MATRIX WEIGHTING TYPE ERROR`: sum of weight x (w - decoded)^2 over the matrix. With weights,
both sides are given them (the peer as its importance matrix). Without, the peer runs both without
an importance matrix and with one of ones, and the lower error counts.
lowbit/quant/quantizer_peer_test.cc makes the same matrices from the same counters.

Run: make_quantizer_errors.py libggml-base.so SmolLM2-135M-Instruct-dithered.gguf
"""
import ctypes
import pathlib
import sys

import gguf
import numpy as np

ROWS, COLS = 16, 1536
TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_k": 10, "q3_k": 11, "q4_k": 12,
         "q5_k": 13, "q6_k": 14, "iq4_nl": 20, "iq4_xs": 23, "tq1_0": 34, "tq2_0": 35, "mxfp4": 39,
         "nvfp4": 40, "q1_0": 41, "iq2_xxs": 16, "iq2_xs": 17, "iq2_s": 22, "iq3_xxs": 18, "iq3_s": 21,
         "iq1_s": 19, "iq1_m": 29}
REAL_TENSORS = [f"blk.{layer}.ffn_down.weight" for layer in (0, 9, 19, 29)]


def uniforms(seed, n):
    """splitmix64 of the counters seed + 1 .. seed + n, as numbers in [0, 1)."""
    z = (np.arange(1, n + 1, dtype=np.uint64) + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(seed, n):
    """Sums of 12 uniforms, less 6: deviation 1, and no library's logarithm decides a bit."""
    u = uniforms(seed, 12 * n).reshape(n, 12)
    total = np.zeros(n)
    for k in range(12):
        total += u[:, k]
    return total - 6.0


def gaussian():
    return (normals(1 << 32, ROWS * COLS) * 0.02).astype(np.float32).reshape(ROWS, COLS)


def heavy():
    """Student's t with 4 degrees of freedom."""
    n = ROWS * COLS
    z = normals(2 << 32, 5 * n).reshape(n, 5)
    square = np.zeros(n)
    for k in range(1, 5):
        square += z[:, k] * z[:, k]
    return (z[:, 0] / np.sqrt(square / 4.0) * 0.02).astype(np.float32).reshape(ROWS, COLS)


def real(model, path):
    tensors = {t.name: t for t in gguf.GGUFReader(model).tensors}
    rows = []
    for name in REAL_TENSORS:
        t = tensors[name]
        values = gguf.dequantize(t.data, t.tensor_type)
        rows.append(values[:: values.shape[0] // 4][: ROWS // len(REAL_TENSORS)])
    half = np.concatenate(rows).astype("<f2")
    assert half.shape == (ROWS, COLS)
    half.tofile(path)
    return half.astype(np.float32)


def importance():
    """E[x_j^2] as it is: a few columns count fifty times as much as most."""
    return (1.0 / (uniforms(3 << 32, COLS) + 0.02)).astype(np.float32)


class TypeTraits(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("block", ctypes.c_int64), ("interleave", ctypes.c_int64),
                ("bytes", ctypes.c_size_t), ("is_quantized", ctypes.c_bool),
                ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64))]


class Peer:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
                                                 ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
                                                 ctypes.c_void_p]
        self.lib.ggml_row_size.restype = ctypes.c_size_t
        self.lib.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
        self.lib.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
        self.lib.ggml_quantize_init.argtypes = [ctypes.c_int]
        self.lib.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
        self.lib.ggml_quantize_requires_imatrix.restype = ctypes.c_bool

    def runs_without_weights(self, kind):
        return not self.lib.ggml_quantize_requires_imatrix(kind)

    def decoded(self, kind, w, weights):
        w = np.ascontiguousarray(w)
        rows, cols = w.shape
        self.lib.ggml_quantize_init(kind)
        out = np.zeros(rows * self.lib.ggml_row_size(kind, cols), np.uint8)
        n = self.lib.ggml_quantize_chunk(kind, w.ctypes.data, out.ctypes.data, 0, rows, cols,
                                         None if weights is None else weights.ctypes.data)
        assert n == out.size
        decoded = np.zeros(w.shape, np.float32)
        traits = self.lib.ggml_get_type_traits(kind).contents
        traits.to_float(out.ctypes.data, decoded.ctypes.data, w.size)
        return decoded


def main():
    folder = pathlib.Path(__file__).parent / "quantizer"
    folder.mkdir(exist_ok=True)
    peer = Peer(sys.argv[1])
    ones, weights = np.ones(COLS, np.float32), importance()
    lines = []
    matrices = (("gaussian", gaussian()), ("heavy", heavy()),
                ("real", real(sys.argv[2], folder / "real.f16")))
    for matrix, w in matrices:
        for name, kind in TYPES.items():
            def error(importance_matrix, scored_by):
                difference = w.astype(np.float64) - peer.decoded(kind, w, importance_matrix)
                return float((scored_by.astype(np.float64) * difference**2).sum())
            plain = error(ones, ones)
            if peer.runs_without_weights(kind):
                plain = min(plain, error(None, ones))
            lines.append(f"{matrix} plain {name} {plain:.9e}\n")
            lines.append(f"{matrix} weighted {name} {error(weights, weights):.9e}\n")
    (folder / "errors.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
