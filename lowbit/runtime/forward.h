// SPDX-License-Identifier: Apache-2.0
// The forward pass, written once: what differs between models is data (ModelConfig) and which
// tensors are there (layer_pass.h says what a layer computes). A step takes tokens of any number of
// sequences; the logits of a token depend on its own sequence alone, bit for bit, however the
// tokens were cut into steps.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lowbit/backend/backend.h"
#include "lowbit/base/matrix_view.h"
#include "lowbit/runtime/kv_cache.h"
#include "lowbit/runtime/layer_pass.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

class Forward {
 public:
  /// All three must outlive this. max_tokens: the most tokens of one step.
  Forward(Backend& backend, const ModelWeights& model, std::int64_t max_tokens);

  /// Logits (rows asked for, n_vocab), sequences in order; valid until the next call. Writes the
  /// keys and values of all tokens to the cache.
  MatrixView run(std::span<const StepSequence> sequences, const KvCache& cache);
  /// (tokens, d_model): the final hidden states, normalized, of a sequence of the last run that
  /// wanted them; valid until the next run.
  MatrixView hidden(std::size_t sequence) const;

  std::int64_t max_tokens() const { return pass_.max_tokens(); }

 private:
  /// Ids of the step's rows, which of them pass the last layer, and which of those need logits.
  void list_rows(std::span<const StepSequence> sequences);
  void download_hidden();

  Backend& backend_;
  const ModelWeights& model_;
  LayerPass pass_;
  std::unique_ptr<Tensor> logits_;  // made for the largest number of rows asked for so far
  std::vector<float> host_logits_;
  std::vector<float> host_hidden_;  // (kept rows, d_model)
  std::vector<std::int32_t> ids_, kept_rows_, logit_rows_;
  struct HiddenRows {
    std::int64_t first = 0, n = 0;  // of the kept ones
  };
  std::vector<HiddenRows> hidden_rows_;  // of every sequence
  bool any_hidden_ = false;
};

}  // namespace lowbit
