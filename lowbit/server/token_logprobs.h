// SPDX-License-Identifier: Apache-2.0
// Log-probabilities of a chosen token and of the likeliest ones beside it, from the raw logits, as
// OpenAI defines them: before penalties, bias, temperature and filters.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace lowbit {

struct TokenLogprobs {
  std::int32_t token = 0;
  double logprob = 0;
  std::vector<std::pair<std::int32_t, double>> top = {};  // likeliest first; ties: smaller id first
};

/// logits: (n_vocab), token one of them.
TokenLogprobs logprobs_of(std::span<const float> logits, std::int32_t token, int n_top);

}  // namespace lowbit
