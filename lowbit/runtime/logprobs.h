// SPDX-License-Identifier: Apache-2.0
// Log-probabilities of a position from its raw logits: what the model said, before penalties,
// masks and temperature.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lowbit/kernels/vector_ops.h"

namespace lowbit {

struct TokenLogprob {
  std::int32_t token = 0;
  float logprob = 0;  // natural logarithm; minus infinity for a token that cannot be
};

struct TokenLogprobs {
  std::int32_t token = 0;  // the chosen one
  float logprob = 0;
  std::vector<TokenLogprob> top = {};  // likeliest first, ties by id
};

/// logits: (n_vocab); NaN counts as minus infinity. n_top: at most n_vocab are given.
TokenLogprobs logprobs_of(std::span<const float> logits, std::int32_t token, int n_top,
                          const VectorKernels& kernels = reference_vector_kernels);

}  // namespace lowbit
