// SPDX-License-Identifier: Apache-2.0
// The verbs of every backend present against plain loops in double precision. (That kernels equal
// their scalar reference bit for bit is tested beside them.)
#include "lowbit/backend/backend.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "lowbit/backend/cpu_backend.h"
#include "lowbit/base/isa.h"

namespace lowbit {
namespace {

constexpr double eps = std::numeric_limits<float>::epsilon();

class BackendTest : public testing::Test {
 protected:
  /// The body once for every backend of this machine; isa_ is its instruction set meanwhile.
  void on_every_backend(const std::function<void(Backend&)>& body) {
    int n_backends = 0;
    for (std::size_t i = 0; i < isa_names.size(); ++i) {
      auto backend = make_cpu_backend(pool_, static_cast<Isa>(i));
      if (!backend) continue;
      SCOPED_TRACE((*backend)->name());
      isa_ = static_cast<Isa>(i);
      body(**backend);
      ++n_backends;
    }
    EXPECT_GT(n_backends, 0);
  }

  std::vector<float> random(std::int64_t n_numbers) {
    std::normal_distribution<float> distribution;
    std::vector<float> numbers(static_cast<std::size_t>(n_numbers));
    for (float& number : numbers) number = distribution(random_);
    return numbers;
  }

  std::unique_ptr<Tensor> tensor(Backend& backend, std::span<const float> numbers,
                                 std::int64_t n_cols) {
    auto made = backend.make_tensor(static_cast<std::int64_t>(numbers.size()) / n_cols, n_cols);
    backend.upload(numbers, *made);
    return made;
  }

  std::vector<float> numbers_of(Backend& backend, const Tensor& tensor) {
    std::vector<float> numbers(static_cast<std::size_t>(tensor.rows * tensor.cols));
    backend.download(tensor, numbers);
    return numbers;
  }

