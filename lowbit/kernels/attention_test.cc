// SPDX-License-Identifier: Apache-2.0
// The reference is checked against double arithmetic by a derived bound, every instruction set
// against the reference by bits.
#include "lowbit/kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "lowbit/formats/codes.h"
#include "lowbit/kernels/kernel_table.h"

namespace lowbit {
namespace {

constexpr float unwritten = 12345.0f;
constexpr unsigned seed = 20240607;

struct Kernels {
  std::string name;
  const AttentionKernels* kernels;
};

std::vector<Kernels> kernels_under_test() {
  std::vector<Kernels> list{{"reference", &reference_attention_kernels}};
  for (const KernelTable* table : available_kernels()) {
    list.push_back({std::string(name_of(table->isa)), &table->attention});
  }
  return list;
}

/// Keys and values of one head, as given and as stored in blocks.
class Cache {
 public:
  Cache(const AttentionKernels& kernels, KvLayout layout, std::int64_t n_positions, unsigned s)
      : layout_(layout), n_positions_(n_positions) {
    std::mt19937 random(s);
    std::normal_distribution<float> normal;
    const auto n = static_cast<std::size_t>(n_positions * layout.head_dim);
    for (std::vector<float>* numbers : {&k_, &v_}) {
      numbers->resize(n);
      for (float& x : *numbers) x = normal(random);
    }
    if (n_positions > 2) {
      std::fill_n(k_.begin() + layout.head_dim, layout.head_dim, 0.0f);  // a zero vector
      v_[static_cast<std::size_t>(2 * layout.head_dim)] = 300.0f;        // an outlier
    }
    const std::int64_t n_blocks = (n_positions + kv_block_positions - 1) / kv_block_positions;
    bytes_.resize(static_cast<std::size_t>(n_blocks * layout.block_bytes() + alignment));
    const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data());
    first_ = bytes_.data() + (alignment - address % alignment) % alignment;
    for (std::int64_t b = 0; b < n_blocks; ++b)
      blocks_.push_back(first_ + b * layout.block_bytes());
    for (std::int64_t i = 0; i < n_positions; ++i) {
      kernels.kv_store(layout, first_ + i / kv_block_positions * layout.block_bytes(),
                       static_cast<int>(i % kv_block_positions), k(i), v(i));
    }
  }

  const float* k(std::int64_t position) const { return k_.data() + position * layout_.head_dim; }
  const float* v(std::int64_t position) const { return v_.data() + position * layout_.head_dim; }
  const std::byte* const* blocks() const { return blocks_.data(); }
  std::span<const std::byte> bytes() const {
    return {first_, blocks_.size() * static_cast<std::size_t>(layout_.block_bytes())};
  }
  /// Other numbers at a position.
  void store(const AttentionKernels& kernels, std::int64_t position, const std::vector<float>& k,
             const std::vector<float>& v) {
    kernels.kv_store(layout_, first_ + position / kv_block_positions * layout_.block_bytes(),
                     static_cast<int>(position % kv_block_positions), k.data(), v.data());
  }
  /// Fills whole blocks that a task must not touch.
  void poison(std::int64_t block) {
    std::memset(first_ + block * layout_.block_bytes(), 0xff,
                static_cast<std::size_t>(layout_.block_bytes()));
  }

 private:
  static constexpr std::size_t alignment = 64;
  KvLayout layout_;
  std::int64_t n_positions_;
  std::vector<float> k_, v_;
  std::vector<std::byte> bytes_;
  std::byte* first_ = nullptr;
  std::vector<const std::byte*> blocks_;
};

struct Case {
  KvKind kind;
  std::int64_t head_dim;
};

std::string name_of_case(const ::testing::TestParamInfo<Case>& info) {
  std::string name(name_of(info.param.kind));
  std::replace(name.begin(), name.end(), '.', '_');
  return name + "_" + std::to_string(info.param.head_dim);
}

class AttentionTest : public ::testing::TestWithParam<Case> {
 protected:
  KvLayout layout() const { return {GetParam().kind, GetParam().head_dim}; }

  /// n queries; every third one is large, so that softmax is peaked.
  std::vector<float> queries(std::int64_t n) const {
    std::mt19937 random(seed + 1);
    std::normal_distribution<float> normal;
    std::vector<float> q(static_cast<std::size_t>(n * layout().head_dim));
    for (std::size_t i = 0; i < q.size(); ++i) {
      const auto query = static_cast<std::int64_t>(i) / layout().head_dim;
      q[i] = normal(random) * (query % 3 == 2 ? 8.0f : 1.0f);
    }
    return q;
  }

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(layout().head_dim)); }
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const KvKind kind : all_kv_kinds) {
    for (const std::int64_t head_dim : {1, 8, 20, 64, 80, 130}) {
      cases.push_back({kind, head_dim});
    }
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Kinds, AttentionTest, ::testing::ValuesIn(all_cases()), name_of_case);

