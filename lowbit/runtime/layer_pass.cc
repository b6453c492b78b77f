// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/layer_pass.h"

#include <utility>

#include "lowbit/base/assert.h"
#include "lowbit/runtime/rope.h"

namespace lowbit {

LayerPass::LayerPass(Backend& backend, const ModelConfig& config, std::int64_t max_tokens)
    : backend_(backend),
      config_(config),
      max_tokens_(max_tokens),
      rope_frequencies_(rope_frequencies(config)) {
  const auto make = [&](std::int64_t n_cols) { return backend.make_tensor(max_tokens, n_cols); };
  x_ = make(config.d_model);
  normed_ = make(config.d_model);
  branch_ = make(config.d_model);
  q_ = make(config.n_heads * config.head_dim);
  k_ = make(config.n_kv_heads * config.head_dim);
  v_ = make(config.n_kv_heads * config.head_dim);
  mixed_ = make(config.n_heads * config.head_dim);
  gate_ = make(config.d_ff);
  up_ = make(config.d_ff);
  cos_ = make(config.head_dim / 2);
  sin_ = make(config.head_dim / 2);
}

void LayerPass::begin(std::span<const StepSequence> sequences) {
  positions_.clear();
  rows_.clear();
  for (const StepSequence& sequence : sequences) {
    const auto n_tokens = static_cast<std::int64_t>(sequence.tokens.size());
    const auto first_row = static_cast<std::int64_t>(positions_.size());
    LOWBIT_ASSERT(sequence.kv->capacity() >= sequence.first_position + n_tokens);
    rows_.push_back({first_row, n_tokens, sequence.first_position, {}});
    for (std::int64_t i = 0; i < n_tokens; ++i) positions_.push_back(sequence.first_position + i);
  }
  const auto n_rows = static_cast<std::int64_t>(positions_.size());
  LOWBIT_ASSERT(n_rows <= max_tokens_);
  set_rows(n_rows);
  const std::size_t n_angles = positions_.size() * rope_frequencies_.size();
  host_cos_.resize(n_angles);
  host_sin_.resize(n_angles);
  rope_angles(rope_frequencies_, positions_, host_cos_, host_sin_);
  backend_.upload(host_cos_, *cos_);
  backend_.upload(host_sin_, *sin_);
}

void LayerPass::set_rows(std::int64_t n_rows) {
  for (const auto* tensor :
       {&x_, &normed_, &branch_, &q_, &k_, &v_, &mixed_, &gate_, &up_, &cos_, &sin_}) {
    (*tensor)->rows = n_rows;
  }
}

void LayerPass::project(const LayerWeights& layer, std::int64_t layer_index,
                        std::span<const StepSequence> sequences, const KvCache& cache) {
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    rows_[i].pages = sequences[i].kv->pages(layer_index);
  }
  backend_.attention_inputs(*x_, norm_by(*layer.attention_norm),
                            {.q = {layer.q.w.get(), layer.q.bias.get(), q_.get()},
                             .k = {layer.k.w.get(), layer.k.bias.get(), k_.get()},
                             .v = {layer.v.w.get(), layer.v.bias.get(), v_.get()},
                             .q_norm = layer.q_norm.get(),
                             .k_norm = layer.k_norm.get(),
                             .eps = config_.norm_eps,
                             .head_dim = config_.head_dim,
                             .cos = cos_.get(),
                             .sin = sin_.get(),
                             .pool = &cache.pool(),
                             .sequences = rows_});
}

void LayerPass::keep_rows(std::span<const std::int32_t> rows) {
  const auto n_kept = static_cast<std::int64_t>(rows.size());
  if (n_kept == x_->rows) return;
  branch_->rows = mixed_->rows = n_kept;
  backend_.gather(*x_, rows, *branch_);
  backend_.gather(*q_, rows, *mixed_);
  std::swap(x_, branch_);
  std::swap(q_, mixed_);
  set_rows(n_kept);
  std::size_t next = 0;
  for (SequenceRows& sequence : rows_) {
    const std::size_t first = next;
    while (next < rows.size() && rows[next] < sequence.first_row + sequence.n_rows) ++next;
    const auto n_left = static_cast<std::int64_t>(next - first);
    sequence.first_position += sequence.n_rows - n_left;
    sequence.first_row = static_cast<std::int64_t>(first);
    sequence.n_rows = n_left;
  }
}

void LayerPass::mix(const KvCache& cache) {
  backend_.attention(cache.pool(), *q_, rows_, *mixed_);
}

void LayerPass::add_attention(const LayerWeights& layer) {
  backend_.matmul_add(*mixed_, {layer.o.w.get(), layer.o.bias.get(), branch_.get()}, *x_);
}

void LayerPass::gate(const LayerWeights& layer) {
  const Product gate{layer.gate.w.get(), layer.gate.bias.get(), gate_.get()};
  const Product up{layer.up.w.get(), layer.up.bias.get(), up_.get()};
  backend_.gated_matmul(*x_, norm_by(*layer.feed_forward_norm), gate, up);
}

void LayerPass::add_feed_forward(const LayerWeights& layer) {
  backend_.matmul_add(*gate_, {layer.down.w.get(), layer.down.bias.get(), branch_.get()}, *x_);
}

void LayerPass::norm_x(const Tensor& w) {
  backend_.rms_norm(*x_, w, config_.norm_eps, *normed_);
}

Norm LayerPass::norm_by(const Tensor& w) const {
  return {.w = &w, .eps = config_.norm_eps, .y = normed_.get()};
}

}  // namespace lowbit
