// SPDX-License-Identifier: Apache-2.0
// Two references, two kinds of tests: the scalar reference against the truth (double precision on
// decoded weights) within a derived bound, every kernel against the scalar reference by bits.
#include "lowbit/kernels/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "lowbit/formats/codes.h"
#include "lowbit/kernels/kernels_under_test.h"
#include "lowbit/kernels/product_scheme.h"
#include "lowbit/kernels/reference.h"

namespace lowbit {
namespace {

constexpr std::array all_activations{Activations::f32, Activations::int8_g32,
                                     Activations::int8_g256, Activations::int8_token};

bool has_infinite_value(const Code& code, std::uint32_t bits) {
  std::array<float, 8> numbers{};
  code.look_up(bits, numbers.data());
  for (int i = 0; i < code.dim; ++i) {
    if (!std::isfinite(numbers[static_cast<std::size_t>(i)])) return true;
  }
  return false;
}

/// Codes anywhere in their range (extremes included), factors of moderate size and both signs.
void fill_randomly(QuantizedTensor& tensor, std::mt19937& random, bool is_factor) {
  const Code& code = *tensor.scheme.code;
  std::normal_distribution<float> normal(0, is_factor ? 0.01f : 1.0f);
  for (std::int64_t r = 0; r < tensor.rows; ++r) {
    for (std::int64_t i = 0; i < tensor.codes.n_per_row(); ++i) {
      std::uint32_t bits = 0;
      do {
        bits = static_cast<std::uint32_t>(random()) >> (32 - code.window);
        if (code.formula != nullptr) bits = nearest_code(code, normal(random));
        constexpr std::uint32_t one_in_e8m0 = 127, spread = 16;
        if (code == codes::named("e8m0")) bits = one_in_e8m0 - spread / 2 + random() % spread;
      } while (has_infinite_value(code, bits));
      tensor.codes.set(r, i, bits);
    }
  }
  if (tensor.scale != nullptr) fill_randomly(*tensor.scale, random, true);
  if (tensor.zero != nullptr) fill_randomly(*tensor.zero, random, true);
}

struct Shape {
  std::int64_t rows, cols;
};

std::int64_t fitting_cols(const Scheme& scheme, std::int64_t cols) {
  return (cols + scheme.code->dim - 1) / scheme.code->dim * scheme.code->dim;
}

QuantizedTensor random_tensor(const Scheme& scheme, Shape shape, unsigned seed) {
  std::mt19937 random(seed);
  QuantizedTensor w(scheme, shape.rows, fitting_cols(scheme, shape.cols));
  fill_randomly(w, random, false);
  return w;
}

/// Tokens with outliers, a group of zeros, a token of zeros and a tiny one.
std::vector<float> random_tokens(std::int64_t n_tokens, std::int64_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(n_tokens * cols));
  for (float& number : x) number = normal(random) * (random() % 64 == 0 ? 50.0f : 1.0f);
  constexpr std::int64_t group = 32;
  for (std::int64_t k = group; k < std::min(2 * group, cols); ++k)
    x[static_cast<std::size_t>(k)] = 0;
  for (std::int64_t k = 0; k < cols; ++k) {
    if (n_tokens > 4) x[static_cast<std::size_t>(3 * cols + k)] = 0;
    if (n_tokens > 5) x[static_cast<std::size_t>(4 * cols + k)] *= 1e-33f;
  }
  return x;
}

struct Case {
  const QuantizedTensor& w;
  const PackedMatrix& packed;
  const std::vector<float>& x;
  std::int64_t max_tokens;
  Activations activations;
  const std::vector<float>& expected;  // (max_tokens, rows)
};

/// Approximate products with f32 activations are held to a bound
/// (ApproximateProductsStayInTheirBound).
bool promises_bits(const KernelTable& kernels, Activations activations) {
  return !(is_approximate(kernels.isa) && activations == Activations::f32);
}

constexpr float canary = 1234.5f;
constexpr std::int64_t padding = 3;

/// The product of the first n_tokens, with x and y unaligned, strided and padded with canaries.
void expect_same_bits(const Case& c, const KernelTable& kernels, std::int64_t n_tokens,
                      ThreadPool& pool) {
  const std::int64_t rows = c.w.rows, cols = c.w.cols;
  const std::int64_t x_stride = cols + padding, y_stride = rows + padding;
  std::vector<float> x(static_cast<std::size_t>(n_tokens * x_stride + 1), canary);
  for (std::int64_t t = 0; t < n_tokens; ++t) {
    std::copy_n(c.x.data() + t * cols, cols, x.data() + 1 + t * x_stride);
  }
  std::vector<float> y(static_cast<std::size_t>(n_tokens * y_stride + 1), canary);
  PackedActivations prepared;
  prepare_activations(kernels, MatrixView(x.data() + 1, n_tokens, cols, x_stride), c.activations,
                      c.packed, prepared, pool);
  MatmulWorkspace workspace;
  matmul(kernels, c.packed, prepared, MutableMatrixView(y.data() + 1, n_tokens, rows, y_stride),
         workspace, pool);
  ASSERT_EQ(y[0], canary);
  for (std::int64_t t = 0; t < n_tokens; ++t) {
    const float* row = y.data() + 1 + t * y_stride;
    const float* expected = c.expected.data() + t * rows;
    for (std::int64_t i = 0;
         i < rows &&
         std::memcmp(row, expected, sizeof(float) * static_cast<std::size_t>(rows)) != 0;
         ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(row[i]), std::bit_cast<std::uint32_t>(expected[i]))
          << row[i] << " for " << expected[i] << " at token " << t << " of " << n_tokens
          << ", output " << i << ", " << kernel_name(kernels, c.packed, c.activations, n_tokens)
          << ", " << rows << " x " << cols << ", " << pool.n_threads() << " threads";
    }
    for (std::int64_t i = rows; i < y_stride; ++i) ASSERT_EQ(row[i], canary);
  }
}