/// Attention in double from the numbers as given, and how far f32 arithmetic on stored keys and
/// values may be from it.
struct Truth {
  std::vector<double> out, bound;
};

/// Units of the codes of a kind: absmax of a group / its divisor (attention.h).
double divisor_of(KvKind kind) {
  switch (kind) {
    case KvKind::int4_g64:
      return 7.5;
    case KvKind::e4m3_token:
      return 448;
    default:
      return 127;
  }
}
bool is_integer(KvKind kind) {
  return kind == KvKind::int8_token || kind == KvKind::int4_g64;
}

/// How far number i of a stored vector may be from the given one, and the unit of its group (f16
/// rounds it by 2^-11, which can push the largest number that far beyond the last code).
struct Stored {
  double error, unit;
};
std::vector<Stored> stored(const KvLayout& layout, const float* x) {
  constexpr double f16_rounding = 0x1p-11, e4m3_rounding = 0x1p-4, e4m3_least = 0x1p-9;
  std::vector<Stored> list;
  for (std::int64_t i = 0; i < layout.head_dim; ++i) {
    if (layout.n_groups() == 0) {
      list.push_back({layout.kind == KvKind::f16 ? f16_rounding * std::abs(x[i]) : 0.0, 0.0});
      continue;
    }
    const std::int64_t first = i / layout.group_dim() * layout.group_dim();
    const std::int64_t last = std::min(first + layout.group_dim(), layout.head_dim);
    double largest = 0;
    for (std::int64_t j = first; j < last; ++j) largest = std::max(largest, std::abs(double{x[j]}));
    const double unit = largest / divisor_of(layout.kind) * (1 + f16_rounding);
    const double half = is_integer(layout.kind)
                            ? unit / 2 + largest * f16_rounding
                            : e4m3_rounding * std::abs(x[i]) + unit * e4m3_least / 2;
    list.push_back({half, unit});
  }
  return list;
}

/// With eps = 2^-24, storing k costs h_k per number, the query's int8 (integer K) h_t:
///   d(s) <= sum |t| h_k + h_t sum (|k| + h_k) + (head_dim + 3) eps sum |t k|
/// A weight w = p / l is off by the factor 1 +- e,
///   e = 2 max d(s) + 2 exp_bound' (64 eps with the fold's exps) + eps max |s - m|
/// and o by the rounding of 64 fmas in a block, 3 operations in each fold and one division. With
/// integer V, the weight of a code is off by half a unit: 1/255 of the largest weight of a code in
/// the block. 1.5 covers the products of errors.
Truth truth_of(const KvLayout& layout, const Cache& cache, const float* q, float scale,
               std::int64_t first, std::int64_t last) {
  constexpr double eps = 0x1p-24, weight_levels = 255;
  const auto n = static_cast<std::size_t>(layout.head_dim);
  double largest_t = 0;
  for (std::size_t i = 0; i < n; ++i) {
    largest_t = std::max(largest_t, std::abs(static_cast<double>(q[i]) * double{scale}));
  }
  const double h_t = is_integer(layout.kind) ? largest_t / 127 / 2 * 1.001 : 0.0;
  std::vector<double> s;
  double worst_s = 0, m = -std::numeric_limits<double>::infinity(), lowest = -m;
  for (std::int64_t j = first; j < last; ++j) {
    const float* k = cache.k(j);
    const std::vector<Stored> k_stored = stored(layout, k);
    double sum = 0, error = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const double t = static_cast<double>(q[i]) * double{scale}, h_k = k_stored[i].error;
      sum += t * k[i];
      error += std::abs(t) * h_k + h_t * (std::abs(k[i]) + h_k) +
               static_cast<double>(layout.head_dim + 3) * eps * std::abs(t * k[i]);
    }
    s.push_back(sum);
    worst_s = std::max(worst_s, error);
    m = std::max(m, sum);
    lowest = std::min(lowest, sum);
  }
  Truth truth{std::vector<double>(n, 0.0), std::vector<double>(n, 0.0)};
  const auto n_blocks = static_cast<double>((last - first) / kv_block_positions + 2);
  const double weight_error = std::expm1(2 * worst_s) + 64 * eps + eps * (m - lowest + worst_s);
  const double sum_error = (64 + 3 * n_blocks + 1) * eps;
  double l = 0;
  for (const double x : s) l += std::exp(x - m);
  const auto weight = [&](std::int64_t j) {
    return std::exp(s[static_cast<std::size_t>(j - first)] - m) / l;
  };
  for (std::int64_t j = first; j < last; ++j) {
    const float* v = cache.v(j);
    const std::vector<Stored> v_stored = stored(layout, v);
    for (std::size_t i = 0; i < n; ++i) {
      const double w = weight(j), h_v = v_stored[i].error;
      truth.out[i] += w * v[i];
      truth.bound[i] += 1.5 * w * (h_v + (std::abs(v[i]) + h_v) * (weight_error + sum_error));
    }
  }
  if (!is_integer(layout.kind)) return truth;
  for (std::int64_t b = first; b < last; b = (b / kv_block_positions + 1) * kv_block_positions) {
    const std::int64_t end = std::min(last, (b / kv_block_positions + 1) * kv_block_positions);
    std::vector<double> largest(n, 0.0), codes(n, 0.0);
    for (std::int64_t j = b; j < end; ++j) {
      const std::vector<Stored> v_stored = stored(layout, cache.v(j));
      for (std::size_t i = 0; i < n; ++i) {
        largest[i] = std::max(largest[i], weight(j) * v_stored[i].unit);
        if (v_stored[i].unit > 0) codes[i] += std::abs(cache.v(j)[i]) / v_stored[i].unit + 0.5;
      }
    }
    for (std::size_t i = 0; i < n; ++i) {
      truth.bound[i] += 1.5 * (1 + weight_error) * largest[i] / weight_levels / 2 * codes[i];
    }
  }
  return truth;
}

