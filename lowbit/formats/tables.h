// SPDX-License-Identifier: Apache-2.0
// Constexpr generators of the tables behind the codes: a table is made by its rule, never typed by
// hand, unless the format itself is a list of numbers (nf4, iq4_nl; the grids of the iq types are
// in grids.cc). Every generator returns a std::array whose index is the code.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>

#include "lowbit/base/half.h"

namespace lowbit::tables {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

/// 2^exponent, exact, for -149 <= exponent <= 127.
constexpr float power_of_two(int exponent) {
  constexpr int smallest_normal = -126, smallest = -149, bias = 127, mantissa_bits = 23;
  return std::bit_cast<float>(exponent >= smallest_normal
                                  ? static_cast<std::uint32_t>(exponent + bias) << mantissa_bits
                                  : 1u << (exponent - smallest));
}

/// value = (first + step * code) / under; exact when under is a power of two.
template <int kBits, int kFirst, int kStep, int kUnder>
constexpr auto affine() {
  std::array<float, std::size_t{1} << kBits> table{};
  int numerator = kFirst;
  for (float& value : table) {
    value = static_cast<float>(numerator) / kUnder;
    numerator += kStep;
  }
  return table;
}

/// intN is kFirst = -2^(N-1), uintN is kFirst = 0: offset binary, whatever a container stores.
template <int kBits, int kFirst>
constexpr auto integers() {
  return affine<kBits, kFirst, 1, 1>();
}

/// What the codes at the top of a small float mean: all finite; the last one NaN; as IEEE (infinity
/// and NaNs); minus zero NaN ("fnuz").
enum class Top { finite, nan, ieee, fnuz };

template <int kExponent, int kMantissa, Top kTop, int kBias = (1 << (kExponent - 1)) - 1>
constexpr auto minifloats() {
  constexpr std::size_t n_positive = std::size_t{1} << (kExponent + kMantissa);
  std::array<float, 2 * n_positive> table{};
  for (std::size_t code = 0; code < n_positive; ++code) {
    const int mantissa = static_cast<int>(code) & ((1 << kMantissa) - 1);
    const int exponent = static_cast<int>(code) >> kMantissa;
    const bool top = exponent == (1 << kExponent) - 1;
    const int significand = exponent == 0 ? mantissa : mantissa + (1 << kMantissa);
    float value = static_cast<float>(significand) *
                  power_of_two((exponent == 0 ? 1 : exponent) - kBias - kMantissa);
    if (kTop == Top::nan && code == n_positive - 1) value = nan;
    if (kTop == Top::ieee && top) value = mantissa == 0 ? infinity : nan;
    table[code] = value;
    table[n_positive + code] = -value;
  }
  if (kTop == Top::fnuz) table[n_positive] = nan;
  return table;
}

/// e8m0: 2^(code - 127), the last one NaN.
constexpr auto powers_of_two() {
  std::array<float, 256> table{};
  constexpr int bias = 127;
  for (int code = 0; code < 255; ++code) {
    table[static_cast<std::size_t>(code)] = power_of_two(code - bias);
  }
  table.back() = nan;
  return table;
}

/// The scales of GGUF's nvfp4: e4m3 whose sign is ignored and whose code 0x7f is read as 0.
constexpr auto unsigned_e4m3() {
  auto table = minifloats<4, 3, Top::finite>();
  constexpr std::size_t n_positive = table.size() / 2;
  for (std::size_t code = 0; code < n_positive; ++code) table[n_positive + code] = table[code];
  table[n_positive - 1] = 0;
  return table;
}

constexpr auto plus_minus_one() {
  return std::array{-1.0f, 1.0f};
}

/// Quantiles of the normal distribution, scaled to [-1, 1], with an exact 0 (QLoRA).
constexpr auto normal_quantiles() {
  return std::array{-1.0f,
                    -0.6961928009986877f,
                    -0.5250730514526367f,
                    -0.39491748809814453f,
                    -0.28444138169288635f,
                    -0.18477343022823334f,
                    -0.09105003625154495f,
                    0.0f,
                    0.07958029955625534f,
                    0.16093020141124725f,
                    0.24611230194568634f,
                    0.33791524171829224f,
                    0.44070982933044434f,
                    0.5626170039176941f,
                    0.7229568362236023f,
                    1.0f};
}

/// The non-uniform 4-bit levels of GGUF's iq4_nl, iq4_xs.
constexpr auto iq4_levels() {
  return std::array<float, 16>{-127, -104, -83, -65, -49, -35, -22, -10,
                               1,    13,   25,  38,  53,  69,  89,  113};
}

/// Sparse ternary 3:4: one of 4 lanes is 0, the others are +-1. Code = minus << 4 | zero_lane << 2
/// | flips, where the first lane that is not zero has the sign `minus` and bit i of `flips` says
/// whether lane i + 1 of those differs from it.
constexpr auto sparse_ternary() {
  constexpr std::size_t n_codes = 32, n_lanes = 4;
  std::array<float, n_codes * n_lanes> table{};
  for (std::size_t code = 0; code < n_codes; ++code) {
    const float first = code >> 4 != 0 ? -1.0f : 1.0f;
    const std::size_t zero_lane = code >> 2 & 3;
    std::size_t flips = (code & 3) << 1;
    for (std::size_t lane = 0; lane < n_lanes; ++lane) {
      if (lane == zero_lane) continue;
      table[code * n_lanes + lane] = (flips & 1) != 0 ? -first : first;
      flips >>= 1;
    }
  }
  return table;
}

/// kBits for kDim numbers of kBits / kDim bits each: evenly spaced integers from -127 to 127, the
/// first number in the low bits.
template <int kBits, int kDim>
constexpr auto product_of_levels() {
  static_assert(kBits % kDim == 0);
  constexpr int bits = kBits / kDim, n_levels = 1 << bits, reach = 127;
  std::array<float, (std::size_t{1} << kBits) * kDim> table{};
  for (std::size_t i = 0; i < table.size(); ++i) {
    const int level = static_cast<int>(i / kDim >> (i % kDim * bits)) & (n_levels - 1);
    const int numerator = reach * (2 * level - (n_levels - 1));  // over n_levels - 1
    const int half = (n_levels - 1) / 2;
    table[i] = static_cast<float>((numerator + (numerator < 0 ? -half : half)) / (n_levels - 1));
  }
  return table;
}

/// The largest unit with every value == unit * k, k in [-128, 127]; 0 when there is none. Works on
/// value == odd * 2^exponent, so that nothing rounds.
constexpr float int8_unit(std::span<const float> values) {
  struct Dyadic {
    std::int64_t odd;
    int exponent;
  };
  constexpr auto dyadic = [](float value) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    const int biased = static_cast<int>(bits >> 23 & 0xffu);
    const std::uint32_t significand = (bits & 0x7fffffu) | (biased != 0 ? 0x800000u : 0u);
    const int zeros = std::countr_zero(significand);
    const std::int64_t odd = significand >> zeros;
    return Dyadic{bits >> 31 != 0 ? -odd : odd, (biased != 0 ? biased : 1) - 150 + zeros};
  };
  int grain = std::numeric_limits<int>::max();
  for (const float value : values) {
    if (!(value - value == 0)) return 0;  // NaN, infinity
    if (value != 0) grain = std::min(grain, dyadic(value).exponent);
  }
  std::int64_t divisor = 0, low = 0, high = 0;
  for (const float value : values) {
    if (value == 0) continue;
    const Dyadic d = dyadic(value);
    constexpr int widest = 30;  // more binary places apart than any two int8 numbers
    if (d.exponent - grain > widest) return 0;
    const std::int64_t k = d.odd * (std::int64_t{1} << (d.exponent - grain));
    divisor = std::gcd(divisor, k);
    low = std::min(low, k);
    high = std::max(high, k);
  }
  if (divisor == 0 || low < -128 * divisor || high > 127 * divisor) return 0;
  return static_cast<float>(divisor) * power_of_two(grain);
}

}  // namespace lowbit::tables
