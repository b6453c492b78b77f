// SPDX-License-Identifier: Apache-2.0
// What the server has done, in Prometheus' text format under vLLM's names, so that its dashboards
// and gateways fit. Written and read on the I/O thread alone: no locks, no atomics.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/server/engine_loop.h"

namespace lowbit {

class Histogram {
 public:
  /// bounds: upper ends of the buckets, ascending; they outlive the histogram.
  explicit Histogram(std::span<const double> bounds);
  void add(double value);
  std::string text(std::string_view name, std::string_view labels) const;

 private:
  std::span<const double> bounds_;
  std::vector<std::int64_t> counts_;  // one more than bounds; not cumulative
  double sum_ = 0;
};

/// How near the last steps came to what the machine could do: sums that forget, by steps.
class RecentRoof {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  /// least_seconds and n_bytes: of StepRoof.
  void add(double least_seconds, double n_bytes, double seconds, TimePoint now);
  /// 1: at the roof. 0 when nothing ran lately.
  double fraction(TimePoint now) const { return is_recent(now) ? least_seconds_ / seconds_ : 0; }
  double gbs(TimePoint now) const { return is_recent(now) ? n_bytes_ / seconds_ * 1e-9 : 0; }

 private:
  bool is_recent(TimePoint now) const;
  double least_seconds_ = 0, n_bytes_ = 0, seconds_ = 0;
  TimePoint last_ = {};
};

/// Of one model, over all its lives.
struct ModelMetrics {
  ModelMetrics();
  void on_loaded(const ServedModel& model);
  void on_unloaded();
  void on_step(const StepReport& report);
  /// Of the engines before this one too: a counter never goes back.
  SchedulerStats scheduler() const;

  EngineStats engine;
  StepRoof roof;
  RecentRoof recent;
  bool is_loaded = false;
  std::int64_t n_loads = 0, n_waiting_for_load = 0;
  std::int64_t weight_bytes = 0;
  std::int64_t n_prompt_tokens = 0, n_cached_tokens = 0, n_generation_tokens = 0;
  double decode_bytes = 0, roof_seconds = 0;     // of all steps
  std::int64_t n_rejected = 0;                   // queue full
  std::map<std::string, std::int64_t> finished;  // by reason: stop, length, abort, error
  Histogram ttft, inter_token, per_output_token, e2e, queue, prefill, decode, inference,
      prompt_tokens, generation_tokens, max_tokens, n_choices, step, step_tokens;

 private:
  SchedulerStats before_;  // of the engines before this one
};

/// Of the whole server.
struct Metrics {
  /// names: one for each of `models`, its label `model_name`.
  std::string text(std::span<const std::string> names,
                   std::chrono::steady_clock::time_point now) const;

  std::vector<ModelMetrics> models;
  std::int64_t n_connections = 0, memory_bytes = 0, memory_used_bytes = 0;
  std::map<int, std::int64_t> answered;  // HTTP requests by status
};

}  // namespace lowbit