TEST_P(AttentionTest, ReferenceIsNearTheTruth) {
  const KvLayout kv = layout();
  constexpr std::int64_t n_positions = 200, n_queries = 3;
  const Cache cache(reference_attention_kernels, kv, n_positions, seed);
  const std::vector<float> q = queries(n_queries);
  std::vector<float> out(static_cast<std::size_t>(kv.head_dim));
  for (const std::int64_t n_visible : {1, 63, 64, 65, 200}) {
    for (std::int64_t i = 0; i < n_queries; ++i) {
      const float* query = q.data() + i * kv.head_dim;
      const AttentionTask task{query, out.data(), cache.blocks(), n_visible, 0, scale()};
      reference_attention_kernels.attend(kv, &task, 1, nullptr);
      const Truth truth = truth_of(kv, cache, query, scale(), 0, n_visible);
      for (std::size_t d = 0; d < out.size(); ++d) {
        ASSERT_NEAR(out[d], truth.out[d], truth.bound[d])
            << "query " << i << ", number " << d << ", " << n_visible << " keys, seed " << seed;
      }
    }
  }
}

TEST_P(AttentionTest, EveryInstructionSetStoresTheSameBytes) {
  for (const Kernels& tested : kernels_under_test()) {
    const Cache expected(reference_attention_kernels, layout(), 130, seed);
    const Cache found(*tested.kernels, layout(), 130, seed);
    EXPECT_TRUE(std::ranges::equal(expected.bytes(), found.bytes())) << tested.name;
  }
}

/// Prefill: several heads of one group at consecutive tokens, through the driver.
TEST_P(AttentionTest, EveryInstructionSetAndTeamGivesTheReferenceBits) {
  const KvLayout kv = layout();
  constexpr std::int64_t n_positions = 200, n_heads = 3;
  const Cache cache(reference_attention_kernels, kv, n_positions, seed);
  const Cache other(reference_attention_kernels, kv, n_positions, seed + 7);
  const std::vector<std::int64_t> visible{1, 17, 63, 64, 65, 127, 128, 200};
  const auto n_queries = static_cast<std::int64_t>(visible.size()) * n_heads;
  // One float off, so that nothing is aligned.
  std::vector<float> q = queries(n_queries);
  q.insert(q.begin(), unwritten);
  std::vector<float> out(q.size() + 1, unwritten), expected(out);
  const auto tasks_into = [&](std::vector<float>& to, const Cache& from) {
    std::vector<AttentionTask> tasks;
    for (std::int64_t i = 0; i < n_queries; ++i) {
      const std::int64_t at = 1 + i * kv.head_dim;
      const std::int64_t n_visible = visible[static_cast<std::size_t>(i / n_heads)];
      tasks.push_back({q.data() + at, to.data() + at, from.blocks(), n_visible,
                       i % n_heads == 2 ? n_visible / 2 : 0, scale()});
    }
    return tasks;
  };
  const std::vector<AttentionTask> expected_tasks = tasks_into(expected, cache);
  for (const AttentionTask& task : expected_tasks) {
    reference_attention_kernels.attend(kv, &task, 1, nullptr);
  }
  EXPECT_EQ(expected.front(), unwritten);
  EXPECT_EQ(expected.back(), unwritten);
  for (const Kernels& tested : kernels_under_test()) {
    for (const int n_threads : {1, 3}) {
      ThreadPool pool(n_threads);
      AttentionWorkspace workspace;
      std::vector<float> other_out(out.size());
      std::fill(out.begin(), out.end(), unwritten);
      std::vector<AttentionTask> tasks = tasks_into(out, cache);
      const std::vector<AttentionTask> neighbours = tasks_into(other_out, other);
      tasks.insert(tasks.begin() + n_queries / 2, neighbours.begin(), neighbours.end());
      attention(pool, *tested.kernels, kv, tasks, workspace);
      for (std::size_t i = 0; i < out.size(); ++i) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(out[i]), std::bit_cast<std::uint32_t>(expected[i]))
            << tested.name << ", " << n_threads << " threads, number " << i << ": " << out[i]
            << " for " << expected[i] << ", seed " << seed;
      }
    }
  }
}

