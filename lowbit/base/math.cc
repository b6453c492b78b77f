// SPDX-License-Identifier: Apache-2.0
// Polynomials are Taylor series wherever the interval is small enough for one (f64), minimax fits
// for f32. Horner steps in f64 are a multiply and an add: without an fma instruction in the
// baseline the library call would cost more than it gains; fma stays where argument reduction needs
// it.
#include "lowbit/base/math.h"

#include <array>
#include <cstddef>

namespace lowbit::math {
namespace {

constexpr float infinity_f = std::numeric_limits<float>::infinity();
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// Horner, highest coefficient last.
template <class Real, std::size_t n>
constexpr Real polynomial(const std::array<Real, n>& c, Real x) {
  Real sum = c[n - 1];
  for (std::size_t i = n - 1; i-- > 0;) sum = sum * x + c[i];
  return sum;
}

constexpr double factorial(int n) {
  return n <= 1 ? 1.0 : n * factorial(n - 1);
}

/// x = m 2^exponent with m in [sqrt(1/2), sqrt(2)); x > 0 and normal.
struct Split {
  double m;
  double exponent;
};
constexpr Split split(double x) {
  constexpr std::uint64_t sqrt_half_bits = std::bit_cast<std::uint64_t>(0x1.6a09e667f3bcdp-1);
  constexpr int mantissa_bits = 52;
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  const auto exponent = static_cast<std::int64_t>(bits - sqrt_half_bits) >> mantissa_bits;
  return {std::bit_cast<double>(bits - (static_cast<std::uint64_t>(exponent) << mantissa_bits)),
          static_cast<double>(exponent)};
}

/// log(m) = 2 atanh(z) = 2 (z + z^3/3 + z^5/5 + ...), z = (m - 1) / (m + 1), |z| <= 0.1716: the
/// first term left out is below 2e-19.
constexpr double log_of_mantissa(double m) {
  constexpr std::array<double, 10> c{2.0 / 3,  2.0 / 5,  2.0 / 7,  2.0 / 9,  2.0 / 11,
                                     2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21};
  const double z = (m - 1.0) / (m + 1.0);
  const double w = z * z;
  return 2.0 * z + z * w * polynomial(c, w);
}

/// Moves subnormals into the normal range. shift: what to add to the exponent found.
constexpr double normalized(double x, double& shift) {
  constexpr double up = 0x1p+54;
  shift = x < std::numeric_limits<double>::min() ? -54.0 : 0.0;
  return shift < 0 ? x * up : x;
}

/// log of 0, below 0, infinity and NaN; nothing for the rest.
constexpr bool log_is_special(double x, double& result) {
  if (x > 0 && x < infinity) return false;
  result = x == 0 ? -infinity : x > 0 || x != x ? x : not_a_number;
  return true;
}

constexpr double ln2_high = 0x1.62e42fefa38p-1, ln2_low = 0x1.ef35793c7673p-45;
constexpr double log2_e_high = 0x1.71547652b82fep+0, log2_e_low = 0x1.777d0ffda0d24p-56;
constexpr double round_magic = 0x1.8p+52;  // adding it leaves round(x) in the low bits

/// 2^n e^f, |f| <= 0.35: Taylor up to f^13 leaves out less than 5e-18.
constexpr double scaled_exp(double f, double n) {
  constexpr std::array<double, 13> c{1.0,
                                     1.0 / factorial(2),
                                     1.0 / factorial(3),
                                     1.0 / factorial(4),
                                     1.0 / factorial(5),
                                     1.0 / factorial(6),
                                     1.0 / factorial(7),
                                     1.0 / factorial(8),
                                     1.0 / factorial(9),
                                     1.0 / factorial(10),
                                     1.0 / factorial(11),
                                     1.0 / factorial(12),
                                     1.0 / factorial(13)};
  const double p = 1.0 + f * polynomial(c, f);
  const auto exponent = static_cast<std::uint64_t>(static_cast<std::int64_t>(n)) << 52;
  return std::bit_cast<double>(std::bit_cast<std::uint64_t>(p) + exponent);
}

constexpr double lowest_exp = -708.0, highest_exp = 709.0;
constexpr double lowest_exp2 = -1021.0, highest_exp2 = 1023.0;

/// x = quadrant * pi/2 + rest. pi/2 in three doubles: with |quadrant| < 2^24 the products by fma
/// lose less than 2^24 * 2^-160.
struct Quadrant {
  double rest;
  int index;  // 0..3
};
Quadrant reduce(double x) {
  constexpr double two_over_pi = 0x1.45f306dc9c883p-1;
  constexpr double high = 0x1.921fb54442d18p+0, middle = 0x1.1a62633145c07p-54,
                   low = -0x1.f1976b8p-110;
  const double n = (x * two_over_pi + round_magic) - round_magic;
  double rest = fma(-n, high, x);
  rest = fma(-n, middle, rest);
  rest = fma(-n, low, rest);
  return {rest, static_cast<int>(static_cast<std::int64_t>(n) & 3)};
}

/// |x| <= pi/4 (a little more): the terms left out are below 1e-19.
double sin_of_rest(double x) {
  constexpr std::array<double, 8> c{-1.0 / factorial(3),  1.0 / factorial(5),   -1.0 / factorial(7),
                                    1.0 / factorial(9),   -1.0 / factorial(11), 1.0 / factorial(13),
                                    -1.0 / factorial(15), 1.0 / factorial(17)};
  const double w = x * x;
  return x + x * w * polynomial(c, w);
}
double cos_of_rest(double x) {
  constexpr std::array<double, 8> c{1.0 / factorial(4),   -1.0 / factorial(6), 1.0 / factorial(8),
                                    -1.0 / factorial(10), 1.0 / factorial(12), -1.0 / factorial(14),
                                    1.0 / factorial(16),  -1.0 / factorial(18)};
  const double w = x * x;
  const double half = 0.5 * w;
  const double top = 1.0 - half;
  return top + (((1.0 - top) - half) + w * w * polynomial(c, w));
}

}  // namespace

float log(float x) {
  if (!(x > 0) || x == infinity_f) {
    return x == 0 ? -infinity_f : x > 0 || x != x ? x : std::numeric_limits<float>::quiet_NaN();
  }
  constexpr std::uint32_t sqrt_half_bits = std::bit_cast<std::uint32_t>(0x1.6a09e6p-1f);
  constexpr std::array<float, 4> c{0x1.555556p-1f, 0x1.9999ecp-2f, 0x1.245c0cp-2f, 0x1.ddd8c8p-3f};
  constexpr float ln2_high_f = 0x1.62ep-1f, ln2_low_f = 0x1.0bfbe8p-15f;
  constexpr float up = 0x1p+24f;
  const bool is_subnormal = x < std::numeric_limits<float>::min();
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(is_subnormal ? x * up : x);
  const std::int32_t exponent = static_cast<std::int32_t>(bits - sqrt_half_bits) >> 23;
  const float m = std::bit_cast<float>(bits - (static_cast<std::uint32_t>(exponent) << 23));
  const float n = static_cast<float>(exponent - (is_subnormal ? 24 : 0));
  const float z = (m - 1.0f) / (m + 1.0f);
  const float w = z * z;
  const float tail = fma(z * w, polynomial(c, w), n * ln2_low_f);
  return fma(n, ln2_high_f, fma(2.0f, z, tail));
}

float tanh(float x) {
  constexpr float small = 0.625f;
  constexpr std::array<float, 5> c{-0x1.555552p-2f, 0x1.110e3ep-3f, -0x1.b92c2cp-5f, 0x1.583aacp-6f,
                                   -0x1.90a25cp-8f};
  const float magnitude = x < 0 ? -x : x;
  if (!(magnitude >= small)) {  // NaN too
    const float w = x * x;
    return fma(x * w, polynomial(c, w), x);
  }
  const float result = 1.0f - 2.0f / (exp(2.0f * magnitude) + 1.0f);
  return x < 0 ? -result : result;
}

double exp(double x) {
  if (x < lowest_exp) return 0.0;
  if (x > highest_exp) return infinity;
  if (x != x) return x;
  const double n = (x * log2_e_high + round_magic) - round_magic;
  return scaled_exp(fma(n, -ln2_low, fma(n, -ln2_high, x)), n);
}

double exp2(double x) {
  if (x < lowest_exp2) return 0.0;
  if (x > highest_exp2) return infinity;
  if (x != x) return x;
  const double n = (x + round_magic) - round_magic;
  const double f = x - n;  // exact
  return scaled_exp(fma(f, ln2_high, f * ln2_low), n);
}

double log(double x) {
  double result = 0, shift = 0;
  if (log_is_special(x, result)) return result;
  const Split parts = split(normalized(x, shift));
  const double n = parts.exponent + shift;
  return fma(n, ln2_high, fma(n, ln2_low, log_of_mantissa(parts.m)));
}

double log2(double x) {
  double result = 0, shift = 0;
  if (log_is_special(x, result)) return result;
  const Split parts = split(normalized(x, shift));
  const double l = log_of_mantissa(parts.m);
  return fma(l, log2_e_high, fma(l, log2_e_low, parts.exponent + shift));
}

double pow(double base, double exponent) {
  return exp2(exponent * log2(base));
}

double sin(double x) {
  const Quadrant q = reduce(x);
  const double value = (q.index & 1) == 0 ? sin_of_rest(q.rest) : cos_of_rest(q.rest);
  return (q.index & 2) == 0 ? value : -value;
}

double cos(double x) {
  const Quadrant q = reduce(x);
  const double value = (q.index & 1) == 0 ? cos_of_rest(q.rest) : sin_of_rest(q.rest);
  return q.index == 1 || q.index == 2 ? -value : value;
}

}  // namespace lowbit::math