std::vector<float> expected_product(const QuantizedTensor& w, const std::vector<float>& x,
                                    std::int64_t n_tokens, Activations activations) {
  std::vector<float> y(static_cast<std::size_t>(n_tokens * w.rows));
  reference::matmul(w, MatrixView(x.data(), n_tokens, w.cols), activations,
                    MutableMatrixView(y.data(), n_tokens, w.rows));
  return y;
}

class EveryScheme : public testing::TestWithParam<std::size_t> {
 protected:
  const Scheme& scheme() const { return named_schemes()[GetParam()]; }
};

INSTANTIATE_TEST_SUITE_P(Matmul, EveryScheme,
                         testing::Range<std::size_t>(0, named_schemes().size()),
                         [](const auto& info) {
                           std::string name(named_schemes()[info.param].name);
                           for (char& c : name) c = c == '.' ? '_' : c;
                           return name;
                         });

TEST_P(EveryScheme, HasTheBitsOfTheReference) {
  constexpr std::int64_t max_tokens = 17;
  const std::array shapes{Shape{1, 1},    Shape{15, 31},  Shape{16, 32},  Shape{17, 33},
                          Shape{31, 296}, Shape{33, 544}, Shape{50, 1090}};
  ThreadPool one(1), two(2), three(3);
  for (const Shape shape : shapes) {
    const QuantizedTensor w = random_tensor(scheme(), shape, 7);
    const std::vector<float> x = random_tokens(max_tokens, w.cols, 8);
    Result<PackedMatrix> packed = pack(w, two);
    ASSERT_TRUE(packed) << packed.error().message();
    for (const Activations activations : all_activations) {
      if (!check_activations(scheme(), activations)) continue;
      constexpr std::int64_t large_cols = 300;
      const std::int64_t n_tokens = shape.cols > large_cols ? 9 : max_tokens;
      const std::vector<float> expected = expected_product(w, x, n_tokens, activations);
      const Case c{w, *packed, x, n_tokens, activations, expected};
      for (const KernelTable* kernels : kernels_under_test()) {
        if (!promises_bits(*kernels, activations)) continue;
        const bool is_slow = kernels->isa == Isa::scalar || kernels->isa == Isa::amx_int8;
        for (const std::int64_t n : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17}) {
          if (n > n_tokens || (is_slow && n != 1 && n < 9)) continue;
          ASSERT_NO_FATAL_FAILURE(expect_same_bits(c, *kernels, n,
                                                   n % 3 == 0   ? three
                                                   : n % 2 == 0 ? two
                                                                : one));
        }
      }
    }
  }
}