  ThreadPool pool_{2};
  Isa isa_ = Isa::scalar;
  std::mt19937_64 random_{42};
};

QuantizedTensor eighths(std::int64_t n_rows, std::int64_t n_cols, std::string_view scheme_name) {
  // int8 codes under scales of 1/8: products are exact, so sums are easy to bound.
  QuantizedTensor matrix(*parse_scheme(scheme_name), n_rows, n_cols);
  for (std::int64_t row = 0; row < n_rows; ++row) {
    for (std::int64_t i = 0; i < n_cols; ++i) {
      matrix.codes.set(row, i, static_cast<std::uint32_t>(row * 37 + i * 11) & 0x7fu);
    }
  }
  QuantizedTensor& scales = *matrix.scale;
  for (std::int64_t row = 0; row < scales.rows; ++row) {
    for (std::int64_t i = 0; i < scales.cols; ++i) {
      scales.codes.set(row, i, nearest_code(*scales.scheme.code, 0.125f));
    }
  }
  return matrix;
}

TEST_F(BackendTest, MatmulOfSeveralWeightsAndKinds) {
  constexpr std::int64_t n_in = 72, n_tokens = 5;
  const QuantizedTensor a = eighths(19, n_in, "int8.g32"), b = eighths(33, n_in, "int8.channel");
  const std::vector<float> x = random(n_tokens * n_in), bias = random(33);
  on_every_backend([&](Backend& backend) {
    const auto xs = tensor(backend, x, n_in), bias_row = tensor(backend, bias, 33);
    for (const Activations kind :
         {Activations::f32, Activations::int8_g32, Activations::int8_token}) {
      auto wa = backend.pack(a, Activations::f32), wb = backend.pack(b, kind);
      ASSERT_TRUE(wa) << wa.error().message();
      ASSERT_TRUE(wb) << wb.error().message();
      EXPECT_EQ((*wb)->rows, 33);
      EXPECT_EQ((*wb)->cols, n_in);
      EXPECT_EQ((*wb)->activations, kind);
      const auto ya = backend.make_tensor(n_tokens, 19), yb = backend.make_tensor(n_tokens, 33);
      backend.matmul(*xs, std::array{Product{wb->get(), bias_row.get(), yb.get()},
                                     Product{wa->get(), nullptr, ya.get()}});
      const auto expect_near = [&](const QuantizedTensor& w, const Tensor& y, const float* add,
                                   Activations activations) {
        const std::vector<float> weights = decode(w), found = numbers_of(backend, y);
        for (std::int64_t token = 0; token < n_tokens; ++token) {
          double largest = 0;
          for (std::int64_t k = 0; k < n_in; ++k) {
            largest =
                std::max(largest, std::abs(double{x[static_cast<std::size_t>(token * n_in + k)]}));
          }
          // An int8 activation is off by at most half a step of absmax / 127.
          const double step = activations == Activations::f32 ? 0 : largest / 127 / 2;
          // Pairs of bfloats round the weight and the activation to 8 bits.
          const bool in_bfloats = is_approximate(isa_) && activations == Activations::f32;
          const double rounding = in_bfloats ? 0x1p-7 + 0x1p-16 : 0;
          for (std::int64_t row = 0; row < w.rows; ++row) {
            double sum = add != nullptr ? double{add[row]} : 0, bound = 0;
            for (std::int64_t k = 0; k < n_in; ++k) {
              const double weight = weights[static_cast<std::size_t>(row * n_in + k)];
              const double number = x[static_cast<std::size_t>(token * n_in + k)];
              sum += weight * number;
              bound += std::abs(weight) * (step + std::abs(number) * (rounding + eps * n_in));
            }
            EXPECT_NEAR(found[static_cast<std::size_t>(token * w.rows + row)], sum, bound + eps);
          }
        }
      };
      expect_near(a, *ya, nullptr, Activations::f32);
      expect_near(b, *yb, bias.data(), kind);
    }
  });
}

/// The same rows without a basis, on x that was put into it by the reference, and of a table.
TEST_F(BackendTest, BasesAreAppliedToInputsAndToRowsOfTables) {
  constexpr std::int64_t n_in = 96, n_out = 19;
  const QuantizedTensor plain = eighths(n_out, n_in, "int8.g32");
  QuantizedTensor by_8 = plain.clone(), by_32 = plain.clone();
  by_8.input.hadamard = 8;
  by_32.input.hadamard = 32;
  const std::array<const QuantizedTensor*, 3> matrices{&by_8, &plain, &by_32};
  EXPECT_EQ(by_8.clone().input, by_8.input);
  for (const std::int64_t n_tokens : {1, 11}) {
    const std::vector<float> x = random(n_tokens * n_in);
    on_every_backend([&](Backend& backend) {
      for (const Activations kind : {Activations::f32, Activations::int8_token}) {
        std::vector<std::vector<float>> found;
        std::vector<std::unique_ptr<Weight>> weights;
        std::vector<std::unique_ptr<Tensor>> outputs;
        std::vector<Product> products;
        for (const QuantizedTensor* w : matrices) {
          weights.push_back(*backend.pack(*w, kind));
          EXPECT_EQ(weights.back()->input, w->input);
          outputs.push_back(backend.make_tensor(n_tokens, n_out));
          products.push_back({weights.back().get(), nullptr, outputs.back().get()});
        }
        backend.matmul(*tensor(backend, x, n_in), products);
        for (const QuantizedTensor* w : matrices) {
          std::vector<float> turned = x;
          apply_basis(w->input, turned);
          const auto y = backend.make_tensor(n_tokens, n_out);
          backend.matmul(*tensor(backend, turned, n_in),
                         std::array{Product{weights[1].get(), nullptr, y.get()}});
          EXPECT_EQ(numbers_of(backend, *y), numbers_of(backend, *outputs[found.size()]))
              << to_string(w->input);
          found.emplace_back();
        }
        const std::vector<std::int32_t> ids{3, 18, 3};
        const auto rows = backend.make_tensor(3, n_in);
        backend.embed(*weights[2], ids, *rows);
        std::vector<float> expected;
        const std::vector<float> stored = decode(by_32);
        for (const std::int32_t id : ids) {
          expected.insert(expected.end(), stored.begin() + id * n_in,
                          stored.begin() + (id + 1) * n_in);
        }
        apply_basis(by_32.input, expected);
        EXPECT_EQ(numbers_of(backend, *rows), expected);
      }
    });
  }
}

TEST_F(BackendTest, AnotherTeamTakesOver) {
  on_every_backend([&](Backend& backend) {
    const auto weight = backend.pack(eighths(256, 64, "int8.channel"), Activations::f32);
    const auto x = tensor(backend, random(16 * 64), 64), y = backend.make_tensor(16, 256);
    const auto loops_of = [](const ThreadPool& pool) {
      return pool.counters().n_shared + pool.counters().n_alone;
    };
    ThreadPool other(pool_.n_threads());
    backend.count(true);
    backend.set_team(other);
    const std::int64_t n_before = loops_of(pool_);
    backend.matmul(*x, std::array{Product{weight->get(), nullptr, y.get()}});
    EXPECT_GT(loops_of(other), 0);
    EXPECT_EQ(loops_of(pool_), n_before);
    backend.set_team(pool_);
    backend.count(false);
  });
}

TEST_F(BackendTest, EmbedAndGatherCopyRows) {
  const QuantizedTensor table = eighths(50, 40, "q8_0");
  const std::vector<float> rows = decode(table);
  on_every_backend([&](Backend& backend) {
    auto weight = backend.pack(table, std::nullopt);
    ASSERT_TRUE(weight) << weight.error().message();
    const std::vector<std::int32_t> ids{49, 0, 7, 7, 31, 2, 3, 4, 5, 6, 8, 9};
    const auto y = backend.make_tensor(static_cast<std::int64_t>(ids.size()), 40);
    backend.embed(**weight, ids, *y);
    const std::vector<std::int32_t> picked{3, 0, 11};
    const auto z = backend.make_tensor(3, 40);
    backend.gather(*y, picked, *z);
    const std::vector<float> found = numbers_of(backend, *y), gathered = numbers_of(backend, *z);
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i], rows[static_cast<std::size_t>(ids[i / 40]) * 40 + i % 40]) << i;
    }
    for (std::size_t i = 0; i < gathered.size(); ++i) {
      EXPECT_EQ(gathered[i], found[static_cast<std::size_t>(picked[i / 40]) * 40 + i % 40]) << i;
    }
  });
}

