// SPDX-License-Identifier: Apache-2.0
// What every candidate scheme would cost in every group of matrices, in one number whose sum over
// the groups predicts what the whole model loses. Several estimators of it stand side by side;
// docs/methods.md shows how well each predicts the KL divergence of mixed models. None needs a
// backward pass. Candidates are rounded with rtn, whatever method will round in the end: what
// matters is how tensors and sizes compare.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/statistics.h"
#include "lowbit/compress/tensor_groups.h"
#include "lowbit/formats/scheme.h"
#include "lowbit/model/model_file.h"

namespace lowbit {

enum class Estimator : std::uint8_t {
  error,     // squared error of the weights, weighted by E[x^2]
  relative,  // the same over the energy of the outputs, E|W x|^2
  probe,    // KL divergence with one group rounded, at two sizes, times the weighted errors between
  measured  // KL divergence with one group rounded, for every candidate: the slow truth
};
inline constexpr std::array estimator_list{Estimator::error, Estimator::relative, Estimator::probe,
                                           Estimator::measured};
std::string_view name_of(Estimator estimator);
Result<Estimator> estimator_named(std::string_view name);

/// Of one group: losses[c] belongs to candidate c; infinite where the candidate does not fit.
struct GroupSensitivity {
  TensorGroup group;
  std::vector<double> losses;
};

struct SensitivityOptions {
  std::vector<Scheme> candidates;
  Estimator estimator = Estimator::probe;
  /// E[x^2] of the inputs, and E[x x^T] if they have it; a matrix without an entry weighs all its
  /// columns alike.
  const ModelStats* stats = nullptr;
  /// For probe and measured.
  CalibrationWindows windows = {};
  /// False stops with the error "interrupted".
  std::function<bool(std::int64_t n_done, std::int64_t n_total)> progress = {};
};

/// `file` must outlive the result. Errors: a candidate without an encoder, weights that are not
/// finite, no windows where the estimator needs them.
Result<std::vector<GroupSensitivity>> measure_sensitivity(const ModelFile& file,
                                                          const SensitivityOptions& options,
                                                          ThreadPool& pool);

/// A matrix rounded as the estimators do it: by rtn, or by `rounder` where that needs no Hessian.
Result<QuantizedTensor> rounded_tensor(const ModelFile& file, const ModelTensor& tensor,
                                       const Scheme& scheme, const ModelStats* stats,
                                       ThreadPool& pool, const Rounder* rounder = nullptr);

/// Whether a scheme's blocks divide the rows of every matrix of the group.
bool fits_rows(const Scheme& scheme, const TensorGroup& group);

}  // namespace lowbit
