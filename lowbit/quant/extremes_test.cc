// SPDX-License-Identifier: Apache-2.0
// What no Gaussian matrix shows: numbers beyond the range of the stored scales, groups of equal
// numbers, outliers; and the levels against the codes they stand for.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "lowbit/quant/group_fit.h"
#include "lowbit/quant/rounder.h"
#include "lowbit/quant/test_matrices.h"

namespace lowbit {
namespace {

constexpr std::int64_t rows = 2, cols = 512;
constexpr std::uint32_t seed = 7;

bool has_encoder(const Scheme& scheme) {
  return !is_plain_float(scheme);
}

struct Matrix {
  const char* name;
  std::vector<float> w;
};

std::vector<Matrix> hard_matrices() {
  std::vector<Matrix> matrices;
  for (const float deviation : {1e-42f, 1e-30f, 1e-18f, 1e-8f, 1e-6f, 1e5f, 1e6f, 1e18f, 1e30f})
    matrices.push_back({"a deviation", gaussian(rows * cols, deviation, seed)});
  std::vector<float> w = gaussian(rows * cols, 0.02f, seed);
  w[100] = 1000.0f;
  w[900] = -1000.0f;
  matrices.push_back({"two outliers", w});
  w.assign(rows * cols, 0.0f);
  w[5] = -1.0f;
  matrices.push_back({"one number", w});
  for (std::size_t i = 0; i < w.size(); ++i)
    w[i] = (i % 2 == 0 ? 0.5f : -0.5f) * std::numeric_limits<float>::max();
  matrices.push_back({"half the largest float", w});
  return matrices;
}

TEST(Extremes, ScalesStayFiniteAndZerosAreNeverBetter) {
  ThreadPool pool(1);
  for (const Matrix& matrix : hard_matrices()) {
    const MatrixView view(matrix.w.data(), rows, cols);
    for (const Scheme& scheme : named_schemes()) {
      if (!has_encoder(scheme)) continue;
      for (const Rounder& rounder : rounder_list()) {
        if (rounder.needs == Needs::hessian) continue;                 // gptq_test.cc
        if (rounder.name == "hqq" && scheme.code->dim != 1) continue;  // it refuses them
        SCOPED_TRACE(std::string(rounder.name) + ":" + to_string(scheme) + " on " + matrix.name +
                     " " + std::to_string(matrix.w[0]));
        const auto tensor = rounder.round(view, {}, scheme, pool);
        ASSERT_TRUE(tensor) << tensor.error().message();
        ASSERT_TRUE(has_finite_scales(tensor->tensor));
        for (const float value : decode(tensor->tensor)) ASSERT_TRUE(std::isfinite(value));
        if (rounder.name != "rtn") continue;
        // A whisker for the float sums by which the search compares.
        const auto least_squares = round_to_nearest(view, {}, scheme, pool);
        ASSERT_TRUE(least_squares) << least_squares.error().message();
        ASSERT_LE(weighted_error(view, {}, *least_squares), 1.0001 * power_of(matrix.w));
      }
    }
  }
}

TEST(Extremes, SubnormalHalvesStillScale) {
  // The smallest half is d = 6e-8. Codes in steps of k d leave (k d)^2 / 12; int8 holds numbers of
  // 1e-6 with k = 1, the 31 steps of q6_k need k = 2 for the largest.
  constexpr double d = 0x1p-24, deviation = 1e-6;
  ThreadPool pool(1);
  const std::vector<float> w = gaussian(rows * cols, static_cast<float>(deviation), seed);
  const MatrixView view(w.data(), rows, cols);
  for (const auto& [name, k] :
       {std::pair{"q8_0", 1}, {"int8.channel", 1}, {"q6_k", 2}, {"int6.g64", 2}}) {
    const auto tensor = round_to_nearest(view, {}, *parse_scheme(name), pool);
    ASSERT_TRUE(tensor);
    constexpr double sampling = 1.1;
    EXPECT_LT(weighted_error(view, {}, *tensor), sampling * rows * cols * (k * d) * (k * d) / 12)
        << name;
  }
}

TEST(Extremes, EqualNumbersKeepTheirValue) {
  ThreadPool pool(1);
  for (const float value : {0.3f, -0.3f}) {
    const std::vector<float> w(rows * cols, value);
    const MatrixView view(w.data(), rows, cols);
    for (const Scheme& scheme : named_schemes()) {
      if (!has_encoder(scheme) || scheme.code->dim != 1) continue;
      const auto tensor = round_to_nearest(view, {}, scheme, pool);
      ASSERT_TRUE(tensor) << to_string(scheme);
      // Scales in powers of two leave 0.3 to the code: 1.2 between 1 and 1.25 of e3m2 and e5m2, 4.8
      // between 4 and 6 of e2m1 (the widest gap); elsewhere the scale takes all of it but the f16's
      // 2^-12 and, in two-level types, the sub-scale's half step.
      const double gap = StoredCode(*scheme.scale->code).is_power_of_two() ? 0.8 / 4.8 : 0.5 / 31;
      EXPECT_LE(weighted_error(view, {}, *tensor), gap * gap * 1.0001 * power_of(w))
          << to_string(scheme) << " " << value;
    }
  }
}

TEST(Extremes, AnOutlierCostsItsGroupAlone) {
  ThreadPool pool(1);
  const std::vector<float> calm = gaussian(rows * cols, 0.02f, seed);
  std::vector<float> w = calm;
  w[100] = 1000.0f;
  const Scheme scheme = *parse_scheme("int4.g32");
  const auto with = round_to_nearest(MatrixView(w.data(), rows, cols), {}, scheme, pool);
  const auto without = round_to_nearest(MatrixView(calm.data(), rows, cols), {}, scheme, pool);
  ASSERT_TRUE(with && without);
  const std::vector<float> a = decode(*with), b = decode(*without);
  for (std::size_t i = 0; i < w.size(); ++i) {
    if (i / 32 == 100 / 32) continue;
    ASSERT_EQ(a[i], b[i]) << i;
  }
  EXPECT_NEAR(a[100], 1000.0f, 1.0f);
}

TEST(Levels, RoundAsTheCodesDo) {
  std::mt19937 engine(seed);
  int n_checked = 0;
  for (const Scheme& scheme : named_schemes()) {
    if (!has_encoder(scheme) || scheme.code->dim != 1) continue;
    const Levels levels(*scheme.code);
    const CodeSearch search(*scheme.code);
    std::uniform_real_distribution<float> inside(1.2f * levels.low(), 1.2f * levels.high());
    for (int i = 0; i < 2000; ++i) {
      const float x = i % 2 == 0 ? inside(engine) : inside(engine) / static_cast<float>(1 + i);
      const float expected = search.value(search.nearest(x));
      const float got =
          levels.visit([&](const auto& kind) { return kind.nearest(all_lanes(x))[0]; });
      // The rises of a table add up with a rounding error each.
      ASSERT_NEAR(got, expected, 1e-6f * levels.high()) << scheme.code->name << " at " << x;
    }
    ++n_checked;
  }
  EXPECT_GT(n_checked, 30);
}

}  // namespace
}  // namespace lowbit
