// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/load_report.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

namespace lowbit {
namespace {

LatencySummary summary_of(std::vector<double> seconds) {
  if (seconds.empty()) return {};
  constexpr double per_second = 1000;
  std::ranges::sort(seconds);
  const auto count = static_cast<double>(seconds.size());
  const double mean = std::accumulate(seconds.begin(), seconds.end(), 0.0) / count;
  double squares = 0;
  for (const double value : seconds) squares += (value - mean) * (value - mean);
  return {.mean = mean * per_second,
          .median = percentile(seconds, 50) * per_second,
          .deviation = std::sqrt(squares / count) * per_second,
          .p99 = percentile(seconds, 99) * per_second};
}

/// Requests that are under way at the same time, at most; one that ends as another begins does not
/// meet it.
std::int64_t most_at_once(std::span<const RequestRecord> records) {
  std::vector<std::pair<double, int>> events;
  for (const RequestRecord& record : records) {
    if (!record.error.empty()) continue;
    events.emplace_back(record.start, 1);
    events.emplace_back(record.start + record.latency, -1);
  }
  std::ranges::sort(events);
  std::int64_t now = 0, most = 0;
  for (const auto& [time, change] : events) most = std::max(most, now += change);
  return most;
}

/// Chunks of the second that has most, counted from the first request on.
double fullest_second(std::span<const RequestRecord> records) {
  double first = INFINITY;
  for (const RequestRecord& record : records) {
    if (record.error.empty()) first = std::min(first, record.start);
  }
  std::vector<double> counts;
  for (const RequestRecord& record : records) {
    if (!record.error.empty() || record.n_output == 0) continue;
    double time = record.start - first + record.ttft;
    const auto count = [&] {
      const auto second = static_cast<std::size_t>(time);
      if (second >= counts.size()) counts.resize(second + 1);
      ++counts[second];
    };
    count();
    for (const double gap : record.gaps) {
      time += gap;
      count();
    }
  }
  return counts.empty() ? 0 : *std::ranges::max_element(counts);
}

}  // namespace

double percentile(std::span<const double> sorted, double q) {
  const double rank = q / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(rank);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], rank - static_cast<double>(below));
}

LoadReport summarize(std::span<const RequestRecord> records, double seconds) {
  LoadReport report;
  report.seconds = seconds;
  std::vector<double> ttft, tpot, itl, e2el;
  for (const RequestRecord& record : records) {
    if (!record.error.empty()) {
      ++report.n_failed;
      continue;
    }
    ++report.n_completed;
    report.n_input += record.n_input;
    report.n_output += record.n_output;
    ttft.push_back(record.ttft);
    e2el.push_back(record.latency);
    itl.insert(itl.end(), record.gaps.begin(), record.gaps.end());
    if (record.n_output > 1) {
      tpot.push_back((record.latency - record.ttft) / static_cast<double>(record.n_output - 1));
    }
  }
  if (seconds > 0) {
    report.requests_per_second = static_cast<double>(report.n_completed) / seconds;
    report.output_per_second = static_cast<double>(report.n_output) / seconds;
    report.tokens_per_second = static_cast<double>(report.n_input + report.n_output) / seconds;
  }
  report.peak_output_per_second = fullest_second(records);
  report.peak_requests = most_at_once(records);
  report.ttft = summary_of(std::move(ttft));
  report.tpot = summary_of(std::move(tpot));
  report.itl = summary_of(std::move(itl));
  report.e2el = summary_of(std::move(e2el));
  return report;
}

std::vector<double> arrival_times(std::int64_t n_requests, std::optional<double> rate,
                                  double burstiness, std::uint64_t seed) {
  std::vector<double> times(static_cast<std::size_t>(n_requests), 0.0);
  if (!rate || times.empty()) return times;
  std::mt19937_64 random(seed);
  std::gamma_distribution<double> gap(burstiness, 1 / (*rate * burstiness));
  double now = 0;
  for (double& time : times) time = now += gap(random);
  if (now > 0) {
    const double scale = static_cast<double>(n_requests) / *rate / now;
    for (double& time : times) time *= scale;
  }
  return times;
}

}  // namespace lowbit
