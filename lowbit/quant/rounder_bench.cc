// SPDX-License-Identifier: Apache-2.0
// Time per weight of the searched rounding, scheme by scheme, on one thread: a model of 135 million
// weights takes 0.135 s for each ns. NAME/RECIPE/ROWSxCOLS are whole matrices on two threads: gptq
// with its factorisation, hqq, and rtn beside them.
#include <benchmark/benchmark.h>

#include <array>
#include <cstdlib>
#include <random>
#include <string>
#include <utility>
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

/// A whole matrix on two threads, wall time.
void round_matrix(benchmark::State& state, const Rounder& rounder, const Scheme& scheme,
                  std::int64_t rows, std::int64_t cols) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> w(static_cast<std::size_t>(rows * cols));
  for (float& value : w) value = normal(random);
  // Inputs whose correlation falls with the distance; any positive definite matrix costs the same.
  std::vector<float> hessian, mean_square(static_cast<std::size_t>(cols), 1.0f);
  for (std::int64_t r = 0; r < cols; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      hessian.push_back(1 / (1 + 0.1f * static_cast<float>(std::abs(r - c))));
    }
  }
  ThreadPool pool(2);
  const InputStats stats{.mean_square = mean_square, .hessian = {hessian.data(), cols, cols}};
  for (auto _ : state) {
    auto tensor = rounder.round(MatrixView(w.data(), rows, cols), stats, scheme, pool);
    benchmark::DoNotOptimize(tensor);
  }
  state.counters["weights/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * static_cast<double>(w.size()),
                         benchmark::Counter::kIsRate);
}

const bool registered_matrices = [] {
  constexpr std::array recipes{std::pair{"gptq", "int4.g128"},    std::pair{"gptq", "q4_k"},
                               std::pair{"gptq", "iq3_xxs"},      std::pair{"hqq", "int4.g64"},
                               std::pair{"hqq", "int4.g64.zero"}, std::pair{"rtn", "int4.g128"},
                               std::pair{"rtn", "q4_0"},          std::pair{"rtn", "q4_k"},
                               std::pair{"rtn", "q6_k"}};
  for (const auto& [method, scheme_name] : recipes) {
    const Rounder& rounder = **rounder_named(method);
    const Scheme scheme = *parse_scheme(scheme_name);
    for (const auto& [rows, cols] :
         {std::pair<std::int64_t, std::int64_t>{1536, 576}, {576, 1536}}) {
      if (cols % required_multiple(scheme) != 0) continue;
      const std::string name = std::string(method) + "/" + scheme_name + "/" +
                               std::to_string(rows) + "x" + std::to_string(cols);
      benchmark::RegisterBenchmark(
          name.c_str(),
          [&rounder, scheme, rows = rows, cols = cols](benchmark::State& state) {
            round_matrix(state, rounder, scheme, rows, cols);
          })
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
  return true;
}();

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