TEST_F(BackendTest, NormOfRowsAndOfHeads) {
  constexpr std::int64_t n_rows = 11, n_cols = 60, head = 20;
  constexpr float epsilon = 1e-3f;
  const std::vector<float> x = random(n_rows * n_cols), w = random(n_cols);
  on_every_backend([&](Backend& backend) {
    for (const std::int64_t width : {n_cols, head}) {
      const auto xs = tensor(backend, x, n_cols);
      const auto ws = tensor(backend, std::span(w).first(static_cast<std::size_t>(width)), width);
      backend.rms_norm(*xs, *ws, epsilon, *xs);
      const std::vector<float> found = numbers_of(backend, *xs);
      for (std::int64_t first = 0; first < n_rows * n_cols; first += width) {
        double squares = 0;
        for (std::int64_t i = first; i < first + width; ++i) {
          squares += double{x[static_cast<std::size_t>(i)]} * x[static_cast<std::size_t>(i)];
        }
        const double norm = 1 / std::sqrt(squares / double(width) + double{epsilon});
        for (std::int64_t i = first; i < first + width; ++i) {
          const double wanted =
              x[static_cast<std::size_t>(i)] * norm * w[static_cast<std::size_t>(i - first)];
          // Lanes of width / 16 sums, a tree, a square root, a division and two products.
          EXPECT_NEAR(found[static_cast<std::size_t>(i)], wanted, std::abs(wanted) * 20 * eps);
        }
      }
    }
  });
}

