// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/checked.h"

#include <gtest/gtest.h>

#include <limits>

namespace lowbit {
namespace {

constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();

TEST(Checked, ProductsThatFitAreExact) {
  EXPECT_EQ(checked_mul(0, most), 0);
  EXPECT_EQ(checked_mul(3, 7), 21);
  EXPECT_EQ(checked_mul(std::int64_t{1} << 31, std::int64_t{1} << 31), std::int64_t{1} << 62);
  EXPECT_EQ(checked_mul(most, 1), most);
}

TEST(Checked, ProductsThatDoNotFitAreNothing) {
  EXPECT_EQ(checked_mul(std::int64_t{1} << 32, std::int64_t{1} << 31), std::nullopt);
  EXPECT_EQ(checked_mul(most, 2), std::nullopt);
  EXPECT_EQ(checked_mul(-1, 5), std::nullopt);
  EXPECT_EQ(checked_mul(5, -1), std::nullopt);
}

TEST(Checked, Sums) {
  EXPECT_EQ(checked_add(most - 1, 1), most);
  EXPECT_EQ(checked_add(most, 1), std::nullopt);
  EXPECT_EQ(checked_add(-1, 1), std::nullopt);
  EXPECT_EQ(checked_add(1, -1), std::nullopt);
}

}  // namespace
}  // namespace lowbit
