// SPDX-License-Identifier: Apache-2.0
// What a load test of a server says, by the definitions of `vllm bench serve`, so that figures of
// different tools can stand side by side. Pure functions of what was recorded.
//   TTFT  from sending a request to its first token
//   TPOT  (latency - TTFT) / (tokens - 1), of answers with more than one token
//   ITL   every time between two chunks of tokens
//   E2EL  from sending a request to the end of its answer
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace lowbit {

/// One request. Times are in seconds; of a request that failed only `error` and `start` count.
struct RequestRecord {
  std::string error = {};  // empty: it succeeded
  double start = 0;        // since the beginning of the test
  double ttft = 0, latency = 0;
  std::vector<double> gaps = {};  // between chunks
  std::int64_t n_input = 0, n_output = 0;
};

/// Milliseconds; all 0 where nothing was measured.
struct LatencySummary {
  double mean = 0, median = 0, deviation = 0, p99 = 0;
};

struct LoadReport {
  std::int64_t n_completed = 0, n_failed = 0, n_input = 0, n_output = 0;
  double seconds = 0;
  double requests_per_second = 0, output_per_second = 0, tokens_per_second = 0;
  double peak_output_per_second = 0;  // the fullest whole second
  std::int64_t peak_requests = 0;     // at once
  LatencySummary ttft, tpot, itl, e2el;
};

/// The q-th percentile, 0 <= q <= 100, linear between the two nearest values (numpy's default).
double percentile(std::span<const double> sorted, double q);

LoadReport summarize(std::span<const RequestRecord> records, double seconds);

/// When requests are sent, in seconds: gamma-distributed gaps of shape `burstiness` (1: a Poisson
/// process; less comes in bursts), scaled so that all are sent in n / rate. No rate: all at once.
std::vector<double> arrival_times(std::int64_t n_requests, std::optional<double> rate,
                                  double burstiness, std::uint64_t seed);

}  // namespace lowbit