TEST_P(AttentionTest, DecodeOneByOneGivesThePrefillBits) {
  const KvLayout kv = layout();
  constexpr std::int64_t first_query = 60, n_positions = 130, n_queries = n_positions - first_query;
  const std::vector<float> q = queries(n_queries);
  for (const Kernels& tested : kernels_under_test()) {
    const Cache cache(*tested.kernels, kv, n_positions, seed);
    ThreadPool pool(2);
    AttentionWorkspace workspace;
    std::vector<float> prefill(q.size()), decode(q.size());
    std::vector<AttentionTask> tasks;
    for (std::int64_t i = 0; i < n_queries; ++i) {
      const std::int64_t at = i * kv.head_dim, n_visible = first_query + i + 1;
      tasks.push_back({q.data() + at, prefill.data() + at, cache.blocks(), n_visible, 0, scale()});
    }
    attention(pool, *tested.kernels, kv, tasks, workspace);
    for (const std::int64_t i : {0L, 2L, 3L, 4L, 5L, 66L, 67L, 68L, 69L}) {
      AttentionTask one = tasks[static_cast<std::size_t>(i)];
      one.out = decode.data() + i * kv.head_dim;
      attention(pool, *tested.kernels, kv, {&one, 1}, workspace);
      const auto n_bytes = static_cast<std::size_t>(kv.head_dim) * sizeof(float);
      EXPECT_EQ(std::memcmp(prefill.data() + i * kv.head_dim, one.out, n_bytes), 0)
          << tested.name << ", position " << first_query + i;
    }
  }
}

TEST_P(AttentionTest, BlocksOutsideTheWindowAreNotTouched) {
  const KvLayout kv = layout();
  const std::vector<float> q = queries(1);
  for (const Kernels& tested : kernels_under_test()) {
    Cache cache(*tested.kernels, kv, 320, seed);
    ThreadPool pool(1);
    AttentionWorkspace workspace;
    std::vector<float> expected(q.size()), found(q.size());
    AttentionTask task{q.data(), expected.data(), cache.blocks(), 190, 70, scale()};
    attention(pool, *tested.kernels, kv, {&task, 1}, workspace);
    cache.poison(0);  // NaN in every format
    cache.poison(3);
    cache.poison(4);
    task.out = found.data();
    attention(pool, *tested.kernels, kv, {&task, 1}, workspace);
    EXPECT_EQ(std::memcmp(expected.data(), found.data(), q.size() * sizeof(float)), 0)
        << tested.name;
    task.n_visible = task.first_visible;
    attention(pool, *tested.kernels, kv, {&task, 1}, workspace);
    EXPECT_EQ(std::count(found.begin(), found.end(), 0.0f), kv.head_dim) << tested.name;
  }
}

