// SPDX-License-Identifier: Apache-2.0
// The reference against double arithmetic by derived bounds; every instruction set against the
// reference by bits, over odd lengths, unaligned rows and untouched neighbours.
#include "lowbit/kernels/vector_ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "lowbit/base/half.h"
#include "lowbit/base/math.h"
#include "lowbit/kernels/kernel_table.h"

namespace lowbit {
namespace {

constexpr unsigned seed = 4711;
constexpr float canary = 54321.0f;
constexpr double eps = 0x1p-24;
constexpr float epsilon = 1e-5f;

std::vector<float> numbers(std::int64_t n, unsigned s) {
  std::mt19937 random(s);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& a : x) a = normal(random);
  for (std::size_t i = 0; i < x.size(); i += 11) x[i] = 0.0f;
  for (std::size_t i = 5; i < x.size(); i += 17) x[i] = -0.0f;
  for (std::size_t i = 3; i < x.size(); i += 29) x[i] *= 40.0f;  // exp over- and underflows
  for (std::size_t i = 7; i < x.size(); i += 31) x[i] = 0x1p-140f;
  return x;
}

struct Operation {
  std::string name;
  /// x, y: (2 n) inputs; out: (2 n), at first a copy of x.
  std::function<void(const VectorKernels&, const float* x, const float* y, std::int64_t n,
                     float* out)>
      run;
};

const std::vector<Operation>& operations() {
  using K = const VectorKernels&;
  using In = const float*;
  using N = std::int64_t;
  static const std::vector<Operation> list{
      {"rms_norm", [](K k, In x, In y, N n, float* out) { k.rms_norm(x, y, epsilon, n, out); }},
      {"rms_norm in place",
       [](K k, In, In y, N n, float* out) { k.rms_norm(out, y, epsilon, n, out); }},
      {"add", [](K k, In x, In y, N n, float* out) { k.add(x, y, n, out); }},
      {"add in place", [](K k, In, In y, N n, float* out) { k.add(out, y, n, out); }},
      {"scale", [](K k, In x, In, N n, float* out) { k.scale(x, 0.3f, n, out); }},
      {"silu_mul", [](K k, In x, In y, N n, float* out) { k.silu_mul(x, y, n, out); }},
      {"rope_rotate", [](K k, In, In y, N n, float* out) { k.rope_rotate(out, y, y + n, n); }},
      {"max", [](K k, In x, In, N n, float* out) { *out = k.max(x, n); }},
      {"softmax", [](K k, In x, In, N n, float* out) { k.softmax(x, n, out); }},
      {"weigh",
       [](K k, In x, In, N n, float* out) {
         out[n] = k.weigh(x, reference_vector_kernels.max(x, n), 0.7f, n, out);
       }},
      {"hadamard 1", [](K k, In x, In, N n, float* out) { k.hadamard(x, 1, n, out); }},
      {"hadamard 2", [](K k, In x, In, N n, float* out) { k.hadamard(x, 2, n / 2 * 2, out); }},
      {"hadamard 8", [](K k, In x, In, N n, float* out) { k.hadamard(x, 8, n / 8 * 8, out); }},
      {"hadamard 16 in place",
       [](K k, In, In, N n, float* out) { k.hadamard(out, 16, n / 16 * 16, out); }},
      {"hadamard 32", [](K k, In x, In, N n, float* out) { k.hadamard(x, 32, n / 32 * 32, out); }},
      {"hadamard 64 in place",
       [](K k, In, In, N n, float* out) { k.hadamard(out, 64, n / 64 * 64, out); }},
      {"to_half",
       [](K k, In x, In, N n, float* out) {
         std::vector<std::uint16_t> halves(static_cast<std::size_t>(n) + 1, 0x1234);
         k.to_half(x, n, halves.data());
         EXPECT_EQ(halves.back(), 0x1234);
         for (std::size_t i = 0; i + 1 < halves.size(); ++i) out[i] = halves[i];
       }},
  };
  return list;
}

TEST(VectorOps, EveryInstructionSetGivesTheReferenceBits) {
  for (const std::int64_t n : {1, 2, 7, 15, 16, 17, 31, 32, 33, 64, 100, 576, 1000}) {
    // One float off, so that nothing is aligned.
    const std::vector<float> x = numbers(2 * n + 1, seed), y = numbers(2 * n + 1, seed + 1);
    for (const Operation& operation : operations()) {
      std::vector<float> expected(x);
      expected.push_back(canary);
      std::vector<float> initial(expected);
      operation.run(reference_vector_kernels, x.data() + 1, y.data() + 1, n, expected.data() + 1);
      EXPECT_EQ(expected.back(), canary);
      for (const KernelTable* table : available_kernels()) {
        std::vector<float> found(initial);
        operation.run(table->vector, x.data() + 1, y.data() + 1, n, found.data() + 1);
        for (std::size_t i = 0; i < found.size(); ++i) {
          ASSERT_EQ(std::bit_cast<std::uint32_t>(found[i]),
                    std::bit_cast<std::uint32_t>(expected[i]))
              << operation.name << " on " << name_of(table->isa) << ", n " << n << ", number " << i
              << ": " << found[i] << " for " << expected[i] << ", seed " << seed;
        }
      }
    }
  }
}

TEST(VectorOps, WeighGivesNotANumberNothing) {
  std::vector<float> x = numbers(40, seed);
  x[20] = std::nanf("");
  x[39] = -std::numeric_limits<float>::infinity();
  const float top = reference_vector_kernels.max(x.data(), 40);
  for (const KernelTable* table : available_kernels()) {
    std::vector<float> out(40);
    const float sum = table->vector.weigh(x.data(), top, 2, 40, out.data());
    EXPECT_EQ(out[20], 0);
    EXPECT_EQ(out[39], 0);
    double truth = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (i == 20) continue;
      truth += std::exp((static_cast<double>(x[i]) - top) / 2);
    }
    EXPECT_NEAR(sum, truth, 1e-5 * truth) << name_of(table->isa);
  }
}

