// SPDX-License-Identifier: Apache-2.0
// One layer of attention for a model of 9 query heads over 3 KV heads of 64 numbers: a prefill of
// 512 tokens, and one token that sees a long context. gflops counts the two products (4 head_dim
// for each query head and visible key), gbs the bytes of keys and values.
#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "lowbit/kernels/attention.h"
#include "lowbit/kernels/kernel_table.h"

namespace lowbit {
namespace {

constexpr std::int64_t head_dim = 64, n_heads = 9, n_kv_heads = 3;

struct Shape {
  std::string name;
  std::int64_t n_context, n_tokens;  // the last n_tokens positions are queries
};

void run(benchmark::State& state, const KernelTable& table, KvKind kind, const Shape& shape,
         int n_threads) {
  const KvLayout layout{kind, head_dim};
  const std::int64_t n_blocks = (shape.n_context + kv_block_positions - 1) / kv_block_positions;
  const auto head_bytes = static_cast<std::size_t>(n_blocks * layout.block_bytes());
  std::vector<std::byte> memory(head_bytes * n_kv_heads + 64);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  std::byte* first = memory.data() + (64 - address % 64) % 64;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(static_cast<std::size_t>(shape.n_tokens * n_heads * head_dim));
  for (float& x : numbers) x = normal(random);
  std::vector<float> k(head_dim), v(head_dim);
  std::vector<std::vector<const std::byte*>> blocks(n_kv_heads);
  for (std::size_t h = 0; h < n_kv_heads; ++h) {
    for (std::int64_t b = 0; b < n_blocks; ++b) {
      blocks[h].push_back(first + h * head_bytes +
                          static_cast<std::size_t>(b * layout.block_bytes()));
    }
    for (std::int64_t i = 0; i < shape.n_context; ++i) {
      for (float& x : k) x = normal(random);
      for (float& x : v) x = normal(random);
      auto* block =
          const_cast<std::byte*>(blocks[h][static_cast<std::size_t>(i / kv_block_positions)]);
      table.attention.kv_store(layout, block, static_cast<int>(i % kv_block_positions), k.data(),
                               v.data());
    }
  }
  std::vector<float> out(numbers.size());
  std::vector<AttentionTask> tasks;
  double n_keys = 0;
  constexpr std::int64_t group = n_heads / n_kv_heads;
  for (std::size_t h = 0; h < n_kv_heads; ++h) {
    for (std::int64_t t = 0; t < shape.n_tokens; ++t) {
      for (std::int64_t g = 0; g < group; ++g) {
        const std::int64_t head = static_cast<std::int64_t>(h) * group + g;
        const std::int64_t at = (t * n_heads + head) * head_dim;
        const std::int64_t n_visible = shape.n_context - shape.n_tokens + t + 1;
        tasks.push_back(
            {numbers.data() + at, out.data() + at, blocks[h].data(), n_visible, 0, 0.125f});
        n_keys += static_cast<double>(n_visible);
      }
    }
  }
  ThreadPool pool(n_threads);
  AttentionWorkspace workspace;
  for (auto _ : state) {
    attention(pool, table.attention, layout, tasks, workspace);
    benchmark::DoNotOptimize(out.data());
  }
  const auto n_runs = static_cast<double>(state.iterations());
  state.counters["gflops"] =
      benchmark::Counter(n_runs * n_keys * 4 * head_dim / 1e9, benchmark::Counter::kIsRate);
  state.counters["gbs"] = benchmark::Counter(
      n_runs * static_cast<double>(head_bytes) * n_kv_heads / 1e9, benchmark::Counter::kIsRate);
}

}  // namespace
}  // namespace lowbit

int main(int argc, char** argv) {
  using namespace lowbit;  // NOLINT: the benchmarks' names below
  for (const KernelTable* table : available_kernels()) {
    for (const KvKind kind : all_kv_kinds) {
      for (const Shape& shape : {Shape{"prefill512", 512, 512}, Shape{"decode2048", 2048, 1}}) {
        for (const int n_threads : {1, 2}) {
          const std::string name = "attention/" + std::string(name_of(table->isa)) + "/" +
                                   std::string(name_of(kind)) + "/" + shape.name +
                                   "/threads:" + std::to_string(n_threads);
          benchmark::RegisterBenchmark(
              name.c_str(),
              [=](benchmark::State& state) { run(state, *table, kind, shape, n_threads); })
              ->UseRealTime()
              ->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