TEST_P(EveryScheme, ReadsRowsBack) {
  ThreadPool pool(2);
  for (const Shape shape : {Shape{1, 1}, Shape{17, 33}, Shape{130, 700}}) {
    const QuantizedTensor w = random_tensor(scheme(), shape, 9);
    Result<PackedMatrix> packed = pack(w, pool);
    ASSERT_TRUE(packed) << packed.error().message();
    const std::vector<float> numbers = decode(w);
    std::vector<float> row(static_cast<std::size_t>(w.cols));
    for (std::int64_t r = 0; r < w.rows; ++r) {
      unpack_row(*packed, r, row.data());
      for (std::int64_t k = 0; k < w.cols; ++k) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(row[static_cast<std::size_t>(k)]),
                  std::bit_cast<std::uint32_t>(numbers[static_cast<std::size_t>(r * w.cols + k)]))
            << row[static_cast<std::size_t>(k)] << " at " << r << ", " << k;
      }
    }
  }
}

/// Magnitude of every weight before its parts cancel.
std::vector<double> magnitudes(const QuantizedTensor& w) {
  const std::vector<float> numbers = decode(w);
  std::vector<double> size(numbers.size());
  for (std::int64_t r = 0; r < w.rows; ++r) {
    for (std::int64_t k = 0; k < w.cols; ++k) {
      const std::size_t i = static_cast<std::size_t>(r * w.cols + k);
      size[i] = std::fabs(numbers[i]);
      if (w.zero == nullptr) continue;
      std::vector<float> zeros(static_cast<std::size_t>(w.zero->cols)), scales(zeros.size());
      decode_rows(*w.zero, r / w.group_rows(), 1, zeros);
      decode_rows(*w.scale, r / w.group_rows(), 1, scales);
      const std::size_t g = static_cast<std::size_t>(k / w.group_cols());
      const double unit = w.scheme.zero_unit == ZeroUnit::weight ? 1.0 : std::fabs(scales[g]);
      size[i] += 2 * unit * std::fabs(zeros[g]);
    }
  }
  return size;
}

/// |reference - truth| <= rounding of the chain + rounding of the activations.
/// Chain: every fma, every product of factors and every int32 -> f32 rounds once, each by at most
/// eps of a magnitude below S = sum |x| |w| (with zeros: sum |x| (|s v| + |z|)); there are at most
/// cols + 8 of them on the way of any term. Activations: a code is off by at most half a step plus
/// what the two roundings of x * (127 / most) cost (2 eps x 127 < 1/100 step), so by 0.51 most /
/// 127.
TEST_P(EveryScheme, ReferenceIsCloseToTheTruth) {
  constexpr std::int64_t n_tokens = 3;
  const QuantizedTensor w = random_tensor(scheme(), {5, 600}, 10);
  const std::vector<float> x = random_tokens(n_tokens, w.cols, 11);
  const std::vector<float> numbers = decode(w);
  const std::vector<double> size = magnitudes(w);
  for (const Activations activations : all_activations) {
    if (!check_activations(scheme(), activations)) continue;
    const std::vector<float> y = expected_product(w, x, n_tokens, activations);
    const std::int64_t group = group_of(activations) == 0 ? w.cols : group_of(activations);
    for (std::int64_t t = 0; t < n_tokens; ++t) {
      const float* token = x.data() + t * w.cols;
      std::vector<double> mosts;
      for (std::int64_t k = 0; k < w.cols; k += group) {
        mosts.push_back(0);
        for (std::int64_t j = k; j < std::min(k + group, w.cols); ++j) {
          mosts.back() = std::max(mosts.back(), std::fabs(double{token[j]}));
        }
      }
      for (std::int64_t r = 0; r < w.rows; ++r) {
        double truth = 0, chain = 0, rounding = 0;
        for (std::int64_t k = 0; k < w.cols; ++k) {
          const double xk = token[k];
          const std::size_t i = static_cast<std::size_t>(r * w.cols + k);
          const double most = mosts[static_cast<std::size_t>(k / group)];
          truth += xk * numbers[i];
          chain += most * size[i];
          rounding += 0.51 * most / 127 * std::fabs(numbers[i]);
        }
        const double eps = 0x1p-24, n_roundings = static_cast<double>(w.cols) + 8;
        const double bound =
            n_roundings * eps * chain + (activations == Activations::f32 ? 0 : rounding);
        ASSERT_LE(std::fabs(y[static_cast<std::size_t>(t * w.rows + r)] - truth), bound)
            << name_of(activations) << " token " << t << " output " << r << " truth " << truth;
      }
    }
  }
}

