// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/forward.h"

#include <array>
#include <utility>

#include "lowbit/base/assert.h"
#include "lowbit/runtime/rope.h"

namespace lowbit {

Forward::Forward(Backend& backend, const ModelWeights& model, std::int64_t max_tokens)
    : backend_(backend),
      model_(model),
      max_tokens_(max_tokens),
      rope_frequencies_(rope_frequencies(model.config)) {
  const ModelConfig& config = model.config;
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

MatrixView Forward::run(std::span<const StepSequence> sequences, const KvCache& cache) {
  load_step(sequences);
  backend_.embed(*model_.embedding, ids_, *x_);
  for (std::size_t i = 0; i < model_.layers.size(); ++i) {
    const LayerWeights& layer = model_.layers[i];
    store_keys(layer, static_cast<std::int64_t>(i), sequences, cache);
    if (i + 1 == model_.layers.size()) keep_logit_rows();
    if (x_->rows == 0) return {};
    attend(layer, cache);
    feed_forward(layer);
  }
  const Weight& head = model_.output_head();
  if (!logits_ || logits_->capacity < x_->rows) logits_ = backend_.make_tensor(x_->rows, head.rows);
  logits_->rows = x_->rows;
  backend_.norm_matmul(*x_, norm_by(*model_.final_norm),
                       std::array{Product{&head, nullptr, logits_.get()}});
  host_logits_.resize(static_cast<std::size_t>(logits_->rows * head.rows));
  backend_.download(*logits_, host_logits_);
  return {host_logits_.data(), logits_->rows, head.rows};
}

/// Ids, positions and angles of the step's rows, and which of them need logits.
void Forward::load_step(std::span<const StepSequence> sequences) {
  ids_.clear();
  positions_.clear();
  logit_rows_.clear();
  rows_.clear();
  for (const StepSequence& sequence : sequences) {
    const auto n_tokens = static_cast<std::int64_t>(sequence.tokens.size());
    const auto first_row = static_cast<std::int64_t>(ids_.size());
    LOWBIT_ASSERT(sequence.kv->capacity() >= sequence.first_position + n_tokens);
    rows_.push_back({first_row, n_tokens, sequence.first_position, {}});
    for (std::int64_t i = 0; i < n_tokens; ++i) {
      ids_.push_back(sequence.tokens[static_cast<std::size_t>(i)]);
      positions_.push_back(sequence.first_position + i);
      if (i >= n_tokens - sequence.n_logits) {
        logit_rows_.push_back(static_cast<std::int32_t>(first_row + i));
      }
    }
  }
  const auto n_rows = static_cast<std::int64_t>(ids_.size());
  LOWBIT_ASSERT(n_rows <= max_tokens_);
  set_rows(n_rows);
  const std::size_t n_angles = positions_.size() * rope_frequencies_.size();
  host_cos_.resize(n_angles);
  host_sin_.resize(n_angles);
  rope_angles(rope_frequencies_, positions_, host_cos_, host_sin_);
  backend_.upload(host_cos_, *cos_);
  backend_.upload(host_sin_, *sin_);
}

void Forward::set_rows(std::int64_t n_rows) {
  for (const auto* tensor :
       {&x_, &normed_, &branch_, &q_, &k_, &v_, &mixed_, &gate_, &up_, &cos_, &sin_}) {
    (*tensor)->rows = n_rows;
  }
}

/// Queries, keys and values of a layer; keys and values go to the cache.
void Forward::store_keys(const LayerWeights& layer, std::int64_t layer_index,
                         std::span<const StepSequence> sequences, const KvCache& cache) {
  const ModelConfig& config = model_.config;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    rows_[i].pages = sequences[i].kv->pages(layer_index);
  }
  backend_.attention_inputs(*x_, norm_by(*layer.attention_norm),
                            {.q = {layer.q.w.get(), layer.q.bias.get(), q_.get()},
                             .k = {layer.k.w.get(), layer.k.bias.get(), k_.get()},
                             .v = {layer.v.w.get(), layer.v.bias.get(), v_.get()},
                             .q_norm = layer.q_norm.get(),
                             .k_norm = layer.k_norm.get(),
                             .eps = config.norm_eps,
                             .head_dim = config.head_dim,
                             .cos = cos_.get(),
                             .sin = sin_.get(),
                             .pool = &cache.pool(),
                             .sequences = rows_});
}

/// Once the last layer's keys are stored, only the rows that need logits go on.
void Forward::keep_logit_rows() {
  const auto n_kept = static_cast<std::int64_t>(logit_rows_.size());
  if (n_kept == x_->rows) return;
  branch_->rows = mixed_->rows = n_kept;
  backend_.gather(*x_, logit_rows_, *branch_);
  backend_.gather(*q_, logit_rows_, *mixed_);
  std::swap(x_, branch_);
  std::swap(q_, mixed_);
  set_rows(n_kept);
  std::size_t next = 0;
  for (SequenceRows& rows : rows_) {
    const std::size_t first = next;
    while (next < logit_rows_.size() && logit_rows_[next] < rows.first_row + rows.n_rows) ++next;
    const auto n_left = static_cast<std::int64_t>(next - first);
    rows.first_position += rows.n_rows - n_left;
    rows.first_row = static_cast<std::int64_t>(first);
    rows.n_rows = n_left;
  }
}

void Forward::attend(const LayerWeights& layer, const KvCache& cache) {
  backend_.attention(cache.pool(), *q_, rows_, *mixed_);
  backend_.matmul_add(*mixed_, {layer.o.w.get(), layer.o.bias.get(), branch_.get()}, *x_);
}

void Forward::feed_forward(const LayerWeights& layer) {
  const Product gate{layer.gate.w.get(), layer.gate.bias.get(), gate_.get()};
  const Product up{layer.up.w.get(), layer.up.bias.get(), up_.get()};
  backend_.gated_matmul(*x_, norm_by(*layer.feed_forward_norm), gate, up);
  backend_.matmul_add(*gate_, {layer.down.w.get(), layer.down.bias.get(), branch_.get()}, *x_);
}

Norm Forward::norm_by(const Tensor& w) const {
  return {.w = &w, .eps = model_.config.norm_eps, .y = normed_.get()};
}

}  // namespace lowbit