/// Every instruction set passes over NaN the same way, in keys, values and at positions that a task
/// does not see.
TEST_P(AttentionTest, NumbersThatAreNoneGiveTheReferenceBits) {
  const KvLayout kv = layout();
  constexpr std::int64_t n_positions = 80, n_visible = 70;
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  const auto n = static_cast<std::size_t>(kv.head_dim);
  const std::vector<float> q = queries(1);
  const auto bytes_and_out = [&](const AttentionKernels& kernels, std::vector<float>& out) {
    Cache cache(kernels, kv, n_positions, seed);
    std::vector<float> k(cache.k(5), cache.k(5) + n), v(cache.v(5), cache.v(5) + n);
    cache.store(kernels, n_visible, std::vector<float>(n, nan), std::vector<float>(n, nan));
    if (kv.n_groups() != 0) {  // f32 and f16 keep a NaN
      k[n / 2] = nan;
      v[n - 1] = nan;
      cache.store(kernels, 5, k, v);
    }
    k.assign(n, 1e30f);
    v.assign(n, -0.0f);
    cache.store(kernels, n_visible + 1, k, v);
    const AttentionTask task{q.data(), out.data(), cache.blocks(), n_visible, 0, scale()};
    ThreadPool pool(1);
    AttentionWorkspace workspace;
    attention(pool, kernels, kv, {&task, 1}, workspace);
    return std::vector<std::byte>(cache.bytes().begin(), cache.bytes().end());
  };
  std::vector<float> expected(n), found(n);
  const std::vector<std::byte> bytes = bytes_and_out(reference_attention_kernels, expected);
  for (const float x : expected) EXPECT_TRUE(std::isfinite(x));
  for (const Kernels& tested : kernels_under_test()) {
    EXPECT_EQ(bytes, bytes_and_out(*tested.kernels, found)) << tested.name;
    EXPECT_EQ(std::memcmp(expected.data(), found.data(), n * sizeof(float)), 0) << tested.name;
  }
}

/// Stored as whole codes: numbers times 448 / absmax = 1 survive, whatever they are.
TEST(KvBlock, E4m3CodesAreThoseOfTheFormat) {
  const Code& e4m3 = *codes::find("e4m3");
  std::vector<float> numbers{448.0f,   -0.0f,     0.0f,      464.0f,
                             0x1p-10f, -0x1p-10f, 0x1.8p-9f, 0x1.fp-7f};
  for (const float value : e4m3.values) {
    if (!std::isfinite(value)) continue;
    for (const float other : e4m3.values) {  // the middle of neighbours is a tie
      const float middle = (value + other) / 2;
      if (std::isfinite(other) && std::abs(value - other) <= std::abs(value) / 4 + 0x1p-9f) {
        for (const float x : {middle, std::nextafter(middle, 1e9f), std::nextafter(middle, -1e9f)})
          numbers.push_back(x);
      }
    }
  }
  constexpr std::int64_t head_dim = 32;
  const KvLayout kv{KvKind::e4m3_token, head_dim};
  for (const Kernels& tested : kernels_under_test()) {
    for (std::size_t at = 0; at < numbers.size(); at += head_dim - 1) {
      std::vector<float> x(head_dim, 0.0f);
      x[0] = 448.0f;  // the scale is 1
      const std::size_t n = std::min<std::size_t>(head_dim - 1, numbers.size() - at);
      for (std::size_t i = 0; i < n; ++i) x[i + 1] = std::clamp(numbers[at + i], -448.0f, 448.0f);
      std::vector<std::byte> block(static_cast<std::size_t>(kv.block_bytes()));
      tested.kernels->kv_store(kv, block.data(), 3, x.data(), x.data());
      for (std::size_t i = 0; i < x.size(); ++i) {
        const auto v_code =
            block[static_cast<std::size_t>(kv.v_offset() + 3 * kv.padded_dim()) + i];
        ASSERT_EQ(std::to_integer<std::uint32_t>(v_code), nearest_code(e4m3, x[i]))
            << tested.name << ", " << x[i];
        ASSERT_EQ(block[i * kv_block_positions + 3], v_code) << tested.name << ", " << x[i];
      }
    }
  }
}

TEST(KvBlock, KindsHaveNames) {
  for (const KvKind kind : all_kv_kinds) {
    EXPECT_EQ(kv_kind_named(name_of(kind)), kind);
  }
  EXPECT_EQ(kv_kind_named("int4"), std::nullopt);
}

TEST(KvBlock, BytesPerNumber) {
  constexpr std::int64_t head_dim = 64, n_numbers = 2 * head_dim * kv_block_positions;
  EXPECT_EQ((KvLayout{KvKind::f32, head_dim}.block_bytes()), n_numbers * 4);
  EXPECT_EQ((KvLayout{KvKind::f16, head_dim}.block_bytes()), n_numbers * 2);
  EXPECT_EQ((KvLayout{KvKind::int4_g64, 2 * head_dim}.block_bytes()),
            n_numbers + 2 * 2 * 2 * kv_block_positions);
  EXPECT_EQ((KvLayout{KvKind::e4m3_token, head_dim}.block_bytes()),
            n_numbers + 2 * 2 * kv_block_positions);
  // Two f16 scales for each position.
  EXPECT_EQ((KvLayout{KvKind::int8_token, head_dim}.block_bytes()),
            n_numbers + 2 * 2 * kv_block_positions);
}

}  // namespace
}  // namespace lowbit