/// The bound of bf16_body.h on every table that is marked, and no less than bits for int8 products.
TEST_P(EveryScheme, ApproximateProductsStayInTheirBound) {
  constexpr std::int64_t n_tokens = 9;
  ThreadPool pool(2);
  const QuantizedTensor w = random_tensor(scheme(), {21, 333}, 17);
  std::vector<float> x = random_tokens(n_tokens, w.cols, 18);
  for (std::int64_t k = 0; k < w.cols; ++k) {  // denormal activations
    float& number = x[static_cast<std::size_t>(6 * w.cols + k)];
    number *= 0x1p-130f;
  }
  const std::vector<float> numbers = decode(w);
  const std::vector<double> size = magnitudes(w);
  Result<PackedMatrix> packed = pack(w, pool);
  ASSERT_TRUE(packed) << packed.error().message();
  for (const KernelTable* kernels : kernels_under_test()) {
    if (!is_approximate(kernels->isa)) continue;
    const auto product = [&](std::int64_t first, std::int64_t n) {
      std::vector<float> y(static_cast<std::size_t>(n * w.rows));
      PackedActivations prepared;
      prepare_activations(*kernels, MatrixView(x.data() + first * w.cols, n, w.cols),
                          Activations::f32, *packed, prepared, pool);
      MatmulWorkspace workspace;
      matmul(*kernels, *packed, prepared, MutableMatrixView(y.data(), n, w.rows), workspace, pool);
      return y;
    };
    const std::vector<float> y = product(0, n_tokens);
    for (std::int64_t t = 0; t < n_tokens; ++t) {
      const std::vector<float> alone = product(t, 1);
      for (std::int64_t r = 0; r < w.rows; ++r) {
        const float number = y[static_cast<std::size_t>(t * w.rows + r)];
        EXPECT_EQ(std::bit_cast<std::uint32_t>(number),
                  std::bit_cast<std::uint32_t>(alone[static_cast<std::size_t>(r)]))
            << "token " << t << " alone and among others";
        double truth = 0, sum = 0, most_x = 0, most_w = 0;
        for (std::int64_t k = 0; k < w.cols; ++k) {
          const double xk = x[static_cast<std::size_t>(t * w.cols + k)];
          const std::size_t i = static_cast<std::size_t>(r * w.cols + k);
          truth += xk * numbers[i];
          sum += std::fabs(xk) * size[i];
          most_x = std::max(most_x, std::fabs(xk));
          most_w = std::max(most_w, size[i]);
        }
        const double u = 0x1p-8, e = 0x1p-24, cols = static_cast<double>(w.cols);
        // A scale is at most the largest magnitude of a weight over that of the smallest value,
        // 2^-16.
        const double flushed = cols * 0x1p-126 * most_w * 0x1p16 * (1 + most_x + 0x1p16);
        const double bound =
            sum * (2 * u + u * u) + sum * (1 + u) * (1 + u) * (2 * cols + 8) * e + flushed;
        ASSERT_LE(std::fabs(number - truth), bound)
            << name_of(kernels->isa) << " token " << t << " output " << r << " truth " << truth;
      }
    }
  }
}

TEST(Matmul, QuantizedRowsAreTheReferences) {
  std::mt19937 random(12);
  for (const std::int64_t cols : {1, 15, 16, 17, 31, 32, 33, 100, 256, 300}) {
    std::vector<float> x(static_cast<std::size_t>(cols + 1));
    for (float& number : x) {
      number = std::bit_cast<float>(static_cast<std::uint32_t>(random()));  // any float, also NaN
      if (random() % 2 == 0) number = std::normal_distribution<float>()(random);
    }
    const std::span<const float> row(x.data() + 1, static_cast<std::size_t>(cols));
    for (const std::int64_t group : {0, 32, 256}) {
      const reference::QuantizedRow expected = reference::quantize_row(row, group);
      for (const KernelTable* kernels : kernels_under_test()) {
        const std::size_t padded = static_cast<std::size_t>((cols + tile_k - 1) / tile_k * tile_k);
        std::vector<std::int8_t> codes(padded, 99);
        std::vector<float> scales(expected.scales.size());
        std::vector<std::int32_t> sums(padded / 16, -1);
        kernels->matmul.quantize_row(row.data(), cols, group, codes.data(), scales.data(),
                                     sums.data());
        std::int32_t total = 0;
        for (std::size_t k = 0; k < padded; ++k) {
          ASSERT_EQ(codes[k], k < expected.codes.size() ? expected.codes[k] : 0)
              << name_of(kernels->isa) << " cols " << cols << " group " << group << " k " << k;
          total += codes[k];
          if (k % 16 == 15) {
            ASSERT_EQ(sums[k / 16], total);
            total = 0;
          }
        }
        for (std::size_t g = 0; g < scales.size(); ++g) {
          ASSERT_TRUE(std::bit_cast<std::uint32_t>(scales[g]) ==
                          std::bit_cast<std::uint32_t>(expected.scales[g]) ||
                      (std::isnan(scales[g]) && std::isnan(expected.scales[g])))
              << name_of(kernels->isa) << " " << scales[g] << " for " << expected.scales[g];
        }
      }
    }
  }
}

