// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/slab_memory.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

namespace lowbit {
namespace {

TEST(SlabMemory, PiecesAreApartAndOutliveIt) {
  // A huge page is 2 MiB and a slab 32: sizes around half a slab and around what is left of one.
  const std::vector<std::size_t> sizes{1,        64,       65,       std::size_t{5} << 20,
                                       0,        3 << 20,  16 << 20, (16 << 20) + 1,
                                       40 << 20, 12 << 20, 9 << 20,  100};
  std::vector<std::shared_ptr<std::byte>> pieces;
  {
    SlabMemory memory;
    for (const std::size_t n : sizes) {
      pieces.push_back(memory.take(n));
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pieces.back().get()) % 64, 0u) << n;
    }
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] != 0) std::memset(pieces[i].get(), static_cast<int>(i) + 1, sizes[i]);
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto expected = static_cast<std::byte>(i + 1);
    if (sizes[i] == 0) continue;
    EXPECT_EQ(pieces[i].get()[0], expected);
    EXPECT_EQ(pieces[i].get()[sizes[i] / 2], expected);
    EXPECT_EQ(pieces[i].get()[sizes[i] - 1], expected);
  }
}

}  // namespace
}  // namespace lowbit
