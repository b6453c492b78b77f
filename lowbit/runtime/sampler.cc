// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include <fmt/format.h>

#include "lowbit/base/math.h"
#include "lowbit/runtime/philox.h"
#include "lowbit/runtime/token_constraint.h"

namespace lowbit {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// Likeliest first, ties by id: a total order, so every selection has one answer.
bool is_likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

double weight_of(float logit) {
  return static_cast<double>(math::exp(logit));
}

std::int32_t argmax(std::span<const float> logits) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best]) best = i;
  }
  return static_cast<std::int32_t>(best);
}

std::int32_t first_of(std::span<const std::uint64_t> allowed) {
  std::size_t word = 0;
  while (word + 1 < allowed.size() && allowed[word] == 0) ++word;
  return static_cast<std::int32_t>(word * token_mask_word_bits) + std::countr_zero(allowed[word]);
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
                             const EarlierTokens& earlier, std::uint64_t position,
                             std::span<const std::uint64_t> allowed) {
  const std::span<const Candidate> candidates = distribution(logits, params, earlier, allowed);
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
                                                 const EarlierTokens& earlier,
                                                 std::span<const std::uint64_t> allowed) {
  adjust(logits, params, earlier);
  mask(allowed);
  std::int32_t likeliest = argmax(logits_);
  if (!allowed.empty() && logits_[static_cast<std::size_t>(likeliest)] == minus_infinity) {
    likeliest = first_of(allowed);
  }
  const float top = logits_[static_cast<std::size_t>(likeliest)];
  candidates_.clear();
  if (params.temperature == 0 || params.top_k == 1 || std::isinf(top)) {
    candidates_.push_back({likeliest, top, 1});
    return candidates_;
  }
  for (float& logit : logits_) logit = (logit - top) / params.temperature;
  if (params.top_k > 0) {
    keep_likeliest(static_cast<std::size_t>(params.top_k));
    if (params.top_p < 1) keep_mass(static_cast<double>(params.top_p) * total_weight());
  } else if (params.top_p < 1) {
    keep_mass_of_all(params.top_p);
  } else {
    keep_all();
  }
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

void Sampler::mask(std::span<const std::uint64_t> allowed) {
  for (std::size_t word = 0; word < allowed.size(); ++word) {
    if (~allowed[word] == 0) continue;
    const std::size_t first = word * token_mask_word_bits;
    const std::size_t last =
        std::min(logits_.size(), first + static_cast<std::size_t>(token_mask_word_bits));
    for (std::size_t i = first; i < last; ++i) {
      if ((allowed[word] >> (i - first) & 1) == 0) logits_[i] = minus_infinity;
    }
  }
}

void Sampler::keep_all() {
  candidates_.clear();
  candidates_.reserve(logits_.size());
  for (std::size_t i = 0; i < logits_.size(); ++i) {
    candidates_.push_back({static_cast<std::int32_t>(i), logits_[i], weight_of(logits_[i])});
  }
}

/// Tokens of at least this logit, likeliest first.
void Sampler::keep_above(float bound) {
  candidates_.clear();
  for (std::size_t i = 0; i < logits_.size(); ++i) {
    if (logits_[i] < bound) continue;
    candidates_.push_back({static_cast<std::int32_t>(i), logits_[i], weight_of(logits_[i])});
  }
  std::sort(candidates_.begin(), candidates_.end(), is_likelier);
}

/// The n_kept likeliest, likeliest first. One comparison for most tokens: what is below the worst
/// of the n_kept best so far is passed over.
void Sampler::keep_likeliest(std::size_t n_kept) {
  candidates_.clear();
  n_kept = std::min(n_kept, logits_.size());
  constexpr std::size_t slack = 1024;  // candidates gathered before the worst are dropped
  const auto end_of_kept = [&] {
    return candidates_.begin() + static_cast<std::ptrdiff_t>(n_kept);
  };
  float bound = minus_infinity;
  for (std::size_t i = 0; i < logits_.size(); ++i) {
    if (logits_[i] < bound) continue;
    candidates_.push_back({static_cast<std::int32_t>(i), logits_[i], 0});
    if (candidates_.size() < n_kept + slack) continue;
    std::nth_element(candidates_.begin(), end_of_kept() - 1, candidates_.end(), is_likelier);
    candidates_.resize(n_kept);
    bound = candidates_.back().logit;
  }
  if (candidates_.size() > n_kept) {
    std::nth_element(candidates_.begin(), end_of_kept(), candidates_.end(), is_likelier);
    candidates_.resize(n_kept);
  }
  std::sort(candidates_.begin(), candidates_.end(), is_likelier);
  for (Candidate& candidate : candidates_) candidate.weight = weight_of(candidate.logit);
}

double Sampler::total_weight() const {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  return total;
}

/// Cuts the sorted candidates to the fewest that hold the mass; false, and all stay, if they do
/// not.
bool Sampler::keep_mass(double mass) {
  double passed = 0;
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    passed += candidates_[i].weight;
    if (passed >= mass) {
      candidates_.resize(i + 1);
      return true;
    }
  }
  return false;
}

/// The fewest likeliest tokens that hold top_p of all weight. Weights gathered by logit tell below
/// which logit no token can be needed; only the tokens above are sorted.
void Sampler::keep_mass_of_all(float top_p) {
  constexpr std::size_t n_buckets = 128;
  constexpr float buckets_per_nat = 8;
  std::array<double, n_buckets> buckets{};
  double total = 0;
  for (const float logit : logits_) {
    const double weight = weight_of(logit);
    const float distance = std::min(-logit * buckets_per_nat, static_cast<float>(n_buckets - 1));
    buckets[static_cast<std::size_t>(distance)] += weight;
    total += weight;
  }
  const double mass = static_cast<double>(top_p) * total;
  std::size_t n_needed = 0;
  for (double passed = 0; n_needed < n_buckets && passed < mass; ++n_needed) {
    passed += buckets[n_needed];
  }
  if (n_needed < n_buckets) {
    keep_above(-static_cast<float>(n_needed) / buckets_per_nat);
    if (keep_mass(mass)) return;
  }
  keep_above(minus_infinity);  // the last bucket has no lower end, and sums round differently
  keep_mass(mass);
}

}  // namespace lowbit