TEST(Matmul, DefaultActivationsFollowTheScheme) {
  const auto defaults = [](std::string_view name) {
    return name_of(default_activations(*parse_scheme(name)));
  };
  EXPECT_EQ(defaults("q8_0"), "int8.g32");
  EXPECT_EQ(defaults("int4.g128.asym"), "int8.g32");
  EXPECT_EQ(defaults("mxfp4"), "int8.g32");
  EXPECT_EQ(defaults("q4_k"), "int8.g256");
  EXPECT_EQ(defaults("tq2_0"), "int8.g256");
  EXPECT_EQ(defaults("iq2_xxs"), "int8.g256");
  EXPECT_EQ(defaults("f16"), "f32");
  EXPECT_EQ(defaults("nf4.g64"), "f32");
  EXPECT_EQ(defaults("e4m3.channel"), "f32");
  EXPECT_EQ(defaults("mxfp6_e3m2"), "f32");
}

TEST(Matmul, RefusesActivationsWithoutAProduct) {
  const Status blocks = check_activations(*parse_scheme("q4_k"), Activations::int8_g32);
  ASSERT_FALSE(blocks);
  EXPECT_NE(blocks.error().message().find("a=int8.g256"), std::string::npos);
  const Status floats = check_activations(*parse_scheme("nf4.g64"), Activations::int8_g32);
  ASSERT_FALSE(floats);
  EXPECT_NE(floats.error().message().find("a=f32"), std::string::npos);
  EXPECT_TRUE(check_activations(*parse_scheme("q4_k"), Activations::int8_token));
}

/// Schemes that no name stands for: odd scales, real zeros in code units, unsigned bytes, block
/// scales that are not one per row.
TEST(Matmul, UnnamedSchemesHaveTheBitsOfTheReference) {
  ThreadPool pool(2);
  for (const std::string_view text :
       {"int4.g64.f32", "int4.g32.bf16", "int3.g256", "int4.g512", "uint4.g64.offset",
        "uint4.channel.offset", "uint4.g64.zero", "int4.channel.zero", "uint8.g64.asym",
        "uint8.channel.asym", "int6.block128", "int4.g32.e8m0", "uint2.g16.offset.f32", "uint8",
        "e2m3.g64.offset", "nf4.g32.offset", "iq4_nl.channel"}) {
    const Result<Scheme> scheme = parse_scheme(text);
    ASSERT_TRUE(scheme) << scheme.error().message();
    for (const Shape shape : {Shape{3, 7}, Shape{130, 1300}}) {
      constexpr std::int64_t n_tokens = 7;
      const QuantizedTensor w = random_tensor(*scheme, shape, 13);
      const std::vector<float> x = random_tokens(n_tokens, w.cols, 14);
      Result<PackedMatrix> packed = pack(w, pool);
      ASSERT_TRUE(packed) << text << ": " << packed.error().message();
      std::vector<float> row(static_cast<std::size_t>(w.cols));
      const std::vector<float> numbers = decode(w);
      unpack_row(*packed, w.rows - 1, row.data());
      ASSERT_EQ(0, std::memcmp(row.data(), numbers.data() + (w.rows - 1) * w.cols,
                               row.size() * sizeof(float)))
          << text;
      for (const Activations activations : all_activations) {
        if (!check_activations(*scheme, activations)) continue;
        const std::vector<float> expected = expected_product(w, x, n_tokens, activations);
        const Case c{w, *packed, x, n_tokens, activations, expected};
        for (const KernelTable* kernels : kernels_under_test()) {
          if (!promises_bits(*kernels, activations)) continue;
          for (const std::int64_t n : {1, 7}) {
            ASSERT_NO_FATAL_FAILURE(expect_same_bits(c, *kernels, n, pool)) << text;
          }
        }
      }
    }
  }
}

