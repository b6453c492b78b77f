// SPDX-License-Identifier: Apache-2.0
// How fast a model runs here, and how much of what this machine can do that is. Prefill is one
// prompt behind n_depth earlier tokens, decode is n_generate tokens one after another of n_batch
// sequences together; both as llama-bench and llama-batched-bench define them, so that figures
// stand side by side.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/measure/energy.h"
#include "lowbit/measure/model_work.h"
#include "lowbit/measure/roofs.h"
#include "lowbit/runtime/loaded_model.h"

namespace lowbit {

struct BenchOptions {
  /// A row for each prompt and each batch, at each depth; 0 tokens: no such row.
  std::vector<std::int64_t> prompts{512}, depths{0}, batches{1};
  std::int64_t n_generate = 64;
  int n_repetitions = 5;          // after one that is not counted
  bool profile = false;           // fill BenchRow::counters
  EnergyMeter* energy = nullptr;  // fills BenchRow::joules; null: none is readable
  std::function<bool(std::int64_t n_done, std::int64_t n_total)> progress = {};  // false stops
};

struct BenchRow {
  std::string phase;             // "prefill", "decode"
  std::int64_t n_tokens = 0;     // of each sequence
  std::int64_t n_depth = 0;      // tokens before them
  std::int64_t n_batch = 1;      // sequences
  std::vector<double> seconds;   // of each repetition
  std::optional<double> joules;  // of all repetitions together
  double gops = 0, gbs = 0;      // at the median; bytes: weights and KV cache of decode
  BackendCounters counters;      // of all repetitions together
  /// Time at the roof over time taken: of computing in a prefill; in decode of reading the weights
  /// and the KV cache, or of computing where a batch makes that longer.
  double of_roof = 0;

  std::int64_t n_all_tokens() const { return n_tokens * n_batch; }
  double median_seconds() const;
  double tokens_per_second() const {
    return static_cast<double>(n_all_tokens()) / median_seconds();
  }
  /// Slowest and fastest repetition in tokens/s.
  double least_tokens_per_second() const;
  double most_tokens_per_second() const;
  std::optional<double> joules_per_token() const;
};

/// Errors: a prompt or a depth beyond the model's context, a KV cache beyond the memory.
Result<std::vector<BenchRow>> bench_model(LoadedModel& model, const Roofs& roofs,
                                          const BenchOptions& options);

}  // namespace lowbit
