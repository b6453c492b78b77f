// SPDX-License-Identifier: Apache-2.0
// Speed of the layouts in GGUF bytes per second, one thread.
#include <benchmark/benchmark.h>

#include <random>
#include <string>

#include "lowbit/io/layout.h"

namespace lowbit {
namespace {

constexpr std::int64_t rows = 512, cols = 4096;

std::vector<std::byte> random_bytes(std::size_t n_bytes) {
  std::mt19937 random(1);
  std::vector<std::byte> bytes(n_bytes);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random() & 0xff);
  return bytes;
}

void load(benchmark::State& state, const BlockLayout& layout) {
  const auto n_bytes = static_cast<std::size_t>(rows * cols / layout.n_numbers * layout.n_bytes);
  const auto bytes = random_bytes(n_bytes);
  for (auto _ : state) {
    benchmark::DoNotOptimize(load_blocks(layout, bytes, rows, cols, nullptr));
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(n_bytes) * state.iterations());
}

void store(benchmark::State& state, const BlockLayout& layout) {
  const auto n_bytes = static_cast<std::size_t>(rows * cols / layout.n_numbers * layout.n_bytes);
  auto bytes = random_bytes(n_bytes);
  const QuantizedTensor tensor = load_blocks(layout, bytes, rows, cols, nullptr);
  for (auto _ : state) benchmark::DoNotOptimize(store_blocks(layout, tensor, bytes));
  state.SetBytesProcessed(static_cast<std::int64_t>(n_bytes) * state.iterations());
}

const bool registered = [] {
  for (const BlockLayout& layout : block_layouts()) {
    const std::string name(layout.name);
    benchmark::RegisterBenchmark(("load/" + name).c_str(), load, layout);
    benchmark::RegisterBenchmark(("store/" + name).c_str(), store, layout);
  }
  return true;
}();

}  // namespace
}  // namespace lowbit
