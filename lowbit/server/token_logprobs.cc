// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/token_logprobs.h"

#include <algorithm>
#include <numeric>

#include "lowbit/measure/log_softmax.h"

namespace lowbit {

TokenLogprobs logprobs_of(std::span<const float> logits, std::int32_t token, int n_top) {
  const double total = log_sum_exp(logits);
  const auto logprob = [&](std::int32_t id) {
    return static_cast<double>(logits[static_cast<std::size_t>(id)]) - total;
  };
  TokenLogprobs found{.token = token, .logprob = logprob(token)};
  if (n_top <= 0) return found;
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto n_kept = std::min(ids.size(), static_cast<std::size_t>(n_top));
  const auto comes_before = [&](std::int32_t a, std::int32_t b) {
    const float la = logits[static_cast<std::size_t>(a)], lb = logits[static_cast<std::size_t>(b)];
    return la > lb || (la == lb && a < b);
  };
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n_kept), ids.end(),
                    comes_before);
  for (std::size_t i = 0; i < n_kept; ++i) found.top.emplace_back(ids[i], logprob(ids[i]));
  return found;
}

}  // namespace lowbit
