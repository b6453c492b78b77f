// SPDX-License-Identifier: Apache-2.0
// What the server has done, in Prometheus' text format under vLLM's names, so that its dashboards
// and gateways fit. Written and read on the I/O thread alone: no locks, no atomics.
#pragma once

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

struct Metrics {
  Metrics();
  /// labels of every series: `model_name`.
  std::string text(const std::string& model_name) const;

  EngineStats engine;
  std::int64_t weight_bytes = 0, n_connections = 0;
  std::int64_t n_prompt_tokens = 0, n_generation_tokens = 0;
  std::int64_t n_rejected = 0;                   // queue full
  std::map<std::string, std::int64_t> finished;  // by reason: stop, length, abort, error
  std::map<int, std::int64_t> answered;          // HTTP requests by status
  Histogram ttft, inter_token, per_output_token, e2e, prompt_tokens, generation_tokens, max_tokens,
      n_choices, step;
};

}  // namespace lowbit
