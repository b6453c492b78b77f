// SPDX-License-Identifier: Apache-2.0
// Runs every hot kernel once so that callgrind can count its instructions: a number that no noise
// touches (scripts/counts compares it with the recorded one). Each case is prepared and run once
// uncounted, then run once between two requests to the tool; the dump carries the case's name. Only
// instruction sets that valgrind knows, and shapes small enough for its pace. Without valgrind it
// prints the names.
#include <valgrind/callgrind.h>

#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/kernels/attention.h"
#include "lowbit/kernels/kernel_table.h"
#include "lowbit/kernels/matmul.h"

namespace lowbit {
namespace {

void count(const std::string& name, const std::function<void()>& work) {
  work();
  std::printf("%s\n", name.c_str());
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
  work();
  CALLGRIND_DUMP_STATS_AT(name.c_str());
  CALLGRIND_STOP_INSTRUMENTATION;
}

std::vector<float> random_numbers(std::int64_t n_numbers) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(static_cast<std::size_t>(n_numbers));
  for (float& number : numbers) number = normal(random);
  return numbers;
}

/// Codes with every bit in use; factors of one moderate size.
void fill(QuantizedTensor& tensor, bool is_factor) {
  std::minstd_rand random(1);
  for (std::int64_t r = 0; r < tensor.rows; ++r) {
    for (std::int64_t i = 0; i < tensor.codes.n_per_row(); ++i) {
      const float value = 0.01f * static_cast<float>(1 + random() % 7);
      const std::uint32_t bits = static_cast<std::uint32_t>(random() >> 8);
      const bool is_number = is_factor || tensor.scheme.code->formula != nullptr;
      tensor.codes.set(r, i,
                       is_number ? nearest_code(*tensor.scheme.code, value)
                                 : bits & ((1u << tensor.scheme.code->window) - 1));
    }
  }
  if (tensor.scale) fill(*tensor.scale, true);
  if (tensor.zero) fill(*tensor.zero, true);
}

struct Product {
  std::string_view scheme;
  Activations activations;
};
constexpr std::array products{Product{"int8.channel", Activations::int8_token},
                              Product{"int4.g128", Activations::int8_token},
                              Product{"int4.g32", Activations::int8_token},
                              Product{"q4_0", Activations::int8_g32},
                              Product{"q8_0", Activations::int8_g32},
                              Product{"mxfp4", Activations::int8_g32},
                              Product{"q4_k", Activations::int8_g256},
                              Product{"q6_k", Activations::int8_g256},
                              Product{"nf4.g64", Activations::f32},
                              Product{"f16", Activations::f32}};

void count_products(const KernelTable& table, ThreadPool& pool) {
  constexpr std::int64_t n_outputs = 32, n_inputs = 1024;
  const std::vector<float> x = random_numbers(16 * n_inputs);
  for (const Product& product : products) {
    QuantizedTensor w(*parse_scheme(product.scheme), n_outputs, n_inputs);
    fill(w, false);
    const Result<PackedMatrix> packed = pack(w, pool);
    if (!packed) continue;  // scripts/counts misses the name
    for (const std::int64_t n_tokens : {1, 12}) {
      PackedActivations prepared;
      MatmulWorkspace workspace;
      prepare_activations(table, MatrixView(x.data(), n_tokens, n_inputs), product.activations,
                          *packed, prepared, pool);
      std::vector<float> y(static_cast<std::size_t>(n_tokens * n_outputs));
      count(std::string(name_of(table.isa)) + "/matmul/" + std::string(product.scheme) + "/" +
                std::string(name_of(product.activations)) + "/" + std::to_string(n_tokens),
            [&] {
              matmul(table, *packed, prepared, MutableMatrixView(y.data(), n_tokens, n_outputs),
                     workspace, pool);
            });
    }
  }
}

void count_vectors(const KernelTable& table) {
  constexpr std::int64_t n = 2048;
  const std::vector<float> x = random_numbers(n), y = random_numbers(n);
  std::vector<float> out(x), scales(n);
  std::vector<std::int8_t> codes(n);
  std::vector<std::int32_t> sums(n);
  const std::string isa(name_of(table.isa));
  count(isa + "/quantize_row/int8.token", [&] {
    table.matmul.quantize_row(x.data(), n, 0, codes.data(), scales.data(), sums.data());
  });
  count(isa + "/quantize_row/int8.g32", [&] {
    table.matmul.quantize_row(x.data(), n, 32, codes.data(), scales.data(), sums.data());
  });
  count(isa + "/rms_norm",
        [&] { table.vector.rms_norm(x.data(), y.data(), 1e-5f, n, out.data()); });
  count(isa + "/silu_mul", [&] { table.vector.silu_mul(x.data(), y.data(), n, out.data()); });
  count(isa + "/softmax", [&] { table.vector.softmax(x.data(), n, out.data()); });
  count(isa + "/rope_rotate",
        [&] { table.vector.rope_rotate(out.data(), x.data(), y.data(), n / 2); });
}

/// One KV head, a group of 3 query heads: a prompt of 64 tokens, and one token that sees 256.
void count_attention(const KernelTable& table, ThreadPool& pool) {
  constexpr std::int64_t head_dim = 64, n_context = 256, n_queries = 3;
  constexpr std::int64_t n_blocks = n_context / kv_block_positions;
  for (const KvKind kind : {KvKind::f16, KvKind::int8_token}) {
    const KvLayout layout{kind, head_dim};
    constexpr std::int64_t line = 64;
    std::vector<std::byte> memory(static_cast<std::size_t>(n_blocks * layout.block_bytes() + line));
    std::byte* first = memory.data();
    while (reinterpret_cast<std::uintptr_t>(first) % line != 0) ++first;
    std::vector<const std::byte*> blocks;
    for (std::int64_t b = 0; b < n_blocks; ++b) blocks.push_back(first + b * layout.block_bytes());
    const std::vector<float> numbers = random_numbers((n_context + 1) * head_dim);
    for (std::int64_t i = 0; i < n_context; ++i) {
      table.attention.kv_store(layout, first + i / kv_block_positions * layout.block_bytes(),
                               static_cast<int>(i % kv_block_positions),
                               numbers.data() + i * head_dim, numbers.data() + (i + 1) * head_dim);
    }
    for (const std::int64_t n_tokens : {1, 64}) {
      std::vector<float> out(static_cast<std::size_t>(n_tokens * n_queries * head_dim));
      std::vector<AttentionTask> tasks;
      for (std::int64_t t = 0; t < n_tokens * n_queries; ++t) {
        const std::int64_t n_visible = n_context - n_tokens + t / n_queries + 1;
        tasks.push_back({numbers.data() + t % n_context * head_dim, out.data() + t * head_dim,
                         blocks.data(), n_visible, 0, 0.125f});
      }
      AttentionWorkspace workspace;
      count(std::string(name_of(table.isa)) + "/attention/" + std::string(name_of(kind)) + "/" +
                std::to_string(n_tokens),
            [&] { attention(pool, table.attention, layout, tasks, workspace); });
    }
  }
}

}  // namespace
}  // namespace lowbit

int main() {
  using lowbit::Isa;
  lowbit::ThreadPool pool(1);
  for (const Isa isa : {Isa::avx2, Isa::scalar}) {
    const lowbit::KernelTable* table = lowbit::kernels_for(isa);
    if (table == nullptr) continue;
    lowbit::count_products(*table, pool);
    lowbit::count_vectors(*table);
    lowbit::count_attention(*table, pool);
  }
}
