// SPDX-License-Identifier: Apache-2.0
#include "lowbit/formats/basis.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace lowbit {
namespace {

TEST(Basis, FitsWholeBlocksOfPowersOfTwo) {
  EXPECT_TRUE(check_basis({}, 7));
  EXPECT_TRUE(check_basis({1}, 7));
  EXPECT_TRUE(check_basis({64}, 576));
  EXPECT_FALSE(check_basis({128}, 576));
  EXPECT_FALSE(check_basis({24}, 48));
  EXPECT_FALSE(check_basis({-2}, 48));
}

TEST(Basis, BlocksDivideWhatTheyMix) {
  EXPECT_EQ(hadamard_block_of(576, 512), 64);
  EXPECT_EQ(hadamard_block_of(1536, 512), 512);
  EXPECT_EQ(hadamard_block_of(4864, 512), 256);
  EXPECT_EQ(hadamard_block_of(1024, 512), 512);
  EXPECT_EQ(hadamard_block_of(7, 512), 1);
}

/// Small integers under factors that are powers of two: everything is exact.
TEST(Basis, IsItsOwnWayBack) {
  for (const std::int64_t block : {1, 4, 16, 64}) {
    std::vector<float> x;
    for (int i = 0; i < 128; ++i) x.push_back(static_cast<float>(i * 37 % 19 - 9));
    std::vector<float> turned = x;
    apply_basis({block}, turned);
    EXPECT_EQ(turned == x, block == 1);
    apply_basis({block}, turned);
    EXPECT_EQ(turned, x);
  }
}

TEST(Basis, SaysItsName) {
  EXPECT_EQ(to_string(Basis{512}), "hadamard 512");
  EXPECT_EQ(to_string(Basis{}), "");
}

}  // namespace
}  // namespace lowbit
