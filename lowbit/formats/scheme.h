// SPDX-License-Identifier: Apache-2.0
// A scheme is the axes of quantization as a value: the code (bit width and representation), the
// group (granularity), the zero (symmetry) and the precision of the scales, which are themselves a
// matrix in a scheme. q4_k, nvfp4 and double quantization need no words of their own.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "lowbit/base/result.h"
#include "lowbit/formats/code.h"

namespace lowbit {

/// The numbers that share a scale (and a zero): {1, 32} 32 along a row, {1, 0} a row, {128, 128} a
/// block, {0, 0} the tensor; 0 means the whole extent.
struct Group {
  int rows = 1, cols = 0;
  bool operator==(const Group&) const = default;
};

/// code: w = scale * (v - zero).  weight: w = scale * v + zero.
enum class ZeroUnit : std::uint8_t { code, weight };

struct Scheme {
  std::string_view
      name;  // the alias it was asked for by, empty where there is none; never compared
  CodePtr code;
  Group group{};
  const Scheme* scale = nullptr;  // scheme of the matrix of scales; null: every scale is 1
  const Scheme* zero = nullptr;   // scheme of the matrix of zeros; null: every zero is 0
  ZeroUnit zero_unit = ZeroUnit::code;
  // The codes written in one group have one top bit: GGUF's iq1_s stores one delta a group. Never
  // compared: reading knows no such rule.
  bool one_top_bit = false;
};

/// Structure decides, names never: q4_0 is int4.g32, mxfp4 is e2m1.g32.e8m0.
bool operator==(const Scheme& a, const Scheme& b);

/// THE list of named schemes, in the order of docs/formats.md.
std::span<const Scheme> named_schemes();

/// A named scheme, or
/// code[.gN|.blockN|.channel|.token|.tensor][.asym|.offset|.zero][.f16|.bf16|.f32|.e8m0]. Default:
/// whole row, symmetric, f16 scales. Errors name the word that is not understood and list what
/// would be.
Result<Scheme> parse_scheme(std::string_view text);

/// The alias it was asked for by, else the first alias of its structure, else the spelled-out form;
/// parse_scheme(to_string(s)) == s for whatever parse_scheme and named_schemes give. The matrices
/// of scales inside nested schemes have names for people only.
std::string to_string(const Scheme& scheme);

/// Whether the scheme is a plain float (f32, f16, bf16): no scale, no group.
bool is_plain_float(const Scheme& scheme);

/// What the row length K of a matrix must be a multiple of in every container: the super-block of
/// two-level scales (256 for the K and iq types), the block of mx and nvfp4, the vector of a vector
/// code, else 1: other groups may be short at the end of a row. A container may ask for more (GGUF
/// asks for whole blocks of every type).
std::int64_t required_multiple(const Scheme& scheme);

/// Bits per number in planar form for a (rows, cols) matrix, scales and zeros included.
double planar_bits_per_weight(const Scheme& scheme, std::int64_t rows, std::int64_t cols);

}  // namespace lowbit
