// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <iterator>
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

/// Tokens that are looked at together: what is known of a block (its largest logit, the sum of its
/// weights) spares a look at each.
constexpr std::size_t block_tokens = 1024;

/// Roundings may give two logits the same weight.
bool is_heavier(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

/// Weights from 0 to 1 by the first bits of their float: eight buckets an octave, heavier ones
/// later.
constexpr int bucket_shift = 20;
constexpr std::size_t n_weight_buckets = (std::bit_cast<std::uint32_t>(1.0f) >> bucket_shift) + 1;

std::size_t bucket_of(const Candidate& candidate) {
  return std::bit_cast<std::uint32_t>(static_cast<float>(candidate.weight)) >> bucket_shift;
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
  const Top top = prepare(logits, params, earlier, allowed);
  if (top.is_choice) return top.token;
  const double part = uniform_draw(params.seed, position);
  if (params.top_k == 0 && params.top_p == 1 && params.min_p == 0) {
    weigh(top, params.temperature);
    return draw_from_all(part);
  }
  filter(params, top);
  return draw_from_candidates(part);
}

std::span<const Candidate> Sampler::distribution(std::span<const float> logits,
                                                 const SamplingParams& params,
                                                 const EarlierTokens& earlier,
                                                 std::span<const std::uint64_t> allowed) {
  const Top top = prepare(logits, params, earlier, allowed);
  if (top.is_choice) {
    candidates_.assign(1, {top.token, top.logit, 1});
  } else {
    filter(params, top);
  }
  return candidates_;
}

/// The logits after everything that changes them, and the likeliest token.
Sampler::Top Sampler::prepare(std::span<const float> logits, const SamplingParams& params,
                              const EarlierTokens& earlier,
                              std::span<const std::uint64_t> allowed) {
  logits_ = logits;
  const bool is_changed = params.repetition_penalty != 1 || params.presence_penalty != 0 ||
                          params.frequency_penalty != 0 || !params.logit_bias.empty() ||
                          !allowed.empty();
  if (is_changed) {
    own_.assign(logits.begin(), logits.end());
    logits_ = own_;
    adjust(params, earlier);
    mask(allowed);
  }
  Top top{.token = likeliest()};
  top.logit = logits_[static_cast<std::size_t>(top.token)];
  const bool nothing_is_possible = !(top.logit > minus_infinity);
  if (nothing_is_possible && !allowed.empty()) top.token = first_of(allowed);
  top.is_choice =
      params.temperature == 0 || params.top_k == 1 || nothing_is_possible || std::isinf(top.logit);
  return top;
}

void Sampler::adjust(const SamplingParams& params, const EarlierTokens& earlier) {
  counts_.resize(own_.size());
  const auto at = [](std::int32_t token) { return static_cast<std::size_t>(token); };
  if (params.repetition_penalty != 1) {
    for (const auto tokens : {earlier.prompt, earlier.generated}) {
      for (const std::int32_t token : tokens) {
        if (counts_[at(token)]++ != 0) continue;
        float& logit = own_[at(token)];
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
      own_[at(token)] -= params.presence_penalty +
                         params.frequency_penalty * static_cast<float>(counts_[at(token)]);
      counts_[at(token)] = 0;
    }
  }
  for (const auto& [token, bias] : params.logit_bias) own_[at(token)] += bias;
}

void Sampler::mask(std::span<const std::uint64_t> allowed) {
  for (std::size_t word = 0; word < allowed.size(); ++word) {
    if (~allowed[word] == 0) continue;
    const std::size_t first = word * token_mask_word_bits;
    const std::size_t last =
        std::min(own_.size(), first + static_cast<std::size_t>(token_mask_word_bits));
    if (allowed[word] == 0) {
      std::fill(own_.begin() + static_cast<std::ptrdiff_t>(first),
                own_.begin() + static_cast<std::ptrdiff_t>(last), minus_infinity);
      continue;
    }
    for (std::size_t i = first; i < last; ++i) {
      if ((allowed[word] >> (i - first) & 1) == 0) own_[i] = minus_infinity;
    }
  }
}

/// The first of the largest; 0 where all are NaN.
std::int32_t Sampler::likeliest() const {
  float most = minus_infinity;
  std::size_t best_block = 0;
  for (std::size_t first = 0; first < logits_.size(); first += block_tokens) {
    const auto block = logits_.subspan(first, std::min(block_tokens, logits_.size() - first));
    const float largest = kernels_->max(block.data(), std::ssize(block));
    if (!(largest > most)) continue;
    most = largest;
    best_block = first;
  }
  for (std::size_t i = best_block; i < logits_.size(); ++i) {
    if (logits_[i] == most) return static_cast<std::int32_t>(i);
  }
  return 0;
}

void Sampler::weigh(const Top& top, float temperature) {
  weights_.resize(logits_.size());
  block_sums_.clear();
  total_ = 0;
  for (std::size_t first = 0; first < logits_.size(); first += block_tokens) {
    const std::size_t n_tokens = std::min(block_tokens, logits_.size() - first);
    block_sums_.push_back(kernels_->weigh(logits_.data() + first, top.logit, temperature,
                                          static_cast<std::int64_t>(n_tokens),
                                          weights_.data() + first));
    total_ += static_cast<double>(block_sums_.back());
  }
}

/// In the order of ids. The sum of a block and its weights one by one differ by roundings: then the
/// draw goes on into the next block.
std::int32_t Sampler::draw_from_all(double part) const {
  const double drawn = part * total_;
  double passed = 0;
  std::size_t block = 0;
  for (; block + 1 < block_sums_.size(); ++block) {
    const double after = passed + static_cast<double>(block_sums_[block]);
    if (drawn < after) break;
    passed = after;
  }
  std::size_t last_possible = 0;
  for (std::size_t i = block * block_tokens; i < weights_.size(); ++i) {
    if (!(weights_[i] > 0)) continue;
    last_possible = i;
    passed += static_cast<double>(weights_[i]);
    if (drawn < passed) break;
  }
  return static_cast<std::int32_t>(last_possible);
}

std::int32_t Sampler::draw_from_candidates(double part) const {
  const double drawn = part * candidate_weight();
  double passed = 0;
  std::int32_t last_possible = candidates_.front().token;
  for (const Candidate& candidate : candidates_) {
    if (!(candidate.weight > 0)) continue;
    passed += candidate.weight;
    last_possible = candidate.token;
    if (drawn < passed) break;
  }
  return last_possible;
}

/// The candidates: of top_k likeliest first, otherwise in the order of ids.
void Sampler::filter(const SamplingParams& params, const Top& top) {
  if (params.top_k > 0) {
    keep_likeliest(params, top);
    if (params.top_p < 1) keep_mass(static_cast<double>(params.top_p) * candidate_weight());
  } else {
    weigh(top, params.temperature);
    const double mass = static_cast<double>(params.top_p) * total_;
    // Most distributions need few tokens: those of less weight are looked at only where they must.
    constexpr float least_weight = 0x1p-10f;
    keep_above(params.top_p < 1 ? least_weight : 0);
    if (params.top_p < 1 && candidate_weight() < mass) keep_above(0);
    if (params.top_p < 1) keep_mass(mass);
  }
  if (params.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& candidate) {
      return candidate.weight < static_cast<double>(params.min_p);
    });
  }
}

