// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/step_budget.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace lowbit {
namespace {

constexpr PromptBudgetLimits limits{.least = 8, .most = 512};

TEST(StepBudget, FollowsFromWhatWasMeasured) {
  StepCost cost;
  EXPECT_EQ(prompt_budget(0, cost, limits), 512);
  EXPECT_EQ(prompt_budget(0.1, cost, limits), 8);  // nothing is known yet
  cost.add({.n_decodes = 8, .n_prompt_tokens = 0, .seconds = 0.020});
  EXPECT_DOUBLE_EQ(cost.decode_seconds(), 0.020);
  EXPECT_EQ(prompt_budget(0.1, cost, limits), 8);
  cost.add({.n_decodes = 8, .n_prompt_tokens = 100, .seconds = 0.070});
  EXPECT_DOUBLE_EQ(cost.prompt_token_seconds(), 0.0005);
  // 101 ms less a fifth less 20 ms at half a millisecond each.
  EXPECT_EQ(prompt_budget(0.101, cost, limits), 121);
  EXPECT_EQ(prompt_budget(10, cost, limits), 512);
  EXPECT_EQ(prompt_budget(0.02, cost, limits), 8);
  EXPECT_EQ(prompt_budget(0.001, cost, limits), 8);
}

TEST(StepBudget, RisesFastAndFallsSlowly) {
  StepCost cost;
  cost.add({.n_decodes = 1, .n_prompt_tokens = 0, .seconds = 1});
  cost.add({.n_decodes = 1, .n_prompt_tokens = 0, .seconds = 2});
  EXPECT_DOUBLE_EQ(cost.decode_seconds(), 1.5);
  cost.add({.n_decodes = 1, .n_prompt_tokens = 0, .seconds = 0.7});
  EXPECT_DOUBLE_EQ(cost.decode_seconds(), 1.4);
}

TEST(StepBudget, SamplesThatSayNothingAreLeftOut) {
  StepCost cost;
  cost.add({.n_decodes = 0, .n_prompt_tokens = 3, .seconds = 1});   // the fixed cost of a step
  cost.add({.n_decodes = 4, .n_prompt_tokens = 64, .seconds = 0});  // a clock that stands still
  cost.add({.n_decodes = 0, .n_prompt_tokens = 0, .seconds = 1});
  EXPECT_EQ(cost.decode_seconds(), 0);
  EXPECT_EQ(cost.prompt_token_seconds(), 0);
  cost.add({.n_decodes = 4, .n_prompt_tokens = 0, .seconds = 1});
  cost.add({.n_decodes = 4, .n_prompt_tokens = 64, .seconds = 0.5});  // faster than without
  EXPECT_EQ(prompt_budget(0.5, cost, limits), 8);
}

/// A machine on which a step costs 30 ms and every prompt token 0.4 ms and more with its depth:
/// a prompt of 4000 tokens arrives beside 8 streams that are to wait for 60 ms at most.
TEST(StepBudget, ALongPromptKeepsTheStreamsUnderTheirLimit) {
  constexpr double max_itl = 0.060;
  const auto seconds_of = [](std::int64_t n_tokens, std::int64_t depth) {
    return 0.030 + static_cast<double>(n_tokens) * (0.0004 + 1e-7 * static_cast<double>(depth));
  };
  StepCost cost;
  for (int i = 0; i < 5; ++i) cost.add({.n_decodes = 8, .seconds = seconds_of(0, 0)});
  std::int64_t n_read = 0, n_steps = 0;
  while (n_read < 4000) {
    const std::int64_t n = std::min(prompt_budget(max_itl, cost, limits), 4000 - n_read);
    const double seconds = seconds_of(n, n_read);
    EXPECT_LE(seconds, max_itl) << n_read;
    cost.add({.n_decodes = 8, .n_prompt_tokens = n, .seconds = seconds});
    n_read += n;
    ++n_steps;
  }
  EXPECT_LT(n_steps, 4000 / limits.least);  // and it is read faster than at the least budget
}

}  // namespace
}  // namespace lowbit
