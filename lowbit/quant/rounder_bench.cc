// SPDX-License-Identifier: Apache-2.0
// Time per weight of the searched rounding, scheme by scheme, on one thread: a model of 135 million
// weights takes 0.135 s for each ns.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "lowbit/quant/rounder.h"

namespace lowbit {
namespace {

void round(benchmark::State& state, const Scheme& scheme, bool is_weighted) {
  constexpr std::int64_t rows = 128, cols = 1536;
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> w(rows * cols), weights(cols);
  for (float& value : w) value = normal(random);
  for (float& value : weights) value = 0.1f + normal(random) * normal(random);
  ThreadPool pool(1);
  InputStats stats;
  if (is_weighted) stats.mean_square = weights;
  for (auto _ : state) {
    auto tensor = round_to_nearest(MatrixView(w.data(), rows, cols), stats, scheme, pool);
    benchmark::DoNotOptimize(tensor);
  }
  state.counters["weights/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * static_cast<double>(w.size()),
                         benchmark::Counter::kIsRate);
  state.counters["s/weight"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * static_cast<double>(w.size()),
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

const bool registered = [] {
  for (const Scheme& scheme : named_schemes()) {
    if (is_plain_float(scheme)) continue;
    const std::string name = to_string(scheme);
    benchmark::RegisterBenchmark(name.c_str(), round, scheme, false);
    benchmark::RegisterBenchmark((name + "/weighted").c_str(), round, scheme, true);
  }
  return true;
}();

}  // namespace
}  // namespace lowbit
