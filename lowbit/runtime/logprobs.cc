// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lowbit/base/math.h"

namespace lowbit {

TokenLogprobs logprobs_of(std::span<const float> logits, std::int32_t token, int n_top) {
  constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
  float most = minus_infinity;
  for (const float logit : logits) most = logit > most ? logit : most;
  double sum = 0;
  for (const float logit : logits) {
    if (!std::isnan(logit)) sum += static_cast<double>(math::exp(logit - most));
  }
  const float log_sum = math::log(static_cast<float>(sum));
  const auto of = [&](std::size_t id) {
    const float logprob = logits[id] - most - log_sum;
    return std::isnan(logprob) ? minus_infinity : logprob;
  };

  TokenLogprobs result{.token = token};
  result.logprob = of(static_cast<std::size_t>(token));
  const auto n_kept = std::min(static_cast<std::size_t>(n_top), logits.size());
  if (n_kept == 0) return result;
  // A list in order, into which few tokens come: most are below its end.
  for (std::size_t id = 0; id < logits.size(); ++id) {
    const float logprob = of(id);
    if (result.top.size() == n_kept) {
      if (!(logprob > result.top.back().logprob)) continue;
      result.top.pop_back();
    }
    const auto at = std::ranges::upper_bound(result.top, logprob, std::ranges::greater(),
                                             &TokenLogprob::logprob);
    result.top.insert(at, {static_cast<std::int32_t>(id), logprob});
  }
  return result;
}

}  // namespace lowbit
