// SPDX-License-Identifier: Apache-2.0
// Quantizes a model block by block with calibration: every stage of a block (q, k, v; o; gate, up;
// down) is rounded on what its inputs are behind the stages and blocks that are rounded already, so
// that a later matrix can make good for an earlier one. Every product is computed once. Rounded
// tensors go to a sink: a file, or memory (QuantizedModel) for judging.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/plan_tensors.h"
#include "lowbit/compress/round_tensor.h"
#include "lowbit/compress/statistics.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

class WorkFolder;

/// A model some of whose tensors were replaced, in memory: what a sink fills and LoadedModel loads.
class QuantizedModel final : public TensorOverlay {
 public:
  /// `source` must outlive this; it gives whatever was not replaced.
  explicit QuantizedModel(const TensorSource& source) : TensorOverlay(source) {}
  void replace(const std::string& name, QuantizedTensor tensor) {
    replaced_.insert_or_assign(name, std::move(tensor));
  }
  const std::map<std::string, QuantizedTensor, std::less<>>& replaced() const { return replaced_; }
  /// A tensor that was replaced, which the source gives again from now on.
  QuantizedTensor take(std::string_view name);

  Result<QuantizedTensor> load(std::string_view name) const override;
  Basis input(std::string_view name) const override;
  std::optional<RowSource> rows(std::string_view name) const override;

 private:
  std::map<std::string, QuantizedTensor, std::less<>> replaced_;
};

/// What a transform that needs data sees of a block, by stages: the inputs behind the quantized
/// blocks before it, with the block's own weights as they are.
struct BlockInputs {
  struct Stage {
    TensorStats stats;          // vectors, no Hessian
    std::vector<float> sample;  // (n_samples, inputs): rows evenly spread over the text
    std::int64_t n_samples = 0;
  };
  std::map<LayerStage, Stage> stages;
};
/// Replaces tensors of a block (matrices, norms, biases) so that the block computes the same. Every
/// replaced tensor goes to the sink: as f32 where it has no recipe.
using BlockTransform = std::function<Status(std::int64_t layer, QuantizedModel& block,
                                            const BlockInputs& inputs, ThreadPool& pool)>;

struct PipelineOptions {
  /// What a matrix (canonical name) becomes; nothing: it stays as it is.
  std::function<std::optional<TensorRecipe>(std::string_view name)> recipe_of;
  CalibrationWindows windows;
  /// In order, on each block before its first matrix is rounded.
  std::vector<BlockTransform> transforms = {};
  /// Of this process, besides the model's own mapped file.
  std::int64_t memory_bytes = std::int64_t{2} << 30;
  /// Finished blocks and hidden states, from which a broken-off run goes on; null: all in memory.
  WorkFolder* work = nullptr;
  /// False stops with the error "interrupted". what: what is being done, for people to read.
  std::function<bool(std::string_view what, std::int64_t n_done, std::int64_t n_total)> progress =
      {};
};

struct PipelineReport {
  struct Note {
    std::string tensor, text;
  };
  std::vector<Note> notes;  // of rounders: what became of a tensor
  std::int64_t n_resumed_blocks = 0;
  /// Of the inputs of all stages that were looked at in this run: numbers, and those that are
  /// outliers (outlier_threshold).
  std::int64_t n_inputs = 0, n_outliers = 0;
  double forward_seconds = 0, statistics_seconds = 0, rounding_seconds = 0;
};

using TensorSink = std::function<Status(const std::string& name, QuantizedTensor tensor)>;

/// Every matrix with a recipe goes to the sink, in the order of the forward pass; a tied embedding
/// last. With a work folder the sink is not called: the tensors are in the folder. Errors name the
/// tensor: weights or inputs that are not finite, a rounder that fails; a memory budget that is too
/// small (says the least that does).
Result<PipelineReport> quantize_blocks(const TensorSource& source, const PipelineOptions& options,
                                       const TensorSink& sink, ThreadPool& pool);

}  // namespace lowbit