TEST(VectorOps, NotANumberPassesThroughAndMaxSkipsIt) {
  std::vector<float> x = numbers(40, seed);
  x[20] = std::nanf("");
  const std::vector<float> y(40, 1.0f);
  for (const KernelTable* table : available_kernels()) {
    std::vector<float> out(40);
    table->vector.silu_mul(x.data(), y.data(), 40, out.data());
    EXPECT_TRUE(std::isnan(out[20])) << name_of(table->isa);
    table->vector.rms_norm(x.data(), y.data(), epsilon, 40, out.data());
    EXPECT_TRUE(std::isnan(out[0])) << name_of(table->isa);
    EXPECT_EQ(table->vector.max(x.data(), 40), reference_vector_kernels.max(x.data(), 40));
  }
}

/// Rounding in f32: (n / 16 + 4) additions in a lane and the tree, half of it survives the root,
/// then the division, the root and two products.
TEST(VectorOps, RmsNormIsNearTheTruth) {
  for (const std::int64_t n : {1, 17, 576, 1000}) {
    const std::vector<float> x = numbers(n, seed), w = numbers(n, seed + 1);
    std::vector<float> out(x.size());
    reference_vector_kernels.rms_norm(x.data(), w.data(), epsilon, n, out.data());
    double sum = 0;
    for (const float a : x) sum += static_cast<double>(a) * a;
    const double r = 1 / std::sqrt(sum / static_cast<double>(n) + static_cast<double>(epsilon));
    const double bound = (static_cast<double>(n) / 16 + 5) / 2 * eps + 6 * eps;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double truth = x[i] * r * w[i];
      EXPECT_NEAR(out[i], truth, bound * std::abs(truth) + 1e-40);
    }
  }
}

/// log2(block) additions and a product with a factor that is half a rounding off, each of at most
/// the sum of the absolute numbers.
TEST(VectorOps, HadamardIsTheSylvesterMatrix) {
  for (const std::int64_t block : {1, 2, 4, 16, 64, 512}) {
    const std::int64_t n = 3 * block;
    const std::vector<float> x = numbers(n, seed);
    std::vector<float> out(x.size());
    reference_vector_kernels.hadamard(x.data(), block, n, out.data());
    const double scale = 1 / std::sqrt(static_cast<double>(block));
    const double n_roundings = std::log2(static_cast<double>(block)) + 2;
    for (std::int64_t i = 0; i < n; ++i) {
      double truth = 0, sum = 0;
      for (std::int64_t j = i / block * block; j < (i / block + 1) * block; ++j) {
        const auto row = static_cast<std::uint64_t>(i % block);
        const bool is_negative = std::popcount(row & static_cast<std::uint64_t>(j % block)) % 2;
        const double number = static_cast<double>(x[static_cast<std::size_t>(j)]) * scale;
        truth += is_negative ? -number : number;
        sum += std::abs(number);
      }
      EXPECT_NEAR(out[static_cast<std::size_t>(i)], truth, n_roundings * eps * sum + 1e-40);
    }
  }
}

/// exp_bound on the exp, then an addition, a division and a product.
TEST(VectorOps, SiluMulIsNearTheTruth) {
  const std::vector<float> gate = numbers(1000, seed), up = numbers(1000, seed + 1);
  std::vector<float> out(gate.size());
  reference_vector_kernels.silu_mul(gate.data(), up.data(), 1000, out.data());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double truth = gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * up[i];
    // Below exp(-88) the result is a zero instead of a number smaller than 88 e^-88 |up|.
    const double vanished = 1e-36 * std::abs(up[i]);
    EXPECT_NEAR(out[i], truth, (math::exp_bound + 4 * eps) * std::abs(truth) + vanished);
  }
}

TEST(VectorOps, RopeRotates) {
  constexpr std::int64_t n = 33;
  const std::vector<float> x = numbers(2 * n, seed);
  std::vector<float> out(x), cos, sin;
  for (int i = 0; i < n; ++i) {
    cos.push_back(static_cast<float>(std::cos(0.7 * i)));
    sin.push_back(static_cast<float>(std::sin(0.7 * i)));
  }
  reference_vector_kernels.rope_rotate(out.data(), cos.data(), sin.data(), n);
  for (std::size_t i = 0; i < n; ++i) {
    const double a = x[i], b = x[i + n], c = cos[i], s = sin[i];
    const double bound = 2 * eps * (std::abs(a) + std::abs(b)) + 1e-40;
    EXPECT_NEAR(out[i], a * c - b * s, bound);
    EXPECT_NEAR(out[i + n], b * c + a * s, bound);
  }
}

/// p is off by exp_bound and by the rounding of x - m, l by that and its additions, then a
/// division.
TEST(VectorOps, SoftmaxIsNearTheTruth) {
  constexpr std::int64_t n = 1000;
  const std::vector<float> x = numbers(n, seed);
  std::vector<float> out(x.size());
  reference_vector_kernels.softmax(x.data(), n, out.data());
  const auto [lowest, largest] = std::minmax_element(x.begin(), x.end());
  const double m = *largest;
  double l = 0;
  for (const float a : x) l += std::exp(a - m);
  const double bound = 2 * (math::exp_bound + eps * (m - *lowest)) + (n / 16 + 6) * eps;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double truth = std::exp(x[i] - m) / l;
    EXPECT_NEAR(out[i], truth, bound * truth + 2e-38);
  }
}

}  // namespace
}  // namespace lowbit
