// SPDX-License-Identifier: Apache-2.0
// How fast a step of the engine could have been on this machine: the bytes it must read over the
// measured read bandwidth, or its operations over the measured peaks, whichever takes longer. The
// same definition as in `lowbit bench`.
#pragma once

#include <algorithm>

#include "lowbit/measure/model_work.h"
#include "lowbit/measure/roofs.h"
#include "lowbit/runtime/step_budget.h"

namespace lowbit {

struct StepRoof {
  ModelWork work = {};
  Roofs roofs = {};  // zeros: not measured

  /// Every weight once, and the keys and values in use (bytes) once.
  double bytes(double kv_bytes) const { return static_cast<double>(work.decode_bytes) + kv_bytes; }

  bool is_known() const {
    return roofs.read_gbs > 0 && roofs.int8_gops > 0 && roofs.f32_gflops > 0;
  }

  /// 0: the roofs are not known.
  double least_seconds(const StepSample& step, double kv_bytes) const {
    if (!is_known()) return 0;
    return std::max(bytes(kv_bytes) / roofs.read_gbs / giga, computing_seconds(step));
  }

  /// A roof is at least what was reached: neighbours may have disturbed its measurement.
  void raise_to(const StepSample& step, double kv_bytes) {
    if (!is_known() || step.seconds <= 0) return;
    roofs.read_gbs = std::max(roofs.read_gbs, bytes(kv_bytes) / step.seconds / giga);
    const double factor = std::max(1.0, computing_seconds(step) / step.seconds);
    roofs.int8_gops *= factor;
    roofs.f32_gflops *= factor;
  }

 private:
  static constexpr double giga = 1e9;

  double computing_seconds(const StepSample& step) const {
    const auto n_decodes = static_cast<double>(step.n_decodes);
    const double n_tokens = n_decodes + static_cast<double>(step.n_prompt_tokens);
    const double int8_ops = n_tokens * work.int8_ops + n_decodes * work.head_int8_ops;
    const double f32_ops = n_tokens * work.f32_ops + n_decodes * work.head_f32_ops;
    return (int8_ops / roofs.int8_gops + f32_ops / roofs.f32_gflops) / giga;
  }
};

}  // namespace lowbit
