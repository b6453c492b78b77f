// SPDX-License-Identifier: Apache-2.0
// The definition against double arithmetic by a derived bound; every instruction set and thread
// count against the definition by bits.
#include "lowbit/kernels/gram.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "lowbit/kernels/kernels_under_test.h"

namespace lowbit {
namespace {

constexpr unsigned seed = 99;

std::vector<float> numbers(std::int64_t n) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.3f, 2.0f);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& a : x) a = normal(random);
  for (std::size_t i = 3; i < x.size(); i += 53) x[i] *= 100.0f;
  for (std::size_t i = 7; i < x.size(); i += 31) x[i] = 0;
  return x;
}

/// A chain of 256 fma and a sum of blocks: (256 + blocks) roundings of sums that stay below
/// sum |x_i x_j|.
TEST(Gram, TheDefinitionIsNearTheTruth) {
  constexpr std::int64_t n_tokens = 600, n = 5;
  const auto x = numbers(n_tokens * n);
  std::vector<float> g(n * n);
  add_gram_reference({x.data(), n_tokens, n}, {g.data(), n, n});
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (std::int64_t t = 0; t < n_tokens; ++t) {
        const double product = static_cast<double>(x[static_cast<std::size_t>(t * n + i)]) *
                               static_cast<double>(x[static_cast<std::size_t>(t * n + j)]);
        sum += product;
        magnitude += std::abs(product);
      }
      constexpr double n_roundings = gram_block_tokens + 3;
      EXPECT_NEAR(g[static_cast<std::size_t>(i * n + j)], sum, n_roundings * 0x1p-24 * magnitude);
    }
  }
}

TEST(Gram, EveryInstructionSetAndThreadCountGivesTheDefinedBits) {
  struct Case {
    std::int64_t n_tokens, n, stride;
  };
  for (const Case& c : {Case{1, 1, 1}, Case{3, 15, 17}, Case{256, 16, 16}, Case{257, 17, 20},
                        Case{40, 31, 31}, Case{300, 130, 131}, Case{70, 290, 290}}) {
    // One float off, so that nothing is aligned.
    const auto x = numbers(c.n_tokens * c.stride + 1);
    const MatrixView view(x.data() + 1, c.n_tokens, c.n, c.stride);
    const auto start = numbers(c.n * c.n);
    std::vector<float> expected(start);
    for (std::int64_t i = 0; i < c.n; ++i) {  // symmetric, as a sum so far is
      for (std::int64_t j = 0; j < i; ++j) {
        expected[static_cast<std::size_t>(i * c.n + j)] =
            expected[static_cast<std::size_t>(j * c.n + i)];
      }
    }
    const std::vector<float> initial(expected);
    add_gram_reference(view, {expected.data(), c.n, c.n});
    for (const KernelTable* table : kernels_under_test()) {
      for (const int n_threads : {1, 3}) {
        ThreadPool pool(n_threads);
        GramWorkspace workspace;
        std::vector<float> found(initial);
        found.push_back(12345.0f);
        const MutableMatrixView g(found.data(), c.n, c.n);
        add_gram(*table, view, g, workspace, pool);
        mirror_gram(g, pool);
        EXPECT_EQ(found.back(), 12345.0f);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          ASSERT_EQ(std::bit_cast<std::uint32_t>(found[i]),
                    std::bit_cast<std::uint32_t>(expected[i]))
              << name_of(table->isa) << ", " << n_threads << " threads, " << c.n_tokens << " x "
              << c.n << ", number " << i << ", seed " << seed;
        }
      }
    }
  }
}

}  // namespace
}  // namespace lowbit
