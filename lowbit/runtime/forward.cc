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
    // Once the last layer's keys are stored, only the rows that are asked for go on.
    if (i + 1 == model_.layers.size()) pass_.keep_rows(kept_rows_);
    if (pass_.x().rows == 0) return {};
    pass_.mix(cache);
    pass_.add_attention(layer);
    pass_.gate(layer);
    pass_.add_feed_forward(layer);
  }
  if (any_hidden_) {
    download_hidden();
    if (logit_rows_.empty()) return {};
    pass_.keep_rows(logit_rows_);
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

MatrixView Forward::hidden(std::size_t sequence) const {
  const std::int64_t d_model = model_.config.d_model;
  const HiddenRows& rows = hidden_rows_[sequence];
  return {host_hidden_.data() + rows.first * d_model, rows.n, d_model};
}

void Forward::download_hidden() {
  pass_.norm_x(*model_.final_norm);
  host_hidden_.resize(static_cast<std::size_t>(pass_.normed().rows * pass_.normed().cols));
  backend_.download(pass_.normed(), host_hidden_);
}

void Forward::list_rows(std::span<const StepSequence> sequences) {
  ids_.clear();
  kept_rows_.clear();
  logit_rows_.clear();
  hidden_rows_.clear();
  any_hidden_ = false;
  for (const StepSequence& sequence : sequences) {
    const auto first_row = static_cast<std::int64_t>(ids_.size());
    const auto n_tokens = static_cast<std::int64_t>(sequence.tokens.size());
    ids_.insert(ids_.end(), sequence.tokens.begin(), sequence.tokens.end());
    const std::int64_t first_logits = std::max<std::int64_t>(0, n_tokens - sequence.n_logits);
    const std::int64_t first_kept = sequence.wants_hidden ? 0 : first_logits;
    hidden_rows_.push_back(
        {std::ssize(kept_rows_), sequence.wants_hidden ? n_tokens : std::int64_t{0}});
    any_hidden_ = any_hidden_ || sequence.wants_hidden;
    for (std::int64_t i = first_kept; i < n_tokens; ++i) {
      if (i >= first_logits) logit_rows_.push_back(static_cast<std::int32_t>(kept_rows_.size()));
      kept_rows_.push_back(static_cast<std::int32_t>(first_row + i));
    }
  }
}

}  // namespace lowbit