double Sampler::candidate_weight() const {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  return total;
}

/// Tokens of at least this weight and above 0, in the order of ids. No weight of a block is above
/// its sum.
void Sampler::keep_above(float least_weight) {
  candidates_.clear();
  for (std::size_t block = 0; block < block_sums_.size(); ++block) {
    if (block_sums_[block] < least_weight) continue;
    const std::size_t first = block * block_tokens;
    const std::size_t last = std::min(first + block_tokens, weights_.size());
    for (std::size_t i = first; i < last; ++i) {
      if (weights_[i] < least_weight || weights_[i] == 0) continue;
      candidates_.push_back(
          {static_cast<std::int32_t>(i), logits_[i], static_cast<double>(weights_[i])});
    }
  }
}

/// The top_k likeliest, likeliest first. One look at most blocks: what is below the worst of the
/// top_k best so far, which is kept last, is passed over.
void Sampler::keep_likeliest(const SamplingParams& params, const Top& top) {
  candidates_.clear();
  const std::size_t n_kept = std::min(static_cast<std::size_t>(params.top_k), logits_.size());
  const auto drop_worst = [&] {
    if (candidates_.size() < n_kept) return;
    const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(n_kept);
    std::nth_element(candidates_.begin(), end - 1, candidates_.end(), is_likelier);
    candidates_.resize(n_kept);
  };
  float bound = minus_infinity;
  for (std::size_t first = 0; first < logits_.size(); first += block_tokens) {
    const std::size_t last = std::min(first + block_tokens, logits_.size());
    const auto n_tokens = static_cast<std::int64_t>(last - first);
    if (kernels_->max(logits_.data() + first, n_tokens) < bound) continue;
    for (std::size_t i = first; i < last; ++i) {
      if (!(logits_[i] >= bound)) continue;
      candidates_.push_back({static_cast<std::int32_t>(i), logits_[i], 0});
    }
    drop_worst();
    if (candidates_.size() == n_kept) bound = candidates_.back().logit;
  }
  std::sort(candidates_.begin(), candidates_.end(), is_likelier);
  for (Candidate& candidate : candidates_) {
    candidate.weight =
        static_cast<double>(math::exp((candidate.logit - top.logit) / params.temperature));
  }
}

/// Keeps the fewest that hold the mass, heaviest first; all where roundings leave them just below
/// it. Weights are gathered in buckets; only the bucket at the border is sorted.
void Sampler::keep_mass(double mass) {
  std::array<double, n_weight_buckets> masses{};
  for (const Candidate& candidate : candidates_) masses[bucket_of(candidate)] += candidate.weight;
  std::size_t border = n_weight_buckets;
  double passed = 0;
  while (border > 0 && passed + masses[border - 1] < mass) passed += masses[--border];
  if (border == 0) return;
  --border;
  at_border_.clear();
  std::ranges::copy_if(candidates_, std::back_inserter(at_border_),
                       [&](const Candidate& candidate) { return bucket_of(candidate) == border; });
  std::sort(at_border_.begin(), at_border_.end(), is_heavier);
  std::size_t n_needed = 0;
  while (n_needed < at_border_.size() && passed < mass) passed += at_border_[n_needed++].weight;
  const Candidate last = at_border_[n_needed - 1];
  std::erase_if(candidates_, [&](const Candidate& candidate) {
    const std::size_t bucket = bucket_of(candidate);
    return bucket < border || (bucket == border && is_heavier(last, candidate));
  });
}

}  // namespace lowbit
