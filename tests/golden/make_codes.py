# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/codes.txt: what ml_dtypes (and numpy for f16) make of our float codes.

    python tests/golden/make_codes.py > tests/golden/codes.txt      # ml_dtypes 0.6.0, numpy

Per code, words on lines of their own kind (all numbers hexadecimal):
  code NAME
  values   f32 bits of every code, in the order of the codes (NaN as 7fc00000)
  middles  the codes of the middles between neighbouring finite values, lowest first
  random   LOW HIGH HASH: FNV-1a (64 bits) of the codes of 10^6 numbers inside the finite range
Codes of 16 bits have hashes instead of the values and middles. The random numbers: a 64-bit LCG,
state' = state * 6364136223846793005 + 1442695040888963407 from state 1; of its top 32 bits the
first draw gives sign and mantissa, the second draw modulo (HIGH - LOW + 1) the biased exponent
above LOW; then clamped to the finite range.
"""

import statistics

import ml_dtypes
import numpy as np

CODES = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2": ml_dtypes.float8_e5m2,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
}
BITS = {"e3m2": 6, "e2m3": 6, "e2m1": 4, "f16": 16, "bf16": 16}
N_RANDOM = 10**6


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def lcg(n):
    state, out = 1, np.empty(n, np.uint32)
    for i in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        out[i] = state >> 32
    return out


def encode(numbers, dtype, stored):
    return numbers.astype(np.float32).astype(dtype).view(stored)


def words(kind, numbers, width):
    line = kind
    for number in numbers:
        word = f" {number:0{width}x}"
        if len(line) + len(word) > 100:
            print(line)
            line = kind
        line += word
    print(line)


draws = lcg(2 * N_RANDOM)
print("# Made by tests/golden/make_codes.py with ml_dtypes", ml_dtypes.__version__)
for name, dtype in CODES.items():
    bits = BITS.get(name, 8)
    stored = np.uint16 if bits == 16 else np.uint8
    values = np.arange(1 << bits, dtype=stored).view(dtype).astype(np.float32)
    finite = np.unique(values[np.isfinite(values)])  # -0 and +0 are one
    middles = ((finite[:-1].astype(np.float64) + finite[1:]) / 2).astype(np.float32)
    middle_codes = encode(middles, dtype, stored)
    value_bits = values.view(np.uint32).copy()
    value_bits[np.isnan(values)] = 0x7FC00000
    print("code", name)
    if bits == 16:
        words("values_hash", [fnv(value_bits.tobytes())], 16)
        words("middles_hash", [fnv(middle_codes.tobytes())], 16)
    else:
        words("values", value_bits, 8)
        words("middles", middle_codes, 2)
    exponents = np.abs(finite[finite != 0]).view(np.uint32) >> 23
    low, high = max(int(exponents.min()) - 3, 0), int(exponents.max())
    if name == "e8m0":  # ml_dtypes rounds all of (2^-127, 2^-126) up, its nearer half too: left out
        low = 1
    random_bits = (draws[0::2] & np.uint32(0x807FFFFF)) | (
        (low + draws[1::2] % np.uint32(high - low + 1)).astype(np.uint32) << np.uint32(23))
    numbers = np.clip(random_bits.view(np.float32), finite[0], finite[-1])
    print(f"random {low:x} {high:x} {fnv(encode(numbers, dtype, stored).tobytes()):016x}")

# nf4 by its definition (QLoRA, appendix): quantiles of the normal distribution at evenly spaced
# probabilities, eight above zero and seven below, zero itself, divided by the largest. The published
# numbers come from f32 probabilities, each half of them counted from its own end.
def spaced(first, last, n):
    first, last = np.float32(first), np.float32(last)
    step = np.float32((last - first) / np.float32(n - 1))
    return [first + step * np.float32(i) if i < n // 2 else last - step * np.float32(n - 1 - i)
            for i in range(n)]


quantile = statistics.NormalDist().inv_cdf
offset = 0.9677083
above = [quantile(float(p)) for p in spaced(offset, 0.5, 9)[:-1]]
below = [-quantile(float(p)) for p in spaced(offset, 0.5, 8)[:-1]]
nf4 = np.array(sorted([*above, 0.0, *below])).astype(np.float32)
nf4 = nf4 / nf4.max()
print("code nf4")
words("values", nf4.view(np.uint32), 8)
