// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/random_tensor.h"

#include <gtest/gtest.h>

#include <cmath>

namespace lowbit {
namespace {

/// Every named scheme: finite numbers of the promised size, none of them alike everywhere.
TEST(RandomTensor, LooksLikeWeights) {
  constexpr std::int64_t rows = 32, cols = 512;
  ThreadPool pool(2);
  for (const Scheme& scheme : named_schemes()) {
    SCOPED_TRACE(to_string(scheme));
    const std::vector<float> numbers = decode(random_tensor(scheme, rows, cols, 7, pool));
    double sum = 0, squares = 0;
    for (const float number : numbers) {
      ASSERT_TRUE(std::isfinite(number));
      sum += static_cast<double>(number);
      squares += static_cast<double>(number) * static_cast<double>(number);
    }
    const auto n = static_cast<double>(numbers.size());
    const double wanted = 1 / std::sqrt(static_cast<double>(cols));
    const double size = std::sqrt(squares / n);
    EXPECT_GT(size, wanted / 2);
    EXPECT_LT(size, wanted * 2);
    EXPECT_LT(std::abs(sum / n), wanted);
    EXPECT_NE(numbers[0], numbers[static_cast<std::size_t>(cols)]);
  }
}

TEST(RandomTensor, DependsOnTheSeedAlone) {
  const Scheme scheme = *parse_scheme("q4_k");
  ThreadPool one(1), four(4);
  const auto first = decode(random_tensor(scheme, 40, 512, 3, one));
  EXPECT_EQ(first, decode(random_tensor(scheme, 40, 512, 3, four)));
  EXPECT_NE(first, decode(random_tensor(scheme, 40, 512, 4, one)));
}

}  // namespace
}  // namespace lowbit
