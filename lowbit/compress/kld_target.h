// SPDX-License-Identifier: Apache-2.0
// The smallest mix whose measured KL divergence stays under a limit: predictions choose, the whole
// mix is measured, and the aim of the next choice is moved by what it was off.
#pragma once

#include <functional>
#include <span>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/mixed_precision.h"
#include "lowbit/compress/sensitivity.h"

namespace lowbit {

struct KldTarget {
  double most_kld = 0;
  const ModelStats* stats = nullptr;
  CalibrationWindows windows;
  /// After each measurement; false stops with the error "interrupted".
  std::function<bool(std::int64_t n_done, std::int64_t n_total)> progress = {};
};

/// options.target is not looked at. The measurement rounds by the method of the options where that
/// needs no Hessian, else by rtn, which loses more; transforms of the model are not in it.
/// Sensitivities must be divergences (probe, measured). Error: a limit that the best candidates do
/// not keep.
Result<Mix> choose_mix_under_kld(const ModelFile& file, std::span<const Scheme> candidates,
                                 std::span<const GroupSensitivity> sensitivities,
                                 const MixOptions& options, const KldTarget& target,
                                 ThreadPool& pool);

}  // namespace lowbit
