// SPDX-License-Identifier: Apache-2.0
// How fast a model runs here, and how much of what this machine can do that is. Prefill is one
// prompt of n_prompt tokens, decode is n_generate tokens one after another behind n_depth earlier
// ones; both exactly as llama-bench defines them, so that figures stand side by side.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/measure/model_work.h"
#include "lowbit/measure/roofs.h"
#include "lowbit/runtime/loaded_model.h"

namespace lowbit {

struct BenchOptions {
  std::int64_t n_prompt = 512, n_generate = 64, n_depth = 0;
  int n_repetitions = 5;  // after one that is not counted
  bool profile = false;   // fill BenchRow::counters
  std::function<bool(std::int64_t n_done, std::int64_t n_total)> progress = {};  // false stops
};

struct BenchRow {
  std::string phase;  // "prefill", "decode"
  std::int64_t n_tokens = 0;
  std::vector<double> seconds;    // of each repetition
  double gops = 0, gbs = 0;       // at the median
  BackendCounters counters = {};  // of all repetitions together
  double of_roof = 0;  // prefill: time at the compute roofs over time taken; decode: bytes read

  double median_seconds() const;
  double tokens_per_second() const { return static_cast<double>(n_tokens) / median_seconds(); }
  /// Slowest and fastest repetition in tokens/s.
  double least_tokens_per_second() const;
  double most_tokens_per_second() const;
};

/// Errors: a prompt or a depth beyond the model's context.
Result<std::vector<BenchRow>> bench_model(LoadedModel& model, const Roofs& roofs,
                                          const BenchOptions& options);

}  // namespace lowbit
