#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes small GGUF files with the `gguf` package (0.19.0) into gguf/, for the tests of our reader.

every_type.gguf   version 3, every metadata type, tensors of one to three dimensions
aligned.gguf      alignment 64
version2.gguf     the same bytes as every_type.gguf but for the version
split-0000N-of-00003.gguf
Number i of a tensor is (i % 17 - 8) / 4, which f16 holds exactly and q8_0 nearly.
"""
import pathlib

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, quants

FOLDER = pathlib.Path(__file__).parent / "gguf"


def numbers(*shape):
    return ((np.arange(np.prod(shape)) % 17 - 8) / 4).astype(np.float32).reshape(shape)


def add_tensors(writer):
    writer.add_tensor("vector", numbers(5))
    writer.add_tensor("matrix.f16", numbers(3, 7).astype(np.float16))
    for name, kind, shape in (("matrix.q8_0", GGMLQuantizationType.Q8_0, (3, 64)),
                              ("cube.q4_1", GGMLQuantizationType.Q4_1, (2, 3, 32))):
        writer.add_tensor(name, quants.quantize(numbers(*shape), kind), raw_dtype=kind)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def every_type():
    writer = GGUFWriter(FOLDER / "every_type.gguf", "llama")
    for name, value in (("uint8", 200), ("int8", -100), ("uint16", 60000), ("int16", -30000),
                        ("uint32", 4000000000), ("int32", -2000000000),
                        ("uint64", 1 << 63), ("int64", -(1 << 62)),
                        ("float32", 0.1), ("float64", 0.1), ("bool", True)):
        getattr(writer, "add_" + name)("test." + name, value)
    writer.add_string("test.string", "grüße, 世界")
    writer.add_array("test.strings", ["a", "", "b c"])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.5, -1.25])
    writer.add_array("test.bools", [True, False])
    writer.add_key_value("test.bytes", [1, 2, 255], GGUFValueType.ARRAY, GGUFValueType.UINT8)
    add_tensors(writer)
    finish(writer)


def aligned():
    writer = GGUFWriter(FOLDER / "aligned.gguf", "llama")
    writer.add_custom_alignment(64)
    add_tensors(writer)
    finish(writer)


def split():
    writer = GGUFWriter(FOLDER / "split.gguf", "llama", split_max_tensors=2)
    writer.add_uint32("test.uint32", 7)
    add_tensors(writer)
    writer.add_tensor("last", numbers(4))
    finish(writer)


def main():
    FOLDER.mkdir(exist_ok=True)
    every_type()
    aligned()
    split()
    data = bytearray((FOLDER / "every_type.gguf").read_bytes())
    data[4] = 2
    (FOLDER / "version2.gguf").write_bytes(data)


if __name__ == "__main__":
    main()
