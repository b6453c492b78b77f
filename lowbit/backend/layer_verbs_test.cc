// SPDX-License-Identifier: Apache-2.0
// The verbs of a layer against what they mean, the plain verbs one after the other, bit for bit;
// and how often the threads of a decode step wait for each other.
#include <array>
#include <bit>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "lowbit/backend/backend.h"
#include "lowbit/backend/cpu_backend.h"
#include "lowbit/base/isa.h"
#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/formats/scheme.h"

namespace lowbit {
namespace {

constexpr float eps = 1e-5f;

/// A layer's tensors on one backend, filled from one seed: the same numbers each time.
struct Layer {
  struct Sizes {
    std::int64_t d_model = 64, n_heads = 4, n_kv_heads = 2, head_dim = 32, d_ff = 96;
    bool biases = true, head_norms = true;
    std::array<const char*, 7> schemes{};    // q k v o gate up down
    std::array<std::int64_t, 7> hadamard{};  // of their bases
  };

  Layer(Backend& backend_, const Sizes& s, std::int64_t n_rows) : backend(backend_), sizes(s) {
    const std::int64_t d_q = s.n_heads * s.head_dim, d_kv = s.n_kv_heads * s.head_dim;
    const std::array<std::array<std::int64_t, 2>, 7> shapes{{{d_q, s.d_model},
                                                             {d_kv, s.d_model},
                                                             {d_kv, s.d_model},
                                                             {s.d_model, d_q},
                                                             {s.d_ff, s.d_model},
                                                             {s.d_ff, s.d_model},
                                                             {s.d_model, s.d_ff}}};
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      w[i] = weight(s.schemes[i], s.hadamard[i], shapes[i][0], shapes[i][1]);
      bias[i] = s.biases ? random_tensor(1, shapes[i][0]) : nullptr;
      y[i] = backend.make_tensor(n_rows, shapes[i][0]);
    }
    x = random_tensor(n_rows, s.d_model);
    normed = backend.make_tensor(n_rows, s.d_model);
    norm = random_tensor(1, s.d_model);
    q_norm = random_tensor(1, s.head_dim);
    k_norm = random_tensor(1, s.head_dim);
    cos = random_tensor(n_rows, s.head_dim / 2);
    sin = random_tensor(n_rows, s.head_dim / 2);
    mixed = backend.make_tensor(n_rows, d_q);
    const std::int64_t n_pages = (n_rows + kv_block_positions - 1) / kv_block_positions + 1;
    pool = *backend.make_kv_pool(KvKind::f16, s.n_kv_heads, s.head_dim, n_pages);
    for (std::int64_t i = n_pages; i-- > 0;) pages.push_back(static_cast<std::int32_t>(i));
    backend.kv_zero(*pool, pages);
    rows = {{0, n_rows, 7, pages}};
  }

  std::unique_ptr<Tensor> random_tensor(std::int64_t n_rows, std::int64_t n_cols) {
    std::normal_distribution<float> normal;
    std::vector<float> numbers(static_cast<std::size_t>(n_rows * n_cols));
    for (float& number : numbers) number = normal(random);
    auto tensor = backend.make_tensor(n_rows, n_cols);
    backend.upload(numbers, *tensor);
    return tensor;
  }

  std::unique_ptr<Weight> weight(const char* scheme, std::int64_t hadamard, std::int64_t n_rows,
                                 std::int64_t n_cols) {
    QuantizedTensor matrix(*parse_scheme(scheme), n_rows, n_cols);
    matrix.input.hadamard = hadamard;
    const auto fill = [&](QuantizedTensor& plane, bool is_factor) {
      for (std::int64_t row = 0; row < plane.codes.n_rows(); ++row) {
        for (std::int64_t i = 0; i < plane.codes.n_per_row(); ++i) {
          const auto any = static_cast<std::uint32_t>(random());
          plane.codes.set(row, i,
                          is_factor ? nearest_code(*plane.scheme.code,
                                                   0.01f + 0.001f * static_cast<float>(any % 8))
                                    : any % 8);
        }
      }
    };
    fill(matrix, false);
    if (matrix.scale) fill(*matrix.scale, true);
    if (matrix.zero) fill(*matrix.zero, true);
    return *backend.pack(matrix, std::nullopt);
  }

  Product product(std::size_t i) const { return {w[i].get(), bias[i].get(), y[i].get()}; }
  Norm norm_of_x() const { return {norm.get(), eps, normed.get()}; }
  AttentionInputs inputs() const {
    return {.q = product(0),
            .k = product(1),
            .v = product(2),
            .q_norm = sizes.head_norms ? q_norm.get() : nullptr,
            .k_norm = sizes.head_norms ? k_norm.get() : nullptr,
            .eps = eps,
            .head_dim = sizes.head_dim,
            .cos = cos.get(),
            .sin = sin.get(),
            .pool = pool.get(),
            .sequences = rows};
  }

