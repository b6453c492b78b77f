// SPDX-License-Identifier: Apache-2.0
// The next token as a pure function of (logits, parameters, earlier tokens, position): the same
// seed gives the same text whatever else runs in the batch. Order: penalties, logit bias, mask,
// temperature, top-k, top-p, min-p, draw. Ties go to the smaller id.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "lowbit/base/result.h"

namespace lowbit {

struct SamplingParams {
  float temperature = 1.0f;         // 0: greedy, nothing is drawn
  std::int64_t top_k = 0;           // 0: off
  float top_p = 1.0f;               // 1: off; the smallest set of likeliest tokens that reaches it
  float min_p = 0.0f;               // 0: off; relative to the likeliest token
  float repetition_penalty = 1.0f;  // divides positive logits of every earlier token (prompt too)
  float presence_penalty = 0.0f;    // subtracted once from tokens generated before
  float frequency_penalty = 0.0f;   // subtracted once per earlier generation of the token
  std::vector<std::pair<std::int32_t, float>> logit_bias = {};  // (token, added to its logit)
  std::uint64_t seed = 0;
};

/// Names the first field that is out of range, its value and its range.
Status check(const SamplingParams& params, std::int64_t n_vocab);

/// The tokens before the one to choose. Repetition looks at both, presence and frequency at the
/// generated ones.
struct EarlierTokens {
  std::span<const std::int32_t> prompt, generated;
};

/// A token that survived the filters and its weight; weights are relative to the likeliest (1).
struct Candidate {
  std::int32_t token = 0;
  float logit = 0;  // after penalties, bias and temperature
  double weight = 0;
};

/// Reusable memory and the working copy of the logits; not shared between threads.
class Sampler {
 public:
  /// logits: (n_vocab). NaN counts as minus infinity. position: index of the token to be chosen,
  /// which with the seed decides the draw. allowed: a token mask (token_constraint.h) with at least
  /// one token, of which the choice is one whatever the logits are; empty: no mask.
  std::int32_t sample(std::span<const float> logits, const SamplingParams& params,
                      const EarlierTokens& earlier, std::uint64_t position,
                      std::span<const std::uint64_t> allowed = {});

  /// The distribution that sample() draws from, for tests and log-probabilities: in draw order,
  /// weights not normalized. One candidate where the choice is greedy.
  std::span<const Candidate> distribution(std::span<const float> logits,
                                          const SamplingParams& params,
                                          const EarlierTokens& earlier,
                                          std::span<const std::uint64_t> allowed = {});

 private:
  void adjust(std::span<const float> logits, const SamplingParams& params,
              const EarlierTokens& earlier);
  void mask(std::span<const std::uint64_t> allowed);
  void keep_all();
  void keep_above(float bound);
  void keep_likeliest(std::size_t n_kept);
  bool keep_mass(double mass);
  void keep_mass_of_all(float top_p);
  double total_weight() const;

  std::vector<float> logits_;  // after adjust() as the model has them, then relative to the top
  std::vector<std::int32_t> counts_;  // (n_vocab), zero between calls
  std::vector<Candidate> candidates_;
};

}  // namespace lowbit
