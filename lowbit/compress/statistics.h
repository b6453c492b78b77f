// SPDX-License-Identifier: Apache-2.0
// What calibration knows about the inputs of every matrix of a model. Matrices that read the same
// input (q, k and v; gate and up) have the same statistics, because the forward pass says so and
// not because of their names. Sums are taken window by window in a fixed order, so the numbers
// depend neither on the thread count nor on the processor.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/quant/rounder.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

/// Inputs from this magnitude on are outliers (LLM.int8(), arXiv 2208.07339, section 3).
inline constexpr float outlier_threshold = 6.0f;

/// About the inputs x of one matrix W (out, in). Vectors are empty where they were not collected.
struct TensorStats {
  std::int64_t n_tokens = 0;
  std::vector<float> mean_square;  // (in): E[x_j^2]
  std::vector<float> mean_abs;     // (in): E[|x_j|]
  std::vector<float> max_abs;      // (in): max |x_j|
  std::vector<float> hessian;      // (in, in) row-major: E[x x^T]
  std::int64_t n_outliers = 0;     // numbers of all tokens with |x_j| >= outlier_threshold

  std::int64_t n_inputs() const { return static_cast<std::int64_t>(mean_square.size()); }
  /// Valid while *this is.
  InputStats view() const;
};

/// By canonical tensor name. A tied embedding stands under its own name, with the head's inputs.
using ModelStats = std::map<std::string, TensorStats, std::less<>>;

/// Windows of calibration tokens, all equally long; each is read as a text of its own.
using CalibrationWindows = std::vector<std::vector<std::int32_t>>;

struct StatisticsOptions {
  /// Where the hidden states of all windows lie meanwhile; "": in memory.
  std::string folder = {};
  /// False stops with the error "interrupted".
  std::function<bool(std::int64_t n_done, std::int64_t n_total)> progress = {};
};

/// The basis in which matrices of one input read it, as their statistics do. Errors: not one for
/// all.
Result<Basis> basis_of_inputs(const TensorSource& source, std::span<const std::string> names);

/// The matrix that makes logits, by name.
std::string_view head_matrix(const ModelConfig& config);

/// The statistics of a full-precision pass over the model: activations and KV cache are f32, every
/// matrix as the source holds it. needs: hessian also collects Hessians, for all matrices at once,
/// so mind the memory: use for_each_statistics there. Errors: windows that are empty or beyond the
/// context, weights that do not fit the architecture, hidden states that are not finite (names the
/// tensor).
Result<ModelStats> collect_statistics(const TensorSource& source, const CalibrationWindows& windows,
                                      Needs needs, ThreadPool& pool,
                                      const StatisticsOptions& options = {});

/// The same, one group of matrices that share an input after the other, in the order of the forward
/// pass: memory holds the statistics of one group. An error of the visitor ends the pass.
using StatisticsVisitor =
    std::function<Status(std::span<const std::string> tensors, const TensorStats& stats)>;
Status for_each_statistics(const TensorSource& source, const CalibrationWindows& windows,
                           Needs needs, ThreadPool& pool, const StatisticsVisitor& visit,
                           const StatisticsOptions& options = {});

}  // namespace lowbit
