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
#include "lowbit/kernels/vector_ops.h"

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
  float logit = 0;  // after penalties and bias
  double weight = 0;
};

/// Reusable memory and the working copy of the logits; not shared between threads.
class Sampler {
 public:
  /// Every instruction set's kernels draw the same tokens.
  explicit Sampler(const VectorKernels& kernels = reference_vector_kernels) : kernels_(&kernels) {}

  /// logits: (n_vocab). NaN counts as minus infinity. position: index of the token to be chosen,
  /// which with the seed decides the draw. allowed: a token mask (token_constraint.h) with at least
  /// one token, of which the choice is one whatever the logits are; empty: no mask.
  std::int32_t sample(std::span<const float> logits, const SamplingParams& params,
                      const EarlierTokens& earlier, std::uint64_t position,
                      std::span<const std::uint64_t> allowed = {});

  /// The distribution that sample() draws from, for tests: in draw order, weights not normalized.
  /// One candidate where the choice is greedy.
  std::span<const Candidate> distribution(std::span<const float> logits,
                                          const SamplingParams& params,
                                          const EarlierTokens& earlier,
                                          std::span<const std::uint64_t> allowed = {});

 private:
  struct Top {
    std::int32_t token = 0;
    float logit = 0;
    bool is_choice = false;  // nothing is drawn
  };
  Top prepare(std::span<const float> logits, const SamplingParams& params,
              const EarlierTokens& earlier, std::span<const std::uint64_t> allowed);
  void adjust(const SamplingParams& params, const EarlierTokens& earlier);
  void mask(std::span<const std::uint64_t> allowed);
  std::int32_t likeliest() const;
  void weigh(const Top& top, float temperature);
  std::int32_t draw_from_all(double part) const;
  std::int32_t draw_from_candidates(double part) const;
  void filter(const SamplingParams& params, const Top& top);
  void keep_above(float least_weight);
  void keep_likeliest(const SamplingParams& params, const Top& top);
  void keep_mass(double mass);
  double candidate_weight() const;

  const VectorKernels* kernels_;
  std::span<const float> logits_;     // the model's, or own_ where something changes them
  std::vector<float> own_;            // after penalties, bias and mask
  std::vector<float> weights_;        // (n_vocab), of all tokens
  std::vector<float> block_sums_;     // of the weights, block by block
  double total_ = 0;                  // of them
  std::vector<std::int32_t> counts_;  // (n_vocab), zero between calls
  std::vector<Candidate> candidates_, at_border_;
};

}  // namespace lowbit
