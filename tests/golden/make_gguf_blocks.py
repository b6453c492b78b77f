#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes gguf_blocks.bin: random blocks of every GGUF block type and the numbers they mean.

The numbers come from the `gguf` package (0.19.0); for q1_0 and stq1_0, which it cannot decode, from
numpy code written here from the description of the format. Scale bytes are drawn from valid codes
(e8m0 < 255, ue4m3 < 0x7f), f16 scales from all bits, infinities and NaN included.

Records: u32 type, u32 bytes, u32 numbers, the bytes, the numbers as f32.
"""
import pathlib
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

N_BLOCKS = 4
SEED = 20260725


def decode_q1_0(blocks):
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little")
    return d * np.where(bits == 1, np.float32(1), np.float32(-1))


def decode_stq1_0(blocks):
    """32 nibbles of (zero lane, two relative signs), 64 signs, d; 4 consecutive numbers each."""
    d = blocks[:, 40:42].copy().view(np.float16).astype(np.float32)
    nibbles = np.stack([blocks[:, :32] & 15, blocks[:, :32] >> 4], axis=2).reshape(-1, 64)
    signs = np.unpackbits(blocks[:, 32:40], axis=1, bitorder="little")
    # Two bits per lane, lane 0 lowest: 0 is -1, 1 is 0, 2 is +1.
    codebook = bytes.fromhex(
        "A9892909A6862606" "9A921A126A624A42" "012181A1042484A4" "1018909840486068")
    index = signs.astype(int) << 4 | nibbles
    lanes = np.frombuffer(codebook, np.uint8)[index]
    values = np.stack([(lanes >> 2 * lane & 3).astype(np.float32) - 1 for lane in range(4)], axis=2)
    return d * values.reshape(-1, 256)


def main():
    rng = np.random.default_rng(SEED)
    np.seterr(all="ignore")
    own = {41: (18, decode_q1_0), 42: (42, decode_stq1_0)}
    types = sorted({int(t) for t in quants._type_traits} | {0, 1} | set(own))
    with open(pathlib.Path(__file__).parent / "gguf_blocks.bin", "wb") as out:
        for number in types:
            if number in own:
                n_bytes, decode = own[number]
            else:
                kind = GGMLQuantizationType(number)
                n_bytes = GGML_QUANT_SIZES[kind][1]
                decode = lambda b, kind=kind: quants.dequantize(b, kind)
            blocks = rng.integers(0, 256, (N_BLOCKS, n_bytes), dtype=np.uint8)
            if number == 39:
                blocks[:, 0] = rng.integers(0, 255, N_BLOCKS)
            if number == 40:
                blocks[:, :4] = rng.integers(0, 0x7F, (N_BLOCKS, 4))
            if number in (0, 1, 30):
                numbers = blocks.view({0: np.float32, 1: np.float16}.get(number, np.uint16))
                if number == 30:
                    numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
            else:
                numbers = decode(blocks)
            numbers = np.ascontiguousarray(numbers, np.float32).reshape(-1)
            out.write(struct.pack("<III", number, blocks.size, numbers.size))
            out.write(blocks.tobytes())
            out.write(numbers.tobytes())


if __name__ == "__main__":
    main()