  /// The layer in the verbs of a backend: its own, or those of the base class.
  template <bool own>
  void run() {
    Backend& b = backend;
    if constexpr (own) {
      b.attention_inputs(*x, norm_of_x(), inputs());
    } else {
      b.Backend::attention_inputs(*x, norm_of_x(), inputs());
    }
    b.attention(*pool, *y[0], rows, *mixed);
    if constexpr (own) {
      b.matmul_add(*mixed, product(3), *x);
      b.gated_matmul(*x, norm_of_x(), product(4), product(5));
      b.matmul_add(*y[4], product(6), *x);
    } else {
      b.Backend::matmul_add(*mixed, product(3), *x);
      b.Backend::gated_matmul(*x, norm_of_x(), product(4), product(5));
      b.Backend::matmul_add(*y[4], product(6), *x);
    }
  }

  std::vector<std::uint32_t> bits_of(const Tensor& tensor) const {
    std::vector<float> numbers(static_cast<std::size_t>(tensor.rows * tensor.cols));
    backend.download(tensor, numbers);
    std::vector<std::uint32_t> bits;
    for (const float number : numbers) bits.push_back(std::bit_cast<std::uint32_t>(number));
    return bits;
  }

  Backend& backend;
  Sizes sizes;
  std::mt19937_64 random{7};
  std::array<std::unique_ptr<Weight>, 7> w;
  std::array<std::unique_ptr<Tensor>, 7> bias, y;
  std::unique_ptr<Tensor> x, normed, norm, q_norm, k_norm, cos, sin, mixed;
  std::unique_ptr<KvPool> pool;
  std::vector<std::int32_t> pages;
  std::vector<SequenceRows> rows;
};

/// Heads that are whole panels, heads that are not, matrices of several kinds of activations.
const std::array layer_sizes{
    Layer::Sizes{.schemes = {"q4_0", "q4_0", "q4_0", "q4_0", "q4_1", "q4_1", "q8_0"}},
    Layer::Sizes{.d_model = 72,
                 .n_kv_heads = 1,
                 .head_dim = 20,
                 .d_ff = 104,
                 .schemes = {"q8_0", "q4_0", "nf4.g64", "int8.channel", "f32", "q4_1", "q8_0"},
                 .hadamard = {8, 0, 8, 16, 2, 2, 8}},
    Layer::Sizes{.d_model = 256,
                 .head_dim = 48,
                 .biases = false,
                 .head_norms = false,
                 .schemes = {"q4_k", "q6_k", "q8_0", "q4_0", "q4_k", "q4_k", "q4_0"}}};

void expect_same_layer(Backend& backend, const Layer::Sizes& sizes, std::int64_t n_rows) {
  Layer fused(backend, sizes, n_rows), plain(backend, sizes, n_rows);
  fused.run<true>();
  plain.run<false>();
  EXPECT_EQ(fused.bits_of(*fused.mixed), plain.bits_of(*plain.mixed));
  EXPECT_EQ(fused.bits_of(*fused.y[4]), plain.bits_of(*plain.y[4]));
  EXPECT_EQ(fused.bits_of(*fused.x), plain.bits_of(*plain.x));
  // What later steps read: keys and values in the pages, seen by other queries.
  backend.attention(*fused.pool, *plain.y[0], fused.rows, *fused.mixed);
  backend.attention(*plain.pool, *plain.y[0], plain.rows, *plain.mixed);
  EXPECT_EQ(fused.bits_of(*fused.mixed), plain.bits_of(*plain.mixed));
}

TEST(LayerVerbs, AreTheirPlainVerbsInARow) {
  for (const int n_threads : {1, 3}) {
    ThreadPool pool(n_threads);
    for (std::size_t isa = 0; isa < isa_names.size(); ++isa) {
      auto backend = make_cpu_backend(pool, static_cast<Isa>(isa));
      if (!backend) continue;
      for (std::size_t i = 0; i < layer_sizes.size(); ++i) {
        for (const std::int64_t n_rows : {1, 2, 9, 70}) {
          SCOPED_TRACE(testing::Message() << (*backend)->name() << ", layer " << i << ", " << n_rows
                                          << " rows, " << n_threads << " threads");
          expect_same_layer(**backend, layer_sizes[i], n_rows);
        }
      }
    }
  }
}

TEST(LayerVerbs, AreTheSameWhereTokensAreShared) {
  ThreadPool pool(2);
  const auto backend = *make_cpu_backend(pool);
  for (const Layer::Sizes& sizes : layer_sizes) {
    for (const std::int64_t n_rows : {257, 530}) expect_same_layer(*backend, sizes, n_rows);
  }
}

/// The promise of the design: q with k and v, attention, o, gate with up, down.
TEST(LayerVerbs, ADecodeStepHasFiveBarriersALayer) {
  ThreadPool pool(2);
  const auto backend = *make_cpu_backend(pool);
  Layer layer(*backend,
              {.d_model = 256,
               .d_ff = 512,
               .schemes = {"q4_0", "q4_0", "q4_0", "q4_0", "q4_0", "q4_0", "q4_0"}},
              1);
  pool.count(true);
  layer.run<true>();
  pool.count(false);
  EXPECT_GE(pool.counters().n_shared, 4);  // one head's attention is no work for two threads
  EXPECT_LE(pool.counters().n_shared, 5);
}

}  // namespace
}  // namespace lowbit
