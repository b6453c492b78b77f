// SPDX-License-Identifier: Apache-2.0
// Rounding to grids of vectors: the search against a scan of every row, and what the containers of
// the iq types cannot say.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "lowbit/formats/codes.h"
#include "lowbit/quant/grid_search.h"
#include "lowbit/quant/rounder.h"
#include "lowbit/quant/test_matrices.h"

namespace lowbit {
namespace {

/// Weights as calibration finds them: most about 1, a few fifty times as much, some none at all.
std::vector<float> importance(std::size_t n) {
  std::mt19937 engine(gaussian_seed + 1);
  std::uniform_real_distribution<float> uniform;
  std::vector<float> weights(n);
  for (std::size_t i = 0; i < n; ++i)
    weights[i] = i % 37 == 0 ? 0.0f : 1.0f / (uniform(engine) + 0.02f);
  return weights;
}

bool is_iq(const Scheme& scheme) {
  return scheme.code->dim % 2 == 0 && scheme.name.starts_with("iq");
}

double error_of_row(const Code& code, std::size_t row, const float* x, const float* w, float s) {
  double error = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(code.dim); ++i) {
    const double v = code.values[row * static_cast<std::size_t>(code.dim) + i];
    const double difference = static_cast<double>(x[i]) - static_cast<double>(s) * v;
    error += static_cast<double>(w[i]) * difference * difference;
  }
  return error;
}

TEST(GridSearch, FindsTheRowThatAScanFinds) {
  int n_checked = 0;
  for (const Code& code : codes::list) {
    if (code.dim % 2 != 0) continue;
    const auto dim = static_cast<std::size_t>(code.dim), n_rows = code.values.size() / dim;
    const GridRows rows(code.values, code.dim);
    ScaledVector vector;
    const std::vector<float> x = gaussian(64 * dim), w = importance(64 * dim);
    for (std::size_t i = 0; i < 64; ++i) {
      const float* numbers = x.data() + i * dim;
      const float* weights = w.data() + i * dim;
      vector.reset(rows, numbers, weights);
      // Down, up and between: what is known from other scales must not change the answer.
      for (const float scale : {2.0f, 0.1f, 0.5f, 0.3f, 0.4f, 0.31f, 0.05f, 1.0f, 0.35f}) {
        const ScaledVector::Nearest found = vector.at(scale);
        double least = 1e30;
        for (std::size_t row = 0; row < n_rows; ++row)
          least = std::min(least, error_of_row(code, row, numbers, weights, scale));
        const double error = error_of_row(code, found.code, numbers, weights, scale);
        // The sums that are compared are floats: a handful of roundings of their largest term.
        double largest = 0;
        for (std::size_t k = 0; k < dim; ++k) {
          const double reach = static_cast<double>(std::abs(numbers[k])) +
                               static_cast<double>(scale * rows.largest());
          largest += static_cast<double>(weights[k]) * reach * reach;
        }
        constexpr double epsilon = 0x1p-23;
        ASSERT_LE(error, least + 16 * epsilon * largest) << code.name << " " << i << " " << scale;
        ++n_checked;
      }
    }
  }
  EXPECT_GT(n_checked, 6 * 64 * 9 - 1);
}

TEST(GridRound, WritesOnlyWhatTheContainersCanSay) {
  ThreadPool pool(2);
  constexpr std::int64_t rows = 6, cols = 512;
  const std::vector<float> w = gaussian(rows * cols), weights = importance(cols);
  int n_parities = 0, n_shared = 0;
  for (const Scheme& scheme : named_schemes()) {
    if (!is_iq(scheme)) continue;
    const auto tensor = round_to_nearest(MatrixView(w.data(), rows, cols), {weights}, scheme, pool);
    ASSERT_TRUE(tensor) << to_string(scheme) << tensor.error().message();
    const Code& code = *scheme.code;
    const int index_bits = code.window - code.signs;
    for (std::int64_t row = 0; row < rows; ++row) {
      if (code.even_signs != 0) {
        for (std::int64_t i = 0; i < cols / code.even_signs; ++i) {
          int n_negated = 0;
          for (int k = 0; k < code.even_signs / code.dim; ++k) {
            n_negated += std::popcount(tensor->codes.get(row, i * code.even_signs / code.dim + k) >>
                                       index_bits);
          }
          ASSERT_EQ(n_negated % 2, 0) << to_string(scheme);
          ++n_parities;
        }
      }
      const std::int64_t per_group = scheme.group.cols / code.dim;
      for (std::int64_t i = 0; scheme.one_top_bit && i < tensor->codes.n_per_row(); ++i) {
        ASSERT_EQ(tensor->codes.get(row, i) >> (code.window - 1),
                  tensor->codes.get(row, i / per_group * per_group) >> (code.window - 1))
            << to_string(scheme);
        ++n_shared;
      }
    }
  }
  EXPECT_EQ(n_parities, 3 * rows * cols / 8);
  EXPECT_EQ(n_shared, rows * cols / 8);
}

TEST(GridRound, ThreadsAndStrangersDoNotChangeTheBits) {
  constexpr std::int64_t rows = 7, cols = 768;
  const std::vector<float> w = gaussian(rows * cols), weights = importance(cols);
  ThreadPool one(1), three(3);
  for (const Scheme& scheme : named_schemes()) {
    if (!is_iq(scheme)) continue;
    const auto a = round_to_nearest(MatrixView(w.data(), rows, cols), {weights}, scheme, one);
    const auto b = round_to_nearest(MatrixView(w.data(), rows, cols), {weights}, scheme, three);
    // A row does not depend on the rows beside it.
    const auto c =
        round_to_nearest(MatrixView(w.data() + 3 * cols, 1, cols), {weights}, scheme, one);
    ASSERT_TRUE(a && b && c) << to_string(scheme);
    EXPECT_EQ(decode(*a), decode(*b)) << to_string(scheme);
    std::vector<float> row(cols);
    decode_rows(*a, 3, 1, row);
    EXPECT_EQ(row, decode(*c)) << to_string(scheme);
  }
}

TEST(GridRound, OneLevelOfScalesAndShortGroups) {
  ThreadPool pool(2);
  for (const auto& [name, cols, most] : {std::tuple{"iq3_s.g32", 72, 0.05},
                                         {"iq2_xs.g64", 72, 0.2},
                                         {"iq3_xxs.g12", 36, 0.1},
                                         {"iq1.g16", 40, 0.3},
                                         {"iq3_s.channel", 100, 0.1},
                                         {"iq3_s.block8", 20, 0.1},
                                         {"iq3_s.tensor", 20, 0.1},
                                         {"iq2_s.g32.bf16", 72, 0.2}}) {
    const auto scheme = parse_scheme(name);
    ASSERT_TRUE(scheme) << scheme.error().message();
    const std::vector<float> w = gaussian(static_cast<std::size_t>(11 * cols));
    const MatrixView view(w.data(), 11, cols);
    const auto tensor = round_to_nearest(view, {}, *scheme, pool);
    ASSERT_TRUE(tensor) << name << ": " << tensor.error().message();
    EXPECT_LT(relative_error(w, *tensor), most) << name;
  }
  const std::vector<float> w = gaussian(8 * 32);
  const auto zeros =
      round_to_nearest(MatrixView(w.data(), 8, 32), {}, *parse_scheme("iq3_s.g32.offset"), pool);
  ASSERT_FALSE(zeros);
  EXPECT_NE(zeros.error().message().find("without zeros"), std::string::npos);
}

}  // namespace
}  // namespace lowbit
