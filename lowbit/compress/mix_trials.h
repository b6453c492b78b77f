// SPDX-License-Identifier: Apache-2.0
// Estimators of sensitivity on trial: random mixes of one size, what each estimator predicts of
// them and what they measure. The estimator whose order agrees with the measured one is the one to
// allocate by.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/sensitivity.h"

namespace lowbit {

struct MixTrial {
  std::vector<double> predicted;  // by each estimator
  double measured = 0;            // KL divergence, every matrix rounded with rtn
  double bits_per_weight = 0;     // in planar form
};

struct TrialOptions {
  std::int64_t n_mixes = 20;
  double bits_per_weight = 4;
  std::uint64_t seed = 1;
  const ModelStats* stats = nullptr;
  CalibrationWindows windows;
  std::function<bool(std::int64_t n_done, std::int64_t n_total)> progress = {};
};

/// estimates[e]: of every group, by estimator e. Errors: as measure_sensitivity, a size that the
/// candidates cannot reach.
Result<std::vector<MixTrial>> try_mixes(const ModelFile& file, std::span<const Scheme> candidates,
                                        std::span<const std::vector<GroupSensitivity>> estimates,
                                        const TrialOptions& options, ThreadPool& pool);

/// Pearson's correlation, of values or of their ranks (Spearman; ties take their mean rank). 0
/// where one side does not vary.
double correlation(std::span<const double> a, std::span<const double> b);
double rank_correlation(std::span<const double> a, std::span<const double> b);

}  // namespace lowbit
