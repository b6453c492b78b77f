// SPDX-License-Identifier: Apache-2.0
// All calibration windows through a model, one layer after the other and one stage of a layer after
// the other, so that whoever drives it can look at the inputs of a stage, change the stage's
// weights, and go on with what the changed weights give. Every product is computed once. Memory
// holds one window; the hidden states of all windows lie in row stores.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/input_sums.h"
#include "lowbit/compress/row_store.h"
#include "lowbit/compress/statistics.h"
#include "lowbit/runtime/layer_pass.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

class CalibrationPass {
 public:
  struct Times {
    double forward = 0, statistics = 0;  // seconds
  };
  /// Sees the rows that the matrices of a stage read, (n_ctx, inputs), window by window.
  using RowVisitor = std::function<void(std::int64_t window, MatrixView x)>;

  /// folder: where the hidden states lie, "" for memory. `first_layer` is the layer that will be
  /// driven first: beyond 0 the folder holds its hidden states. Errors: no windows, windows of
  /// different lengths or beyond the context, ids beyond the vocabulary.
  static Result<std::unique_ptr<CalibrationPass>> create(const ModelConfig& config,
                                                         const CalibrationWindows& windows,
                                                         const std::string& folder,
                                                         std::int64_t first_layer,
                                                         ThreadPool& pool);

  Backend& backend() { return *backend_; }
  std::int64_t n_windows() const { return static_cast<std::int64_t>(windows_.size()); }
  /// Called after each window of each stage; false stops with the error "interrupted".
  void set_progress(std::function<bool()> progress) { progress_ = std::move(progress); }
  const Times& times() const { return times_; }

  /// Hidden states of layer 0: rows of the embedding. Vectors of other weights are not needed.
  Status embed(const Weight& embedding);

  /// Computes the inputs of a stage and collects what `needs` says. `layer` holds the weights of
  /// the stage before, and the norm of this stage's inputs. Stages come in their order.
  /// Rows come in `basis`, that of the stage's matrices.
  Result<TensorStats> inputs_of(LayerStage stage, const LayerWeights& layer, Needs needs,
                                const RowVisitor& visit = {}, const Basis& basis = {});
  /// After the last stage: the hidden states of the next layer. `layer` holds down_proj.
  Status finish_layer(const LayerWeights& layer);
  /// After the last layer: the inputs of the head.
  Result<TensorStats> head_inputs(const Tensor& final_norm, Needs needs,
                                  const RowVisitor& visit = {}, const Basis& basis = {});

  /// Where the hidden states of layer `index` lie in a folder.
  static std::string hidden_path(const std::string& folder, std::int64_t index);

 private:
  CalibrationPass(const ModelConfig& config, const CalibrationWindows& windows,
                  std::unique_ptr<Backend> backend, const KernelTable& kernels, ThreadPool& pool);
  /// Runs body(window) for every window with the pass begun; then collects from `inputs`.
  Result<TensorStats> each_window(std::int64_t n_inputs, Needs needs, const RowVisitor& visit,
                                  const Basis& basis,
                                  const std::function<Result<const Tensor*>()>& body);
  void turn(const Basis& basis, std::int64_t n_cols);
  Status load(const RowStore& store, Tensor& tensor);
  Status save(RowStore& store, const Tensor& tensor);

  const ModelConfig& config_;
  const CalibrationWindows& windows_;
  std::unique_ptr<Backend> backend_;
  const KernelTable& kernels_;
  ThreadPool& pool_;
  LayerPass pass_;
  std::unique_ptr<KvCache> cache_;
  KvSequence sequence_;
  // Hidden states at the entry of the layer and behind its attention, and what o or down reads.
  RowStore x_, next_x_, side_;
  std::int64_t window_ = 0;  // the current one
  std::vector<float> host_;
  std::function<bool()> progress_;
  Times times_;
};

}  // namespace lowbit
