// SPDX-License-Identifier: Apache-2.0
// How many tokens of prompts may ride with decodes so that nobody waits longer than asked for the
// next token. Costs are learned from the steps that were taken; the budget is a pure function of
// them. Timing decides when a token is computed, never which.
#pragma once

#include <cstdint>

namespace lowbit {

struct StepSample {
  std::int64_t n_decodes = 0, n_prompt_tokens = 0;
  double seconds = 0;
};

/// What a step costs on this machine now. Estimates rise fast and fall slowly: a step that was
/// too long is seen by users, one that was too short is not.
class StepCost {
 public:
  void add(const StepSample& sample);

  /// Of a step of decodes alone; 0: none was seen.
  double decode_seconds() const { return decode_seconds_; }
  /// That one more token of a prompt adds; 0: none was seen.
  double prompt_token_seconds() const { return prompt_token_seconds_; }

 private:
  double decode_seconds_ = 0, prompt_token_seconds_ = 0;
};

struct PromptBudgetLimits {
  std::int64_t least = 4, most = 512;  // tokens
};

/// Tokens of prompts beside decodes in a step that shall end in max_itl seconds. At least
/// limits.least, or prompts would never be read; that much too while the cost is unknown.
/// max_itl 0: limits.most.
std::int64_t prompt_budget(double max_itl, const StepCost& cost, const PromptBudgetLimits& limits);

}  // namespace lowbit
