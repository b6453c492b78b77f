// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include <fmt/format.h>

#include "lowbit/base/math.h"
#include "lowbit/runtime/philox.h"

namespace lowbit {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// Likeliest first, ties by id: a total order, so every selection has one answer.
bool is_likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

std::int32_t argmax(std::span<const float> logits) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best]) best = i;
  }
  return static_cast<std::int32_t>(best);
}

}  // namespace

Status check(const SamplingParams& params, std::int64_t n_vocab) {
  const auto outside = [](std::string_view field, double value, std::string_view range) {
    return Error(fmt::format("{} is {}; it must be {}", field, value, range));
  };
  const auto is_within = [](float value, float low, float high) {
    return value >= low && value <= high;  // false for NaN
  };
  constexpr float largest = std::numeric_limits<float>::max();
  if (!is_within(params.temperature, 0, largest)) {
    return outside("temperature", params.temperature, "0 (greedy) or more");
  }
  if (params.top_k < 0) {
    return outside("top_k", static_cast<double>(params.top_k), "0 (off) or more");
  }
  if (!(params.top_p > 0) || params.top_p > 1) {
    return outside("top_p", params.top_p, "above 0 and at most 1 (off)");
  }
  if (!is_within(params.min_p, 0, 1)) {
    return outside("min_p", params.min_p, "from 0 (off) to 1");
  }
  if (!(params.repetition_penalty > 0) || params.repetition_penalty > largest) {
    return outside("repetition_penalty", params.repetition_penalty, "above 0 (1 is off)");
  }
  if (!is_within(params.presence_penalty, -largest, largest)) {
    return outside("presence_penalty", params.presence_penalty, "a finite number (0 is off)");
  }
  if (!is_within(params.frequency_penalty, -largest, largest)) {
    return outside("frequency_penalty", params.frequency_penalty, "a finite number (0 is off)");
  }
  for (const auto& [token, bias] : params.logit_bias) {
    if (token < 0 || token >= n_vocab) {
      return outside("logit_bias token", token, fmt::format("from 0 to {}", n_vocab - 1));
    }
    if (std::isnan(bias)) return outside("logit_bias value", bias, "a number");
  }
  return ok();
}

std::int32_t Sampler::sample(std::span<const float> logits, const SamplingParams& params,
                             const EarlierTokens& earlier, std::uint64_t position) {
  const std::span<const Candidate> candidates = distribution(logits, params, earlier);
  if (candidates.size() == 1) return candidates.front().token;
  double total = 0;
  for (const Candidate& candidate : candidates) total += candidate.weight;
  const double drawn = uniform_draw(params.seed, position) * total;
  double passed = 0;
  std::int32_t last_possible = candidates.front().token;
  for (const Candidate& candidate : candidates) {
    if (!(candidate.weight > 0)) continue;
    passed += candidate.weight;
    last_possible = candidate.token;
    if (drawn < passed) break;
  }
  return last_possible;
}

std::span<const Candidate> Sampler::distribution(std::span<const float> logits,
                                                 const SamplingParams& params,
                                                 const EarlierTokens& earlier) {
  adjust(logits, params, earlier);
  const std::int32_t likeliest = argmax(logits_);
  const float top = logits_[static_cast<std::size_t>(likeliest)];
  candidates_.clear();
  if (params.temperature == 0 || params.top_k == 1 || std::isinf(top)) {
    candidates_.push_back({likeliest, top, 1});
    return candidates_;
  }
  candidates_.reserve(logits_.size());
  for (std::size_t i = 0; i < logits_.size(); ++i) {
    const float logit = (logits_[i] - top) / params.temperature;
    candidates_.push_back({static_cast<std::int32_t>(i), logit, 0});
  }
  if (params.top_k > 0) keep_likeliest(static_cast<std::size_t>(params.top_k));
  for (Candidate& candidate : candidates_) {
    candidate.weight = static_cast<double>(math::exp(candidate.logit));
  }
  if (params.top_p < 1) keep_mass(params.top_p);
  if (params.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& candidate) {
      return candidate.weight < static_cast<double>(params.min_p);
    });
  }
  return candidates_;
}

void Sampler::adjust(std::span<const float> logits, const SamplingParams& params,
                     const EarlierTokens& earlier) {
  logits_.assign(logits.begin(), logits.end());
  counts_.resize(logits.size());
  const auto at = [](std::int32_t token) { return static_cast<std::size_t>(token); };
  if (params.repetition_penalty != 1) {
    for (const auto tokens : {earlier.prompt, earlier.generated}) {
      for (const std::int32_t token : tokens) {
        if (counts_[at(token)]++ != 0) continue;
        float& logit = logits_[at(token)];
        logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
      }
    }
    for (const auto tokens : {earlier.prompt, earlier.generated}) {
      for (const std::int32_t token : tokens) counts_[at(token)] = 0;
    }
  }
  if (params.presence_penalty != 0 || params.frequency_penalty != 0) {
    for (const std::int32_t token : earlier.generated) ++counts_[at(token)];
    for (const std::int32_t token : earlier.generated) {
      if (counts_[at(token)] == 0) continue;
      logits_[at(token)] -= params.presence_penalty +
                            params.frequency_penalty * static_cast<float>(counts_[at(token)]);
      counts_[at(token)] = 0;
    }
  }
  for (const auto& [token, bias] : params.logit_bias) logits_[at(token)] += bias;
  for (float& logit : logits_) {
    if (std::isnan(logit)) logit = minus_infinity;
  }
}

/// The n_kept likeliest, likeliest first.
void Sampler::keep_likeliest(std::size_t n_kept) {
  n_kept = std::min(n_kept, candidates_.size());
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(n_kept);
  if (end != candidates_.end()) {
    std::nth_element(candidates_.begin(), end, candidates_.end(), is_likelier);
  }
  std::sort(candidates_.begin(), end, is_likelier);
  candidates_.erase(end, candidates_.end());
}

/// The fewest likeliest tokens that together hold top_p of the weight, likeliest first. Only as
/// many are sorted as are needed: a vocabulary has 10^5 tokens, the answer mostly a few hundred.
void Sampler::keep_mass(float top_p) {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  const double wanted = static_cast<double>(top_p) * total;
  constexpr std::size_t first_guess = 256, growth = 8;
  std::size_t n_sorted = 0;
  double passed = 0;
  while (n_sorted < candidates_.size()) {
    const std::size_t n_next =
        std::min(candidates_.size(), n_sorted == 0 ? first_guess : n_sorted * growth);
    const auto at = [&](std::size_t i) {
      return candidates_.begin() + static_cast<std::ptrdiff_t>(i);
    };
    if (n_next < candidates_.size()) {
      std::nth_element(at(n_sorted), at(n_next), candidates_.end(), is_likelier);
    }
    std::sort(at(n_sorted), at(n_next), is_likelier);
    for (; n_sorted < n_next; ++n_sorted) {
      passed += candidates_[n_sorted].weight;
      if (passed >= wanted) return candidates_.resize(n_sorted + 1);
    }
  }
}

}  // namespace lowbit
