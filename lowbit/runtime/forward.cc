// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/forward.h"

#include <algorithm>
#include <array>

namespace lowbit {

Forward::Forward(Backend& backend, const ModelWeights& model, std::int64_t max_tokens)
    : backend_(backend), model_(model), pass_(backend, model.config, max_tokens) {}

MatrixView Forward::run(std::span<const StepSequence> sequences, const KvCache& cache) {
  list_rows(sequences);
  pass_.begin(sequences);
  backend_.embed(*model_.embedding, ids_, pass_.x());
  for (std::size_t i = 0; i < model_.layers.size(); ++i) {
    const LayerWeights& layer = model_.layers[i];
    pass_.project(layer, static_cast<std::int64_t>(i), sequences, cache);
    // Once the last layer's keys are stored, only the rows that need logits go on.
    if (i + 1 == model_.layers.size()) pass_.keep_rows(logit_rows_);
    if (pass_.x().rows == 0) return {};
    pass_.mix(cache);
    pass_.add_attention(layer);
    pass_.gate(layer);
    pass_.add_feed_forward(layer);
  }
  const Weight& head = model_.output_head();
  const std::int64_t n_rows = pass_.x().rows;
  if (!logits_ || logits_->capacity < n_rows) logits_ = backend_.make_tensor(n_rows, head.rows);
  logits_->rows = n_rows;
  backend_.norm_matmul(pass_.x(), pass_.norm_by(*model_.final_norm),
                       std::array{Product{&head, nullptr, logits_.get()}});
  host_logits_.resize(static_cast<std::size_t>(n_rows * head.rows));
  backend_.download(*logits_, host_logits_);
  return {host_logits_.data(), n_rows, head.rows};
}

void Forward::list_rows(std::span<const StepSequence> sequences) {
  ids_.clear();
  logit_rows_.clear();
  for (const StepSequence& sequence : sequences) {
    const auto first_row = static_cast<std::int64_t>(ids_.size());
    const auto n_tokens = static_cast<std::int64_t>(sequence.tokens.size());
    ids_.insert(ids_.end(), sequence.tokens.begin(), sequence.tokens.end());
    for (std::int64_t i = std::max<std::int64_t>(0, n_tokens - sequence.n_logits); i < n_tokens;
         ++i) {
      logit_rows_.push_back(static_cast<std::int32_t>(first_row + i));
    }
  }
}

}  // namespace lowbit
