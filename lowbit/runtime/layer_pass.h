// SPDX-License-Identifier: Apache-2.0
// One layer over the rows of a step, cut where its matrices read their inputs: the forward pass
// walks through the cuts, calibration looks at what lies between them. The only place that says
// what a layer computes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lowbit/backend/backend.h"
#include "lowbit/runtime/kv_cache.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

/// Consecutive tokens of one sequence, and how many of the last of them need logits.
struct StepSequence {
  std::span<const std::int32_t> tokens;  // ids in [0, n_vocab)
  std::int64_t first_position = 0;       // of tokens[0]; all earlier ones are in the cache
  const KvSequence* kv = nullptr;        // capacity for every position of the step
  std::int64_t n_logits = 0;
  bool wants_hidden = false;  // of every token, what the output head reads
};

class LayerPass {
 public:
  /// The backend must outlive this. max_tokens: the most tokens of one step.
  LayerPass(Backend& backend, const ModelConfig& config, std::int64_t max_tokens);

  /// Rows, positions and angles of a step. x() has as many rows afterwards, its numbers are the
  /// caller's to set.
  void begin(std::span<const StepSequence> sequences);
  std::int64_t max_tokens() const { return max_tokens_; }

  /// (rows, d_model): the residual stream.
  Tensor& x() { return *x_; }
  /// (rows, d_model): what norm_x() made.
  const Tensor& normed() const { return *normed_; }
  /// (rows, n_heads * head_dim): what o_proj reads.
  Tensor& mixed() { return *mixed_; }
  /// (rows, d_ff): what down_proj reads.
  Tensor& gated() { return *gate_; }

  // The stages, in order.

  /// Queries, keys and values of norm(x); keys and values go to the cache.
  void project(const LayerWeights& layer, std::int64_t layer_index,
               std::span<const StepSequence> sequences, const KvCache& cache);
  /// mixed = attention of the queries.
  void mix(const KvCache& cache);
  /// x += o_proj(mixed).
  void add_attention(const LayerWeights& layer);
  /// gated = silu(gate_proj(norm(x))) * up_proj(norm(x)).
  void gate(const LayerWeights& layer);
  /// x += down_proj(gated).
  void add_feed_forward(const LayerWeights& layer);

  /// Between project() and mix(): only these rows, in ascending order, go on.
  void keep_rows(std::span<const std::int32_t> rows);
  /// normed = norm(x), which the stages take together with their products otherwise.
  void norm_x(const Tensor& w);
  /// The norm of x by w as verbs take it.
  Norm norm_by(const Tensor& w) const;

 private:
  void set_rows(std::int64_t n_rows);

  Backend& backend_;
  const ModelConfig& config_;
  std::int64_t max_tokens_;
  std::vector<double> rope_frequencies_;
  // One row per token: residual stream, its norm, what a branch adds to it, and the branches' own.
  std::unique_ptr<Tensor> x_, normed_, branch_, q_, k_, v_, mixed_, gate_, up_, cos_, sin_;
  std::vector<float> host_cos_, host_sin_;
  std::vector<std::int64_t> positions_;
  std::vector<SequenceRows> rows_;
};

}  // namespace lowbit
