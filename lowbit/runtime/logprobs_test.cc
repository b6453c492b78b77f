// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

namespace lowbit {
namespace {

TEST(Logprobs, AreThoseOfASoftmaxInDoublePrecision) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 6);
  std::vector<float> logits(1000);
  for (float& logit : logits) logit = normal(random);
  logits[17] = logits[400] = 40;  // the likeliest two are equal
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  const auto expected = [&](std::size_t token) {
    return static_cast<double>(logits[token]) - std::log(sum);
  };
  // exp within 1.2e-7 of each term, log within 3e-7 of a sum's logarithm below 8, and four
  // roundings of numbers below 128 to half a unit of 2^-17.
  constexpr double bound = 1.2e-7 + 8 * 3e-7 + 4 * 0x1p-18;
  const TokenLogprobs found = logprobs_of(logits, 5, 20);
  EXPECT_NEAR(static_cast<double>(found.logprob), expected(5), bound);
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::ranges::greater(),
                           [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; });
  ASSERT_EQ(found.top.size(), 20u);
  EXPECT_EQ(found.top[0].token, 17);
  EXPECT_EQ(found.top[1].token, 400);
  for (std::size_t i = 0; i < found.top.size(); ++i) {
    EXPECT_EQ(found.top[i].token, order[i]);
    const auto token = static_cast<std::size_t>(order[i]);
    EXPECT_NEAR(static_cast<double>(found.top[i].logprob), expected(token), bound);
  }
}

TEST(Logprobs, EdgesOfLogitsAndCounts) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits{-infinity, 1, std::nanf(""), 1};
  const TokenLogprobs found = logprobs_of(logits, 1, 9);
  EXPECT_NEAR(found.logprob, std::log(0.5f), 1e-6f);
  ASSERT_EQ(found.top.size(), 4u);
  EXPECT_EQ(found.top[0].token, 1);
  EXPECT_EQ(found.top[1].token, 3);
  EXPECT_EQ(found.top[2].logprob, -infinity);
  EXPECT_EQ(logprobs_of(logits, 0, 0).logprob, -infinity);
  EXPECT_TRUE(logprobs_of(logits, 0, 0).top.empty());
  EXPECT_EQ(logprobs_of(std::vector<float>{5}, 0, 1).top[0].logprob, 0);
}

}  // namespace
}  // namespace lowbit