TEST_F(BackendTest, RopeRotatesPairsOfHalves) {
  constexpr std::int64_t n_rows = 3, head_dim = 12, n_cols = 2 * head_dim, half = head_dim / 2;
  const std::vector<float> x = random(n_rows * n_cols);
  std::vector<float> cos, sin;
  for (int i = 0; i < n_rows * half; ++i) {
    cos.push_back(static_cast<float>(std::cos(0.3 * i)));
    sin.push_back(static_cast<float>(std::sin(0.3 * i)));
  }
  on_every_backend([&](Backend& backend) {
    const auto xs = tensor(backend, x, n_cols);
    const auto c = tensor(backend, cos, half), s = tensor(backend, sin, half);
    backend.rope(*xs, head_dim, *c, *s);
    const std::vector<float> found = numbers_of(backend, *xs);
    for (std::int64_t row = 0; row < n_rows; ++row) {
      for (std::int64_t head = 0; head < 2; ++head) {
        for (std::int64_t j = 0; j < half; ++j) {
          const auto at = static_cast<std::size_t>(row * n_cols + head * head_dim + j);
          const auto angle = static_cast<std::size_t>(row * half + j);
          const double a = x[at], b = x[at + half];
          const double bound = 2 * eps * (std::abs(a) + std::abs(b));
          EXPECT_NEAR(found[at], a * cos[angle] - b * sin[angle], bound);
          EXPECT_NEAR(found[at + half], b * cos[angle] + a * sin[angle], bound);
        }
      }
    }
  });
}

TEST_F(BackendTest, GatedActivationAndAdd) {
  constexpr std::int64_t n_rows = 10, n_cols = 37;
  const std::vector<float> a = random(n_rows * n_cols), b = random(n_rows * n_cols);
  on_every_backend([&](Backend& backend) {
    const auto gate = tensor(backend, a, n_cols), sum = tensor(backend, a, n_cols),
               other = tensor(backend, b, n_cols);
    backend.silu_mul(*gate, *other);
    backend.add(*sum, *other);
    const std::vector<float> gated = numbers_of(backend, *gate), added = numbers_of(backend, *sum);
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double wanted = a[i] / (1 + std::exp(-double{a[i]})) * b[i];
      EXPECT_NEAR(gated[i], wanted, std::abs(wanted) * 8 * eps);
      EXPECT_EQ(added[i], a[i] + b[i]);
    }
  });
}

