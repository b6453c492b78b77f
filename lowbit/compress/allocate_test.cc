// SPDX-License-Identifier: Apache-2.0
// Allocation against trying everything, on cases small enough for that.
#include "lowbit/compress/allocate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace lowbit {
namespace {

using Items = std::vector<std::vector<Candidate>>;

/// The least loss within the budget, by trying every combination.
double by_trying_all(const Items& items, std::int64_t budget, std::size_t from = 0) {
  if (from == items.size()) return 0;
  double best = HUGE_VAL;
  for (const Candidate& candidate : items[from]) {
    if (candidate.n_bytes > budget) continue;
    best =
        std::min(best, candidate.loss + by_trying_all(items, budget - candidate.n_bytes, from + 1));
  }
  return best;
}

/// n_items items; losses mostly fall with the size, some candidates are useless.
Items random_items(std::mt19937& random, int n_items, std::int64_t unit) {
  std::uniform_int_distribution<int> n_candidates(1, 5), size(1, 40);
  std::uniform_real_distribution<double> loss(0.5, 1.5);
  Items items;
  for (int i = 0; i < n_items; ++i) {
    std::vector<Candidate> candidates(static_cast<std::size_t>(n_candidates(random)));
    for (Candidate& candidate : candidates) {
      candidate.n_bytes = unit * size(random);
      candidate.loss = loss(random) / static_cast<double>(candidate.n_bytes);
    }
    items.push_back(std::move(candidates));
  }
  return items;
}

void expect_consistent(const Items& items, const Allocation& allocation) {
  ASSERT_EQ(allocation.chosen.size(), items.size());
  std::int64_t n_bytes = 0;
  double loss = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    ASSERT_LT(allocation.chosen[i], items[i].size());
    n_bytes += items[i][allocation.chosen[i]].n_bytes;
    loss += items[i][allocation.chosen[i]].loss;
  }
  EXPECT_EQ(allocation.n_bytes, n_bytes);
  EXPECT_DOUBLE_EQ(allocation.loss, loss);
}

TEST(Allocate, IsTheBestOfAllWhereBytesHaveACommonUnit) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    SCOPED_TRACE(round);
    const Items items = random_items(random, 1 + round % 6, /*unit=*/1000);
    const std::int64_t least = least_bytes(items), most = most_bytes(items);
    std::uniform_int_distribution<std::int64_t> any(least, most);
    const std::int64_t budget = any(random);
    const auto allocation = allocate(items, budget);
    ASSERT_TRUE(allocation) << allocation.error().message();
    expect_consistent(items, *allocation);
    EXPECT_LE(allocation->n_bytes, budget);
    EXPECT_NEAR(allocation->loss, by_trying_all(items, budget), 1e-12);
  }
}

TEST(Allocate, StaysUnderTheBudgetAndNearTheBestWithCoprimeBytes) {
  std::mt19937 random(8);
  for (int round = 0; round < 30; ++round) {
    SCOPED_TRACE(round);
    Items items = random_items(random, 6, /*unit=*/1'000'003);
    for (std::vector<Candidate>& candidates : items) {  // no common divisor any more
      for (Candidate& candidate : candidates)
        candidate.n_bytes += static_cast<std::int64_t>(random() % 999);
    }
    std::uniform_int_distribution<std::int64_t> any(least_bytes(items), most_bytes(items));
    const std::int64_t budget = any(random);
    const auto allocation = allocate(items, budget);
    ASSERT_TRUE(allocation) << allocation.error().message();
    expect_consistent(items, *allocation);
    EXPECT_LE(allocation->n_bytes, budget);
    // What the best choice would be with the bytes that rounding to 65536 units may cost.
    const std::int64_t n_lost =
        static_cast<std::int64_t>(items.size()) * ((budget - least_bytes(items)) / 65536 + 1);
    EXPECT_LE(allocation->loss,
              by_trying_all(items, std::max(budget - n_lost, least_bytes(items))) + 1e-15);
  }
}

TEST(Allocate, NeverExceedsTheBudgetWithManyItems) {
  std::mt19937 random(11);
  for (int round = 0; round < 5; ++round) {
    SCOPED_TRACE(round);
    Items items = random_items(random, 60, /*unit=*/100'003);
    for (std::vector<Candidate>& candidates : items) {
      for (Candidate& candidate : candidates)
        candidate.n_bytes += static_cast<std::int64_t>(random() % 99'999);
    }
    const std::int64_t budget = (least_bytes(items) + most_bytes(items)) / 2;
    const auto allocation = allocate(items, budget);
    ASSERT_TRUE(allocation);
    expect_consistent(items, *allocation);
    EXPECT_LE(allocation->n_bytes, budget);
    EXPECT_GT(allocation->n_bytes, budget - budget / 1000);
  }
}

TEST(Allocate, LeavesNoStepThatWouldFit) {
  std::mt19937 random(9);
  const Items items = random_items(random, 40, /*unit=*/77'777);
  const std::int64_t budget = (least_bytes(items) + most_bytes(items)) / 2;
  const auto allocation = allocate(items, budget);
  ASSERT_TRUE(allocation);
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Candidate& now = items[i][allocation->chosen[i]];
    for (const Candidate& other : items[i]) {
      EXPECT_FALSE(other.loss < now.loss &&
                   allocation->n_bytes - now.n_bytes + other.n_bytes <= budget);
    }
  }
}

TEST(Allocate, SaysTheLeastWhenTheBudgetIsBelowIt) {
  const Items items = {{{100, 1.0}, {200, 0.5}}, {{50, 2.0}}};
  const auto allocation = allocate(items, 149);
  ASSERT_FALSE(allocation);
  EXPECT_NE(allocation.error().message().find("150"), std::string::npos);
  EXPECT_TRUE(allocate(items, 150));
}

TEST(Allocate, EqualLossesTakeTheFewerBytes) {
  const Items items = {{{300, 1.0}, {100, 1.0}, {200, 1.0}}};
  const auto allocation = allocate(items, 1000);
  ASSERT_TRUE(allocation);
  EXPECT_EQ(allocation->n_bytes, 100);
}

TEST(AllocateUnderLoss, TakesTheFewestBytes) {
  std::mt19937 random(10);
  for (int round = 0; round < 50; ++round) {
    SCOPED_TRACE(round);
    const Items items = random_items(random, 4, /*unit=*/1000);
    const double least_loss = allocate(items, most_bytes(items))->loss;
    const double most_loss = allocate(items, least_bytes(items))->loss;
    const double wanted = std::sqrt(least_loss * most_loss);
    const auto allocation = allocate_under_loss(items, wanted);
    ASSERT_TRUE(allocation) << allocation.error().message();
    expect_consistent(items, *allocation);
    EXPECT_LE(allocation->loss, wanted);
    const std::int64_t n_fewer = allocation->n_bytes - 1000;
    if (n_fewer >= least_bytes(items)) {
      EXPECT_GT(by_trying_all(items, n_fewer), wanted);
    }
  }
}

TEST(AllocateUnderLoss, SaysTheLeastLoss) {
  const Items items = {{{100, 1.0}, {200, 0.5}}};
  const auto allocation = allocate_under_loss(items, 0.25);
  ASSERT_FALSE(allocation);
  EXPECT_NE(allocation.error().message().find("0.5"), std::string::npos);
}

}  // namespace
}  // namespace lowbit
