// SPDX-License-Identifier: Apache-2.0
// One layer of attention for a model of 9 query heads over 3 KV heads of 64 numbers, on one thread:
// prefills of 512 tokens, and tokens that see a long context. A line: time (of the CPU, so a noisy
// neighbour counts less), GB/s of keys and values, GOPS of the two products (4 head_dim for each
// query head and visible key), and the share of the roof probed beside every run: products of
// integers where keys and values are integers, of f32 elsewhere; for a single token, reading the
// same keys and values. Names: attention/KV/ISA/SHAPE; choose with --benchmark_filter.
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <vector>

#include "lowbit/kernels/attention.h"
#include "lowbit/kernels/kernel_table.h"

namespace lowbit {
namespace {

constexpr std::int64_t head_dim = 64, n_heads = 9, n_kv_heads = 3, group = n_heads / n_kv_heads;
constexpr std::size_t line_bytes = 64;

struct Shape {
  std::string_view name;
  std::int64_t n_context, n_tokens;  // the last n_tokens positions are queries
};
constexpr std::array shapes{Shape{"prefill512", 512, 512}, Shape{"prefill512_at2048", 2560, 512},
                            Shape{"decode_at2048", 2049, 1}, Shape{"decode_at32768", 32769, 1}};

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

/// Keys and values of every KV head of one layer, of normal random numbers.
class Cache {
 public:
  Cache(const AttentionKernels& kernels, const KvLayout& layout, std::int64_t n_context)
      : n_blocks_((n_context + kv_block_positions - 1) / kv_block_positions),
        bytes_(static_cast<std::size_t>(n_kv_heads * n_blocks_ * layout.block_bytes()) +
               line_bytes),
        blocks_(n_kv_heads) {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data());
    first_ = bytes_.data() + (line_bytes - address % line_bytes) % line_bytes;
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> k(head_dim), v(head_dim);
    std::byte* block = first_;
    for (auto& blocks_of_head : blocks_) {
      for (std::int64_t i = 0; i < n_blocks_ * kv_block_positions; ++i) {
        const auto position = static_cast<int>(i % kv_block_positions);
        if (position == 0) blocks_of_head.push_back(block);
        for (float& x : k) x = normal(random);
        for (float& x : v) x = normal(random);
        kernels.kv_store(layout, block, position, k.data(), v.data());
        if (position == kv_block_positions - 1) block += layout.block_bytes();
      }
    }
  }
  const std::byte* const* blocks(std::int64_t kv_head) const {
    return blocks_[static_cast<std::size_t>(kv_head)].data();
  }
  const std::byte* data() const { return first_; }
  std::int64_t n_bytes() const { return static_cast<std::int64_t>(bytes_.size() - line_bytes); }

 private:
  std::int64_t n_blocks_;
  std::vector<std::byte> bytes_;
  std::byte* first_ = nullptr;
  std::vector<std::vector<const std::byte*>> blocks_;
};

void run(benchmark::State& state, const KernelTable& table, KvKind kind, const Shape& shape) {
  const KvLayout layout{kind, head_dim};
  const Cache cache(table.attention, layout, shape.n_context);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> q(static_cast<std::size_t>(shape.n_tokens * n_heads * head_dim));
  for (float& x : q) x = normal(random);
  std::vector<float> out(q.size());
  std::vector<AttentionTask> tasks;
  double n_keys = 0;
  for (std::int64_t head = 0; head < n_kv_heads; ++head) {
    for (std::int64_t t = 0; t < shape.n_tokens; ++t) {
      for (std::int64_t g = 0; g < group; ++g) {
        const std::int64_t at = (t * n_heads + head * group + g) * head_dim;
        const std::int64_t n_visible = shape.n_context - shape.n_tokens + t + 1;
        tasks.push_back({q.data() + at, out.data() + at, cache.blocks(head), n_visible, 0, 0.125f});
        n_keys += static_cast<double>(n_visible);
      }
    }
  }
  ThreadPool pool(1);
  AttentionWorkspace workspace;
  const auto layer = [&] {
    attention(pool, table.attention, layout, tasks, workspace);
    benchmark::DoNotOptimize(out.data());
  };
  layer();

  const bool is_decode = shape.n_tokens == 1;
  constexpr std::int64_t probe_rounds = 20000;
  alignas(line_bytes) std::array<std::int32_t, line_bytes / sizeof(std::int32_t)> int_sink{};
  alignas(line_bytes) std::array<float, line_bytes / sizeof(float)> float_sink{};
  alignas(line_bytes) std::array<std::uint8_t, line_bytes> byte_sink{};
  const auto roof = [&] {
    const double start = cpu_seconds();
    std::int64_t amount = cache.n_bytes() / roof_read_multiple * roof_read_multiple;
    if (is_decode) {
      table.roof.read(cache.data(), amount, byte_sink.data());
    } else if (kind == KvKind::int8_token || kind == KvKind::int4_g64) {
      amount = table.roof.int8_products(probe_rounds, int_sink.data());
    } else {
      amount = table.roof.f32_products(probe_rounds, float_sink.data());
    }
    return static_cast<double>(amount) / (cpu_seconds() - start);
  };
  constexpr double operations_of_number = 4;  // a product and a sum with the key, and the value
  const double operations = n_keys * operations_of_number * head_dim;
  const auto n_bytes = static_cast<double>(cache.n_bytes());
  std::vector<double> shares;
  double seconds = 0;
  for (auto _ : state) {
    const double before = roof(), start = cpu_seconds();
    layer();
    const double elapsed = cpu_seconds() - start;
    state.SetIterationTime(elapsed);
    seconds += elapsed;
    shares.push_back((is_decode ? n_bytes : operations) / elapsed / ((before + roof()) / 2));
  }
  std::ranges::sort(shares);
  const auto n_runs = static_cast<double>(shares.size());
  state.counters["GB/s"] = n_bytes * n_runs / seconds / 1e9;
  state.counters["GOPS"] = operations * n_runs / seconds / 1e9;
  state.counters["%roof"] = 100 * shares[shares.size() / 2];
}

void register_all() {
  constexpr int least_runs = 20;
  for (const KernelTable* table : available_kernels()) {
    if (table->isa == Isa::scalar) continue;
    for (const KvKind kind : all_kv_kinds) {
      for (const Shape& shape : shapes) {
        const std::string name = "attention/" + std::string(name_of(kind)) + "/" +
                                 std::string(name_of(table->isa)) + "/" + std::string(shape.name);
        benchmark::RegisterBenchmark(
            name.c_str(), [=](benchmark::State& state) { run(state, *table, kind, shape); })
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond)
            ->Iterations(least_runs);
      }
    }
  }
}

[[maybe_unused]] const bool registered = (register_all(), true);

}  // namespace
}  // namespace lowbit
