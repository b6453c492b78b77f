// SPDX-License-Identifier: Apache-2.0
// The forward pass, written once: what differs between models is data (ModelConfig) and which
// tensors are there. A step takes tokens of any number of sequences; the logits of a token depend
// on its own sequence alone, bit for bit, however the tokens were cut into steps.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lowbit/backend/backend.h"
#include "lowbit/base/matrix_view.h"
#include "lowbit/runtime/kv_cache.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

/// Consecutive tokens of one sequence, and how many of the last of them need logits.
struct StepSequence {
  std::span<const std::int32_t> tokens;  // ids in [0, n_vocab)
  std::int64_t first_position = 0;       // of tokens[0]; all earlier ones are in the cache
  const KvSequence* kv = nullptr;        // capacity for every position of the step
  std::int64_t n_logits = 0;
};

class Forward {
 public:
  /// All three must outlive this. max_tokens: the most tokens of one step.
  Forward(Backend& backend, const ModelWeights& model, std::int64_t max_tokens);

  /// Logits (rows asked for, n_vocab), sequences in order; valid until the next call. Writes the
  /// keys and values of all tokens to the cache.
  MatrixView run(std::span<const StepSequence> sequences, const KvCache& cache);

  std::int64_t max_tokens() const { return max_tokens_; }

 private:
  void load_step(std::span<const StepSequence> sequences);
  void set_rows(std::int64_t n_rows);
  void store_keys(const LayerWeights& layer, std::int64_t layer_index,
                  std::span<const StepSequence> sequences, const KvCache& cache);
  void keep_logit_rows();
  void attend(const LayerWeights& layer, const KvCache& cache);
  void feed_forward(const LayerWeights& layer);
  Norm norm_by(const Tensor& w) const;

  Backend& backend_;
  const ModelWeights& model_;
  std::int64_t max_tokens_;
  std::vector<double> rope_frequencies_;
  // One row per token: residual stream, its norm, what a branch adds to it, and the branches' own.
  std::unique_ptr<Tensor> x_, normed_, branch_, q_, k_, v_, mixed_, gate_, up_, cos_, sin_;
  std::unique_ptr<Tensor> logits_;  // made for the largest number of rows asked for so far
  std::vector<float> host_logits_, host_cos_, host_sin_;
  std::vector<std::int32_t> ids_, logit_rows_;
  std::vector<std::int64_t> positions_;
  std::vector<SequenceRows> rows_;
};

}  // namespace lowbit
