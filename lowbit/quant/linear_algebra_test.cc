// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/linear_algebra.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lowbit/quant/test_matrices.h"

namespace lowbit {
namespace {

std::vector<float> numbers(std::int64_t n, std::uint32_t seed) {
  return gaussian(static_cast<std::size_t>(n), 1.0f, seed);
}

/// x^T x / n_tokens of correlated inputs, in double and then rounded: (n, n).
std::vector<float> covariance(std::int64_t n, std::int64_t n_tokens) {
  const std::vector<float> noise = numbers(n * n_tokens, 7);
  std::vector<double> sums(static_cast<std::size_t>(n * n), 0.0);
  std::vector<double> x(static_cast<std::size_t>(n));
  for (std::int64_t t = 0; t < n_tokens; ++t) {
    double carried = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      carried = 0.7 * carried + static_cast<double>(noise[static_cast<std::size_t>(t * n + i)]);
      x[static_cast<std::size_t>(i)] = carried;
    }
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t c = 0; c < n; ++c) {
        sums[static_cast<std::size_t>(r * n + c)] +=
            x[static_cast<std::size_t>(r)] * x[static_cast<std::size_t>(c)];
      }
    }
  }
  std::vector<float> h;
  for (const double sum : sums)
    h.push_back(static_cast<float>(sum / static_cast<double>(n_tokens)));
  return h;
}

TEST(FloatProducts, AreThoseOfAPlainLoop) {
  for (const auto& [m, k, n] : {std::array<std::int64_t, 3>{1, 1, 1}, {5, 17, 33}, {40, 129, 7}}) {
    const std::vector<float> x = numbers(m * k, 1), w = numbers(n * k, 2);
    std::vector<float> y(static_cast<std::size_t>(m * n));
    ThreadPool pool(2);
    FloatProducts(pool).multiply({x.data(), m, k}, {w.data(), n, k}, {y.data(), m, n});
    for (std::int64_t r = 0; r < m; ++r) {
      for (std::int64_t c = 0; c < n; ++c) {
        float sum = 0;  // the fma chain that the kernels promise, bit for bit
        for (std::int64_t i = 0; i < k; ++i) {
          sum = std::fma(x[static_cast<std::size_t>(r * k + i)],
                         w[static_cast<std::size_t>(c * k + i)], sum);
        }
        ASSERT_EQ(y[static_cast<std::size_t>(r * n + c)], sum) << m << " x " << k << " x " << n;
      }
    }
  }
}

TEST(FactorSymmetric, MultipliesBackToTheMatrix) {
  for (const std::int64_t n : {1, 5, 127, 128, 129, 300}) {
    const std::vector<float> h = covariance(n, 2 * n + 8);
    ThreadPool pool(2);
    FloatProducts products(pool);
    TriangularFactor factor;
    ASSERT_TRUE(factor_symmetric({h.data(), n, n}, products, pool, factor)) << n;
    const MatrixView m = factor.view();
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t c = 0; c < n; ++c) {
        double sum = 0;
        for (std::int64_t k = std::max(r, c); k < n; ++k) {
          sum += static_cast<double>(m.row(k)[r]) * static_cast<double>(m.row(k)[c]) *
                 static_cast<double>(factor.pivots[static_cast<std::size_t>(k)]);
        }
        // Cholesky is backward stable: n eps times the geometric mean of the two diagonals.
        const double bound = static_cast<double>(n + 8) * 0x1p-23 *
                             std::sqrt(static_cast<double>(h[static_cast<std::size_t>(r * n + r)]) *
                                       static_cast<double>(h[static_cast<std::size_t>(c * n + c)]));
        ASSERT_NEAR(sum, static_cast<double>(h[static_cast<std::size_t>(r * n + c)]), bound)
            << n << ": " << r << ", " << c;
      }
      EXPECT_EQ(m.row(r)[r], 1.0f);
      for (std::int64_t c = r + 1; c < n; ++c) ASSERT_EQ(m.row(r)[c], 0.0f);
    }
  }
}

TEST(FactorSymmetric, HasTheSameBitsForAnyThreadCount) {
  constexpr std::int64_t n = 300;
  const std::vector<float> h = covariance(n, n);
  TriangularFactor alone, shared;
  ThreadPool one(1), three(3);
  FloatProducts products_of_one(one), products_of_three(three);
  ASSERT_TRUE(factor_symmetric({h.data(), n, n}, products_of_one, one, alone));
  ASSERT_TRUE(factor_symmetric({h.data(), n, n}, products_of_three, three, shared));
  EXPECT_EQ(alone.columns, shared.columns);
  EXPECT_EQ(alone.pivots, shared.pivots);
}

TEST(FactorSymmetric, SaysWhatIsNotPositiveDefinite) {
  constexpr std::int64_t n = 200;
  ThreadPool pool(1);
  FloatProducts products(pool);
  TriangularFactor factor;
  std::vector<float> h = covariance(n, n / 2);  // of half the rank
  EXPECT_FALSE(factor_symmetric({h.data(), n, n}, products, pool, factor));
  h = covariance(n, 2 * n);
  h[3 * n + 3] = -1;
  EXPECT_FALSE(factor_symmetric({h.data(), n, n}, products, pool, factor));
  h[3 * n + 3] = std::nanf("");
  EXPECT_FALSE(factor_symmetric({h.data(), n, n}, products, pool, factor));
}

}  // namespace
}  // namespace lowbit
