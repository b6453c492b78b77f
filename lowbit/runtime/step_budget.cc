// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/step_budget.h"

#include <algorithm>

namespace lowbit {
namespace {

/// Of max_itl, kept back for what sampling adds and for how much steps vary. The limit is aimed at,
/// not held: the slowest hundredth of mixed steps took 1.4 times their median, and with 0.3 a long
/// prompt beside streams that grow was hardly read any more.
constexpr double reserve = 0.2;
constexpr std::int64_t least_prompt_alone = 16;  // tokens

void follow(double& estimate, double seen) {
  constexpr double rise = 0.5, fall = 0.125;
  estimate = estimate == 0 ? seen : estimate + (seen > estimate ? rise : fall) * (seen - estimate);
}

}  // namespace

void StepCost::add(const StepSample& sample) {
  if (!(sample.seconds > 0)) return;
  if (sample.n_prompt_tokens == 0) {
    if (sample.n_decodes > 0) follow(decode_seconds_, sample.seconds);
    return;
  }
  // A short prompt alone tells of the fixed cost of a step.
  if (sample.n_decodes == 0 && sample.n_prompt_tokens < least_prompt_alone) return;
  // Decodes read all weights anyway: what they cost alone is not the prompts'.
  const double shared = sample.n_decodes > 0 ? decode_seconds_ : 0;
  const double added = std::max(sample.seconds - shared, 0.0);
  follow(prompt_token_seconds_, added / static_cast<double>(sample.n_prompt_tokens));
}

std::int64_t prompt_budget(double max_itl, const StepCost& cost, const PromptBudgetLimits& limits) {
  if (max_itl == 0) return limits.most;
  if (cost.prompt_token_seconds() == 0) return limits.least;
  const double seconds_left = max_itl * (1 - reserve) - cost.decode_seconds();
  const double n_tokens = seconds_left / cost.prompt_token_seconds();
  if (!(n_tokens > static_cast<double>(limits.least))) return limits.least;
  if (n_tokens >= static_cast<double>(limits.most)) return limits.most;
  return static_cast<std::int64_t>(n_tokens);
}

}  // namespace lowbit