/// Two sequences with scattered pages, grouped heads, several blocks, stored in two steps.
TEST_F(BackendTest, AttentionOverPages) {
  constexpr std::int64_t n_heads = 6, n_kv_heads = 2, head_dim = 20, n_pages = 7;
  constexpr std::int64_t n_first = 130, n_second = 9;
  const std::vector<std::int32_t> pages_first{5, 0, 3}, pages_second{6};
  constexpr std::int64_t n_rows = n_first + n_second;
  const std::vector<float> q = random(n_rows * n_heads * head_dim),
                           k = random(n_rows * n_kv_heads * head_dim),
                           v = random(n_rows * n_kv_heads * head_dim);
  const auto number = [](const std::vector<float>& from, std::int64_t row, std::int64_t n_of_heads,
                         std::int64_t head, std::int64_t i) {
    return double{from[static_cast<std::size_t>((row * n_of_heads + head) * head_dim + i)]};
  };
  on_every_backend([&](Backend& backend) {
    auto pool = backend.make_kv_pool(KvKind::f32, n_kv_heads, head_dim, n_pages);
    ASSERT_TRUE(pool) << pool.error().message();
    EXPECT_EQ((*pool)->n_pages, n_pages);
    backend.kv_zero(**pool, std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6});
    const auto qs = tensor(backend, q, n_heads * head_dim),
               ks = tensor(backend, k, n_kv_heads * head_dim),
               vs = tensor(backend, v, n_kv_heads * head_dim);
    const auto y = backend.make_tensor(n_rows, n_heads * head_dim);
    const std::vector<SequenceRows> rows{{0, n_first, 0, pages_first},
                                         {n_first, n_second, 0, pages_second}};
    backend.kv_store(**pool, *ks, *vs, rows);
    backend.attention(**pool, *qs, rows, *y);
    const std::vector<float> found = numbers_of(backend, *y);
    for (std::int64_t row = 0; row < n_rows; ++row) {
      const std::int64_t first = row < n_first ? 0 : n_first;
      for (std::int64_t head = 0; head < n_heads; ++head) {
        const std::int64_t kv_head = head / (n_heads / n_kv_heads);
        std::vector<double> p;
        double sum = 0;
        for (std::int64_t key = first; key <= row; ++key) {
          double score = 0;
          for (std::int64_t i = 0; i < head_dim; ++i) {
            score += number(q, row, n_heads, head, i) * number(k, key, n_kv_heads, kv_head, i);
          }
          p.push_back(std::exp(score / std::sqrt(double(head_dim))));
          sum += p.back();
        }
        for (std::int64_t i = 0; i < head_dim; ++i) {
          double wanted = 0, magnitude = 0;
          for (std::int64_t key = first; key <= row; ++key) {
            const double term = p[static_cast<std::size_t>(key - first)] / sum *
                                number(v, key, n_kv_heads, kv_head, i);
            wanted += term;
            magnitude += std::abs(term);
          }
          // Scores |s| < 10 carry head_dim + 2 roundings, which exp turns into relative errors;
          // sums of up to 64 terms and the folding of three blocks follow.
          const double bound = magnitude * eps * (10 * (head_dim + 2) + 64 + 20);
          EXPECT_NEAR(number(found, row, n_heads, head, i), wanted, bound)
              << "row " << row << " head " << head;
        }
      }
    }
  });
}

TEST_F(BackendTest, ZeroedPagesForgetNaN) {
  constexpr std::int64_t head_dim = 20;
  const std::vector<float> nan(kv_block_positions * head_dim,
                               std::numeric_limits<float>::quiet_NaN());
  const std::vector<float> one = random(head_dim);
  on_every_backend([&](Backend& backend) {
    for (const KvKind kind : all_kv_kinds) {
      auto pool = backend.make_kv_pool(kind, 1, head_dim, 2);
      ASSERT_TRUE(pool);
      const std::vector<std::int32_t> pages{1};
      const auto bad = tensor(backend, nan, head_dim);
      backend.kv_store(**pool, *bad, *bad,
                       std::vector<SequenceRows>{{0, kv_block_positions, 0, pages}});
      backend.kv_zero(**pool, pages);
      // Every position of the page is visible: 63 zero keys and one real one.
      const auto good = tensor(backend, one, head_dim);
      const std::vector<SequenceRows> last{{0, 1, kv_block_positions - 1, pages}};
      backend.kv_store(**pool, *good, *good, last);
      const auto y = backend.make_tensor(1, head_dim);
      backend.attention(**pool, *good, last, *y);
      for (const float value : numbers_of(backend, *y)) EXPECT_TRUE(std::isfinite(value));
    }
  });
}

TEST_F(BackendTest, AbsentInstructionSetsAreErrors) {
#if defined(__x86_64__)
  auto backend = make_cpu_backend(pool_, Isa::neon_dotprod);
  ASSERT_FALSE(backend);
  EXPECT_NE(backend.error().message().find("neon_dotprod"), std::string::npos);
#endif
  auto scalar = make_cpu_backend(pool_, Isa::scalar);
  ASSERT_TRUE(scalar);
  EXPECT_EQ((*scalar)->name(), "scalar");
  EXPECT_FALSE((*scalar)->make_kv_pool(KvKind::f32, 1 << 20, 1 << 20, std::int64_t{1} << 40));
}

}  // namespace
}  // namespace lowbit
