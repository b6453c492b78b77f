// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/logprobs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "lowbit/base/math.h"

namespace lowbit {

TokenLogprobs logprobs_of(std::span<const float> logits, std::int32_t token, int n_top,
                          const VectorKernels& kernels) {
  constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
  const float most = kernels.max(logits.data(), std::ssize(logits));
  double sum = 0;
  std::array<float, 1024> weights;
  for (std::size_t first = 0; std::isfinite(most) && first < logits.size();
       first += weights.size()) {
    const auto some = logits.subspan(first, std::min(weights.size(), logits.size() - first));
    sum +=
        static_cast<double>(kernels.weigh(some.data(), most, 1, std::ssize(some), weights.data()));
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
