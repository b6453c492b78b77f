// SPDX-License-Identifier: Apache-2.0
// The truth is the C library in long double (64 bits of mantissa), which may be used here and
// nowhere on the token path.
#include "lowbit/base/math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace lowbit {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
static_assert(math::exp(0.0f) == 1.0f && math::exp(-1000.0f) == 0.0f);

/// Largest relative error of ours against truth over every `step`-th float in [first, last], both
/// of one sign. A prime step visits all mantissas.
template <class Ours, class Truth>
double worst_over_floats(float first, float last, std::uint32_t step, Ours ours, Truth truth) {
  std::uint32_t bits = std::bit_cast<std::uint32_t>(first);
  std::uint32_t last_bits = std::bit_cast<std::uint32_t>(last);
  if (bits > last_bits) std::swap(bits, last_bits);
  long double worst = 0;
  for (; bits <= last_bits; bits += step) {
    const float x = std::bit_cast<float>(bits);
    const long double expected = truth(static_cast<long double>(x));
    const long double error = std::abs(static_cast<long double>(ours(x)) - expected);
    worst = std::max(worst, error / std::abs(expected));
  }
  return static_cast<double>(worst);
}

TEST(MathF32, ExpIsWithinItsBound) {
  const auto ours = [](float x) { return math::exp(x); };
  const auto truth = [](long double x) { return std::exp(x); };
  using C = math::ExpConstants;
  EXPECT_LT(worst_over_floats(-1e-12f, C::lowest, 1009, ours, truth), math::exp_bound);
  EXPECT_LT(worst_over_floats(1e-12f, C::highest, 1009, ours, truth), math::exp_bound);
}

TEST(MathF32, ExpAtItsEdges) {
  using C = math::ExpConstants;
  EXPECT_EQ(math::exp(0.0f), 1.0f);
  EXPECT_EQ(math::exp(-0.0f), 1.0f);
  EXPECT_GE(math::exp(C::lowest), std::numeric_limits<float>::min());
  EXPECT_EQ(math::exp(std::nextafter(C::lowest, -infinity)), 0.0f);
  EXPECT_EQ(math::exp(-infinity), 0.0f);
  EXPECT_LT(math::exp(C::highest), infinity);
  EXPECT_EQ(math::exp(std::nextafter(C::highest, infinity)), infinity);
  EXPECT_EQ(math::exp(infinity), infinity);
  EXPECT_TRUE(std::isnan(math::exp(nan)));
}

TEST(MathF32, LogIsWithinItsBound) {
  const auto ours = [](float x) { return math::log(x); };
  const auto truth = [](long double x) { return std::log(x); };
  constexpr float below_one = 0x1.fffffep-1f, above_one = 0x1.000002p+0f;
  EXPECT_LT(worst_over_floats(0x1p-149f, below_one, 1009, ours, truth), 3e-7);
  EXPECT_LT(worst_over_floats(above_one, 3e38f, 1009, ours, truth), 3e-7);
  EXPECT_EQ(math::log(1.0f), 0.0f);
  EXPECT_EQ(math::log(0.0f), -infinity);
  EXPECT_EQ(math::log(infinity), infinity);
  EXPECT_TRUE(std::isnan(math::log(-1.0f)));
  EXPECT_TRUE(std::isnan(math::log(nan)));
}

TEST(MathF32, TanhIsWithinItsBound) {
  const auto ours = [](float x) { return math::tanh(x); };
  const auto truth = [](long double x) { return std::tanh(x); };
  EXPECT_LT(worst_over_floats(1e-30f, 100.0f, 1009, ours, truth), 3e-7);
  EXPECT_LT(worst_over_floats(-1e-30f, -100.0f, 1009, ours, truth), 3e-7);
  EXPECT_EQ(math::tanh(infinity), 1.0f);
  EXPECT_EQ(math::tanh(-infinity), -1.0f);
  EXPECT_EQ(math::tanh(0.0f), 0.0f);
  EXPECT_TRUE(std::isnan(math::tanh(nan)));
}

constexpr int n_samples = 200'000;

TEST(MathF64, ExpAndLogAreWithinTheirBounds) {
  for (int i = 0; i <= n_samples; ++i) {
    const double x = -700.0 + 1400.0 * i / n_samples;
    const auto truth = static_cast<double>(std::exp(static_cast<long double>(x)));
    ASSERT_NEAR(math::exp(x), truth, 1e-15 * truth) << x;
    const double y = std::ldexp(1.0 + static_cast<double>(i) / n_samples, i % 2000 - 1000);
    const auto log_truth = static_cast<double>(std::log(static_cast<long double>(y)));
    ASSERT_NEAR(math::log(y), log_truth, 1e-15 * std::abs(log_truth) + 1e-16) << y;
    const auto log2_truth = static_cast<double>(std::log2(static_cast<long double>(y)));
    ASSERT_NEAR(math::log2(y), log2_truth, 1e-15 * std::abs(log2_truth) + 1e-16) << y;
  }
  EXPECT_EQ(math::log(1.0), 0.0);
  EXPECT_EQ(math::log(0.0), -HUGE_VAL);
  EXPECT_NEAR(math::log(0x1p-1074), -1074 * std::log(2.0), 1e-12);
  EXPECT_TRUE(std::isnan(math::log(-1.0)));
  EXPECT_EQ(math::exp(-1000.0), 0.0);
  EXPECT_EQ(math::exp(1000.0), HUGE_VAL);
  EXPECT_TRUE(std::isnan(math::exp(std::nan(""))));
  for (int n = -1021; n <= 1023; ++n) ASSERT_EQ(math::exp2(n), std::ldexp(1.0, n)) << n;
}

TEST(MathF64, PowGivesRopeFrequencies) {
  for (const double base : {1e4, 5e5, 1e6, 1e7, 123456.789}) {
    for (const int rotary_dim : {8, 64, 80, 96, 128, 256}) {
      for (int pair = 0; pair < rotary_dim / 2; ++pair) {
        const double exponent = -2.0 * pair / rotary_dim;
        const auto truth = static_cast<double>(
            std::pow(static_cast<long double>(base), static_cast<long double>(exponent)));
        const double bound = 1e-15 * (2 + std::abs(exponent) * std::log2(base));
        ASSERT_NEAR(math::pow(base, exponent), truth, bound * truth) << base << '^' << exponent;
      }
    }
  }
}

TEST(MathF64, SinAndCosUpToTheLastPosition) {
  constexpr double last_angle = 0x1p+24;
  const auto check = [](double x) {
    const auto sin_truth = static_cast<double>(std::sin(static_cast<long double>(x)));
    const auto cos_truth = static_cast<double>(std::cos(static_cast<long double>(x)));
    ASSERT_NEAR(math::sin(x), sin_truth, 2e-16) << x;
    ASSERT_NEAR(math::cos(x), cos_truth, 2e-16) << x;
  };
  for (int i = 0; i <= n_samples; ++i) {
    const double t = static_cast<double>(i) / n_samples;
    check(t * last_angle);
    check(-t * last_angle);
    check(t * 10 - 5);
    check(i);
  }
  // Near multiples of pi/2 the reduction cancels almost everything.
  for (int i = 1; i < 10'000; ++i) check(1.5707963267948966 * i);
  EXPECT_EQ(math::sin(0.0), 0.0);
  EXPECT_EQ(math::cos(0.0), 1.0);
}

}  // namespace
}  // namespace lowbit