/// More tokens than any tile has, on both sides of the multiples of 16 and 32; every form of scale.
TEST(Matmul, ManyTokensHaveTheBitsOfTheReference) {
  ThreadPool pool(2);
  constexpr std::int64_t max_tokens = 70;
  for (const std::string_view text : {"int8.channel", "int4.g32", "uint4.g64.asym", "q4_1", "q4_k",
                                      "q6_k", "nvfp4", "uint8.channel.asym"}) {
    const QuantizedTensor w = random_tensor(*parse_scheme(text), {47, 352}, 15);
    const std::vector<float> x = random_tokens(max_tokens, w.cols, 16);
    Result<PackedMatrix> packed = pack(w, pool);
    ASSERT_TRUE(packed) << text << ": " << packed.error().message();
    for (const Activations activations : all_activations) {
      if (!check_activations(w.scheme, activations)) continue;
      const std::vector<float> expected = expected_product(w, x, max_tokens, activations);
      const Case c{w, *packed, x, max_tokens, activations, expected};
      for (const KernelTable* kernels : kernels_under_test()) {
        if (!promises_bits(*kernels, activations)) continue;
        for (const std::int64_t n : {31, 32, 33, 48, 70}) {
          ASSERT_NO_FATAL_FAILURE(expect_same_bits(c, *kernels, n, pool)) << text;
        }
      }
    }
  }
}

/// The code whose first number is the least, or the largest.
std::uint32_t extreme_code(const Code& code, bool largest) {
  std::uint32_t best = 0;
  float best_number = 0;
  std::array<float, 8> numbers{};
  for (std::uint32_t bits = 0; bits < 1u << code.window; ++bits) {
    code.look_up(bits, numbers.data());
    const float number = largest ? numbers[0] : -numbers[0];
    if (bits != 0 && number <= best_number) continue;
    best = bits;
    best_number = number;
  }
  return best;
}

/// Every code, every integer scale and every activation at an end of its range: sums in int16 (a
/// group of two-level types, the pairs of a group sum) must not overflow where the argument for
/// them says so. Token counts around the tiles of every set.
TEST(Matmul, ExtremesDoNotOverflow) {
  ThreadPool pool(2);
  constexpr std::int64_t n_tokens = 25, cols = 592, rows = 20;  // a short last group
  std::vector<float> x(static_cast<std::size_t>(n_tokens * cols));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t token = i / cols;
    x[i] = token % 3 == 0 ? 1.0f : token % 3 == 1 ? -1.0f : (i / 7 % 2 == 0 ? 1.0f : -1.0f);
  }
  for (const std::string_view name :
       {"q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs", "q4_0", "q8_0", "mxfp4", "nvfp4",
        "int2.g64", "int4.g128", "uint4.g64.asym", "int5.g32", "int6.channel", "int8.channel"}) {
    const Result<Scheme> scheme = parse_scheme(name);
    ASSERT_TRUE(scheme) << scheme.error().message();
    for (const int ends : {0, 1, 2, 3}) {
      QuantizedTensor w = random_tensor(*scheme, {rows, cols}, 15);
      const auto fill = [&](QuantizedTensor& plane, bool largest) {
        const std::uint32_t bits = extreme_code(*plane.scheme.code, largest);
        for (std::int64_t r = 0; r < plane.rows; ++r) {
          for (std::int64_t i = 0; i < plane.codes.n_per_row(); ++i) plane.codes.set(r, i, bits);
        }
      };
      fill(w, ends % 2 != 0);
      if (w.scale && w.scale->scale) fill(*w.scale, ends / 2 != 0);
      if (w.zero) fill(*w.zero, ends / 2 != 0);
      Result<PackedMatrix> packed = pack(w, pool);
      ASSERT_TRUE(packed) << name << ": " << packed.error().message();
      for (const Activations activations : all_activations) {
        if (activations == Activations::f32 || !check_activations(*scheme, activations)) continue;
        const std::vector<float> expected = expected_product(w, x, n_tokens, activations);
        const Case c{w, *packed, x, n_tokens, activations, expected};
        for (const KernelTable* kernels : kernels_under_test()) {
          for (const std::int64_t n : {1, 2, 4, 5, 8, 10, 11, 12, 13, 18, 20, 25}) {
            if (kernels->isa == Isa::scalar && n != 1) continue;
            ASSERT_NO_FATAL_FAILURE(expect_same_bits(c, *kernels, n, pool)) << name;
          }
        }
      }
    }
  }
}

TEST(Matmul, PackSaysWhichGroupsHaveNoKernel) {
  ThreadPool pool(1);
  const QuantizedTensor w(*parse_scheme("int4.g48"), 2, 96);
  const Result<PackedMatrix> packed = pack(w, pool);
  ASSERT_FALSE(packed);
  EXPECT_NE(packed.error().message().find("groups of 48"), std::string::npos);
}

}  // namespace
}  // namespace lowbit
