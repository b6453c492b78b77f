// SPDX-License-Identifier: Apache-2.0
// Our own exp, log, tanh, sin, cos and pow. glibc picks its versions by CPU, so their bits differ
// from machine to machine; these use only add, sub, mul, div, fma and integer operations on the
// exponent, in one fixed order. The f32 functions are what every SIMD body repeats lane by lane
// from the same constants; the f64 ones fill rope tables and are called rarely. Bounds are relative
// to the true value and tested against long double over a dense grid.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace lowbit::math {

constexpr float fma(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
constexpr double fma(double a, double b, double c) {
  return __builtin_fma(a, b, c);
}

/// exp(x) = 2^n e^f, n = round(x / ln 2), |f| <= ln2 / 2, e^f = 1 + f + f^2 P(f). P is a minimax
/// fit (3.1e-9 relative); ln 2 is split so that n * ln2_high is exact.
struct ExpConstants {
  static constexpr float lowest = -0x1.5d589ep+6f;  // -87.336: below, the result would be subnormal
  static constexpr float highest = 0x1.62e42ep+6f;  // 88.7228: above, the result would be infinite
  static constexpr float log2_e = 0x1.715476p+0f;
  static constexpr float ln2_high = 0x1.62ep-1f, ln2_low = 0x1.0bfbe8p-15f;
  static constexpr float round_magic = 0x1.8p+23f;  // adding it leaves round(x) in the low bits
  static constexpr int mantissa_bits = 23;
  static constexpr float c2 = 0x1.fffffcp-2f, c3 = 0x1.555492p-3f, c4 = 0x1.5558f2p-5f,
                         c5 = 0x1.1239e2p-7f, c6 = 0x1.6a2434p-10f;
};
inline constexpr double exp_bound = 1.2e-7;

/// e^x within exp_bound; 0 below ExpConstants::lowest, infinity above highest, NaN for NaN.
constexpr float exp(float x) {
  using C = ExpConstants;
  if (x < C::lowest) return 0.0f;
  if (x > C::highest) return std::numeric_limits<float>::infinity();
  const float shifted = fma(x, C::log2_e, C::round_magic);
  const float n = shifted - C::round_magic;
  float f = fma(n, -C::ln2_high, x);
  f = fma(n, -C::ln2_low, f);
  float p = C::c6;
  p = fma(p, f, C::c5);
  p = fma(p, f, C::c4);
  p = fma(p, f, C::c3);
  p = fma(p, f, C::c2);
  p = fma(p, f, 1.0f);
  p = fma(p, f, 1.0f);
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(shifted) << C::mantissa_bits;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) + exponent);
}

/// log(x) within 3e-7; -infinity for 0, NaN below, subnormals included.
float log(float x);

/// tanh(x) within 3e-7.
float tanh(float x);

/// e^x, natural logarithm within 1e-15 |result| (plus 1e-16 near log(1)). exp is 0 below -708 and
/// infinite above 709.
double exp(double x);
double log(double x);

/// 2^x and log2(x); the same ranges as exp and log.
double exp2(double x);
double log2(double x);

/// base^exponent for base > 0, within 1e-15 (2 + |exponent * log2(base)|): rope frequencies.
double pow(double base, double exponent);

/// For |x| <= 2^24, absolute error below 2e-16: positions up to 2^20 times frequencies up to 16.
double sin(double x);
double cos(double x);

}  // namespace lowbit::math
