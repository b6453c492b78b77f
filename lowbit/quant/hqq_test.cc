// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/hqq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace lowbit {
namespace {

constexpr std::int64_t rows = 16, cols = 512;

/// A bell curve with heavy tails, as weights have them.
std::vector<float> heavy_tailed() {
  std::mt19937 engine(20261121);
  std::student_t_distribution<float> distribution(4);
  std::vector<float> w(rows * cols);
  for (float& value : w) value = 0.02f * distribution(engine);
  return w;
}

/// sum |w - decoded|, by which the solver judges its steps.
double objective(const std::vector<float>& w, const QuantizedTensor& tensor) {
  const std::vector<float> decoded = decode(tensor);
  double sum = 0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    sum += std::abs(static_cast<double>(w[i]) - static_cast<double>(decoded[i]));
  }
  return sum;
}

TEST(Hqq, LosesNoMoreThanAbsmaxOnEveryScalarScheme) {
  const std::vector<float> w = heavy_tailed();
  const MatrixView view(w.data(), rows, cols);
  ThreadPool pool(2);
  int n_checked = 0;
  for (const Scheme& scheme : named_schemes()) {
    if (is_plain_float(scheme) || scheme.code->dim != 1) continue;
    const std::string name = to_string(scheme);
    const auto solved = round_half_quadratic(view, {}, scheme, pool);
    const auto absmax = round_absmax(view, {}, scheme, pool);
    ASSERT_TRUE(solved) << name << ": " << solved.error().message();
    ASSERT_TRUE(absmax) << name;
    EXPECT_TRUE(has_finite_scales(*solved)) << name;
    // 8-bit grids leave nothing to solve for: a whisker for the rounding of stored scales.
    EXPECT_LE(objective(w, *solved), 1.01 * objective(w, *absmax)) << name;
    ++n_checked;
  }
  EXPECT_GT(n_checked, 60);
}

TEST(Hqq, MovesTheZeroWhereThereIsOne) {
  std::vector<float> w = heavy_tailed();
  for (float& value : w) value += 0.03f;
  const MatrixView view(w.data(), rows, cols);
  ThreadPool pool(2);
  for (const char* name : {"int4.g64.zero", "uint4.g64.offset", "int3.g64.zero"}) {
    const auto solved = round_half_quadratic(view, {}, *parse_scheme(name), pool);
    ASSERT_TRUE(solved) << name;
    const auto absmax = round_absmax(view, {}, *parse_scheme(name), pool);
    EXPECT_LT(objective(w, *solved), objective(w, *absmax)) << name;
  }
}

TEST(Hqq, TheBitsDependOnNoThreadCount) {
  const std::vector<float> w = heavy_tailed();
  const MatrixView view(w.data(), rows, cols);
  ThreadPool one(1), three(3);
  for (const char* name : {"int4.g64.zero", "int4.g128", "q4_k", "nvfp4", "e4m3.block128"}) {
    const auto alone = round_half_quadratic(view, {}, *parse_scheme(name), one);
    const auto shared = round_half_quadratic(view, {}, *parse_scheme(name), three);
    ASSERT_TRUE(alone && shared) << name;
    EXPECT_EQ(decode(*alone), decode(*shared)) << name;
  }
}

TEST(Hqq, ShortLastGroupsAndWeights) {
  const std::vector<float> w = heavy_tailed();
  const MatrixView view(w.data(), 3, 100);
  std::vector<float> weights(100, 1.0f);
  std::fill_n(weights.begin(), 50, 100.0f);
  ThreadPool pool(1);
  const Scheme scheme = *parse_scheme("int3.channel.zero");
  const auto plain = round_half_quadratic(view, {}, scheme, pool);
  const auto weighted = round_half_quadratic(view, {.mean_square = weights}, scheme, pool);
  ASSERT_TRUE(plain && weighted);
  EXPECT_LT(weighted_error(view, {.mean_square = weights}, *weighted),
            weighted_error(view, {.mean_square = weights}, *plain));
  EXPECT_TRUE(round_half_quadratic(view, {}, *parse_scheme("int4.g64"), pool));
}

TEST(Hqq, RefusesVectorCodes) {
  const std::vector<float> w = heavy_tailed();
  ThreadPool pool(1);
  const auto refused =
      round_half_quadratic(MatrixView(w.data(), rows, cols), {}, *parse_scheme("iq2_xxs"), pool);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("rtn:iq2_xxs"), std::string::npos);
}

}  // namespace
}  // namespace lowbit
