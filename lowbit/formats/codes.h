// SPDX-License-Identifier: Apache-2.0
// THE list of codes. A new scalar format is one row: its generator and its name. Everything else
// (decoding, nearest values, tests, the command line's names, docs/formats.md) follows from the
// row. The grids of the iq types are facts of their format and live in grids.cc.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string_view>

#include "lowbit/formats/code.h"
#include "lowbit/formats/tables.h"

namespace lowbit::tables {

// (rows, dim) row-major, made in grids.cc. iq2, iq3: magnitudes, the signs are bits of the code;
// iq1: the grid twice, its numbers plus 1/8 and minus 1/8.
extern const std::array<float, 256 * 8> iq2_xxs_grid;
extern const std::array<float, 512 * 8> iq2_xs_grid;
extern const std::array<float, 1024 * 8> iq2_s_grid;
extern const std::array<float, 256 * 4> iq3_xxs_grid;
extern const std::array<float, 512 * 4> iq3_s_grid;
extern const std::array<float, 2 * 2048 * 8> iq1_grid;

}  // namespace lowbit::tables

namespace lowbit::codes {

/// One static table per generator, shared by all translation units.
template <auto kMake>
inline constexpr auto table = kMake();

/// A code of dim numbers per row of the table.
template <auto kMake, int kDim = 1>
constexpr Code from_table(std::string_view name, std::uint32_t (*encoder)(float) = nullptr) {
  constexpr int bits = std::countr_zero(table<kMake>.size() / kDim);
  return {name, bits, bits, kDim, 0, table<kMake>, nullptr, encoder};
}

/// A code whose top dim bits negate the numbers of a grid of magnitudes.
constexpr Code signed_grid(std::string_view name, int dim, std::span<const float> grid,
                           int even_signs = 0) {
  const int index_bits = std::countr_zero(grid.size() / static_cast<std::size_t>(dim));
  return {name, index_bits + dim, index_bits + dim, dim, dim, grid, nullptr, nullptr, even_signs};
}

/// A family of learned codes: kBits for kDim numbers.
template <int kBits, int kDim>
constexpr Code learned(std::string_view name) {
  Code code = from_table<tables::product_of_levels<kBits, kDim>, kDim>(name);
  code.is_learned = true;
  return code;
}

constexpr void f32_value(std::uint32_t bits, float* out) {
  *out = std::bit_cast<float>(bits);
}
constexpr void f16_value(std::uint32_t bits, float* out) {
  *out = half_to_float(static_cast<std::uint16_t>(bits));
}
constexpr void bf16_value(std::uint32_t bits, float* out) {
  *out = bfloat_to_float(static_cast<std::uint16_t>(bits));
}

constexpr std::uint32_t f32_code(float value) {
  return std::bit_cast<std::uint32_t>(value);
}

/// A finite number that would round to infinity becomes the largest finite one.
constexpr std::uint32_t saturated(std::uint32_t code, std::uint32_t infinity, float value) {
  const bool finite = value - value == 0;
  return finite && (code & infinity) == infinity ? code - 1 : code;
}
constexpr std::uint32_t f16_code(float value) {
  return saturated(float_to_half(value), 0x7c00u, value);
}
constexpr std::uint32_t bf16_code(float value) {
  return saturated(float_to_bfloat(value), 0x7f80u, value);
}

/// The sign bit of a number that may be 0: 0 is +1.
constexpr std::uint32_t binary_code(float value) {
  return value < 0 ? 0u : 1u;
}

/// Code 3 of ternary is read as 2 and never written; ties go to +-1.
constexpr std::uint32_t ternary_code(float value) {
  return value >= 0.5f ? 2u : value <= -0.5f ? 0u : 1u;
}

/// Ties go up: there is no mantissa that could be even. Nothing at or below 0 has a code.
constexpr std::uint32_t e8m0_code(float value) {
  constexpr std::uint32_t nan_code = 255;
  if (value != value) return nan_code;
  if (!(value > 0x1.8p-127f)) return value == 0x1.8p-127f ? 1 : 0;
  const std::uint32_t rounded = (std::bit_cast<std::uint32_t>(value) + 0x400000u) >> 23;
  return rounded < nan_code ? rounded : nan_code - 1;
}

/// Rounded as e4m3; the codes from 0x7f on (no number, or the same number again) are never written.
constexpr std::uint32_t ue4m3_code(float value) {
  constexpr std::uint32_t largest_code = 0x7e;
  constexpr float largest = 448, least_normal = 0x1p-6f, least = 0x1p-9f;
  if (!(value > 0)) return 0;
  if (value >= largest) return largest_code;
  if (value < least_normal) {  // adding 1.5 * 2^23 leaves the nearest integer, ties to even
    constexpr float magic = 0x1.8p23f;
    return std::bit_cast<std::uint32_t>(value / least + magic) -
           std::bit_cast<std::uint32_t>(magic);
  }
  constexpr int dropped_bits = 23 - 3;
  constexpr std::uint32_t exponent_offset = (127 - 7) << 3;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t half_less_one = (1u << (dropped_bits - 1)) - 1;
  return ((bits + half_less_one + (bits >> dropped_bits & 1u)) >> dropped_bits) - exponent_offset;
}

// clang-format off
inline constexpr std::array list{
    // Integers: value = code - 2^(N-1), value = code.
    from_table<tables::integers<1, -1>>("int1"),
    from_table<tables::integers<2, -2>>("int2"),
    from_table<tables::integers<3, -4>>("int3"),
    from_table<tables::integers<4, -8>>("int4"),
    from_table<tables::integers<5, -16>>("int5"),
    from_table<tables::integers<6, -32>>("int6"),
    from_table<tables::integers<7, -64>>("int7"),
    from_table<tables::integers<8, -128>>("int8"),
    from_table<tables::integers<1, 0>>("uint1"),
    from_table<tables::integers<2, 0>>("uint2"),
    from_table<tables::integers<3, 0>>("uint3"),
    from_table<tables::integers<4, 0>>("uint4"),
    from_table<tables::integers<5, 0>>("uint5"),
    from_table<tables::integers<6, 0>>("uint6"),
    from_table<tables::integers<7, 0>>("uint7"),
    from_table<tables::integers<8, 0>>("uint8"),
    from_table<tables::affine<8, -128, 1, 64>>("mxint8"),
    // Small floats.
    from_table<tables::minifloats<4, 3, tables::Top::nan>>("e4m3"),
    from_table<tables::minifloats<4, 3, tables::Top::fnuz, 8>>("e4m3fnuz"),
    from_table<tables::minifloats<5, 2, tables::Top::ieee>>("e5m2"),
    from_table<tables::minifloats<3, 2, tables::Top::finite>>("e3m2"),
    from_table<tables::minifloats<2, 3, tables::Top::finite>>("e2m3"),
    from_table<tables::minifloats<2, 1, tables::Top::finite>>("e2m1"),
    from_table<tables::powers_of_two>("e8m0", e8m0_code),
    from_table<tables::unsigned_e4m3>("ue4m3", ue4m3_code),
    // Lists of numbers.
    from_table<tables::normal_quantiles>("nf4"),
    from_table<tables::iq4_levels>("iq4_nl"),
    // One and two levels.
    from_table<tables::plus_minus_one>("binary", binary_code),
    from_table<tables::integers<2, -1>>("ternary", ternary_code),
    from_table<tables::sparse_ternary, 4>("sparse_ternary"),
    // Grids.
    signed_grid("iq2_xxs", 8, tables::iq2_xxs_grid, 8),
    signed_grid("iq2_xs", 8, tables::iq2_xs_grid, 8),
    signed_grid("iq2_s", 8, tables::iq2_s_grid),
    signed_grid("iq3_xxs", 4, tables::iq3_xxs_grid, 8),
    signed_grid("iq3_s", 4, tables::iq3_s_grid),
    Code{"iq1", 12, 12, 8, 0, tables::iq1_grid},
    // Learned for each tensor.
    learned<2, 1>("lut2"),
    learned<3, 1>("lut3"),
    learned<4, 1>("lut4"),
    learned<4, 2>("vq4x2"),
    learned<6, 2>("vq6x2"),
    learned<8, 2>("vq8x2"),
    learned<8, 4>("vq8x4"),
    // Scales of the iq types: (s + 1/2) / 4, (s + 1/2) / 2, 2 s + 1.
    from_table<tables::affine<4, 1, 2, 8>>("half_odd4"),
    from_table<tables::affine<4, 1, 2, 4>>("half_odd4_2"),
    from_table<tables::affine<3, 1, 2, 1>>("odd3"),
    from_table<tables::affine<4, 1, 2, 1>>("odd4"),
    // Plain floats.
    Code{"f32", 32, 32, 1, 0, {}, f32_value, f32_code},
    Code{"f16", 16, 16, 1, 0, {}, f16_value, f16_code},
    Code{"bf16", 16, 16, 1, 0, {}, bf16_value, bf16_code},
};
// clang-format on

/// The row of that name, at compile time: `codes::named("int4")`; a wrong name does not compile.
consteval const Code& named(std::string_view name) {
  for (const Code& code : list) {
    if (code.name == name) return code;
  }
  throw "no code has this name";
}

/// The row of that name, or null.
const Code* find(std::string_view name);

}  // namespace lowbit::codes
