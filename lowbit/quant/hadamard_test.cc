// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/hadamard.h"

#include <gtest/gtest.h>

#include <cmath>

namespace lowbit {
namespace {

TEST(Hadamard, PaleyMatricesAreOrthogonal) {
  // 28 and 52 come from q = 13 and q = 5^2, 100 from q = 7^2; the others from primes.
  for (const std::int64_t n :
       {1, 2, 4, 8, 12, 20, 24, 28, 36, 44, 48, 52, 60, 68, 72, 76, 84, 100, 108, 140, 148, 180}) {
    const auto matrix = paley_matrix(n);
    ASSERT_TRUE(matrix) << n;
    const auto at = [&](std::int64_t i, std::int64_t j) {
      return static_cast<int>((*matrix)[static_cast<std::size_t>(i * n + j)]);
    };
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        ASSERT_EQ(std::abs(at(i, j)), 1);
        int dot = 0;
        for (std::int64_t k = 0; k < n; ++k) dot += at(i, k) * at(j, k);
        ASSERT_EQ(dot, i == j ? n : 0) << n << ": rows " << i << " and " << j;
      }
    }
  }
}

TEST(Hadamard, SizesWithoutAConstructionAreNotInvented) {
  for (const std::int64_t n : {0, 3, 6, 10, 92, 116, 156}) EXPECT_FALSE(paley_matrix(n)) << n;
}

TEST(Hadamard, RotationsOfModelsAreWholeAndOrthogonal) {
  struct Row {
    std::int64_t n_numbers, block;
  };
  // 184 = 8 x 23 has no block of its odd part: 8 numbers are mixed.
  for (const Row row : {Row{576, 576}, Row{896, 896}, Row{1536, 1536}, Row{4864, 4864}, Row{64, 64},
                        Row{72, 72}, Row{20, 20}, Row{104, 104}, Row{184, 8}, Row{7, 1}}) {
    const Rotation rotation = Rotation::of_size(row.n_numbers, 17);
    EXPECT_EQ(rotation.block(), row.block) << row.n_numbers;
    const auto n = static_cast<std::size_t>(row.n_numbers);
    std::vector<double> a(n), b(n);
    double dot = 0, norm = 0;
    for (std::size_t i = 0; i < n; ++i) {
      a[i] = std::sin(1.7 * static_cast<double>(i));
      b[i] = std::cos(0.3 * static_cast<double>(i * i % 101));
      dot += a[i] * b[i];
      norm += a[i] * a[i];
    }
    rotation.apply(a);
    rotation.apply(b);
    double turned_dot = 0, turned_norm = 0;
    for (std::size_t i = 0; i < n; ++i) {
      turned_dot += a[i] * b[i];
      turned_norm += a[i] * a[i];
    }
    const double bound = 4 * static_cast<double>(n) * 0x1p-53 * static_cast<double>(n);
    EXPECT_NEAR(turned_dot, dot, bound);
    EXPECT_NEAR(turned_norm, norm, bound);
    // One number reaches all of its block, equally.
    std::vector<double> unit(n);
    unit[0] = 1;
    rotation.apply(unit);
    for (std::size_t i = 0; i < static_cast<std::size_t>(row.block); ++i) {
      EXPECT_NEAR(std::abs(unit[i]), 1 / std::sqrt(static_cast<double>(row.block)), 1e-15);
    }
  }
}

}  // namespace
}  // namespace lowbit
