// SPDX-License-Identifier: Apache-2.0
// GPTQ against rounding to nearest in the metric of the Hessian, on every scheme it can write; and
// what must hold whatever the input.
#include "lowbit/quant/gptq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "lowbit/quant/gptq_order.h"

namespace lowbit {
namespace {

/// Weights and the Hessian of inputs that depend on their neighbours, some far larger than others.
struct Problem {
  std::int64_t rows, cols;
  std::vector<float> w, h, mean_square;

  Problem(std::int64_t rows_, std::int64_t cols_, unsigned seed = 20261121)
      : rows(rows_), cols(cols_) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < rows * cols; ++i) w.push_back(0.02f * normal(engine));
    const std::int64_t n_tokens = 3 * cols;
    const auto n = static_cast<std::size_t>(cols);
    std::vector<double> sums(n * n, 0.0), x(n);
    for (std::int64_t t = 0; t < n_tokens; ++t) {
      double carried = 0;
      for (std::size_t i = 0; i < n; ++i) {
        carried = 0.8 * carried + static_cast<double>(normal(engine));
        x[i] = i % 37 == 5 ? 12 * carried : carried;
      }
      for (std::size_t r = 0; r < n; ++r) {
        for (std::size_t c = 0; c < n; ++c) sums[r * n + c] += x[r] * x[c];
      }
    }
    for (const double sum : sums) {
      h.push_back(static_cast<float>(sum / static_cast<double>(n_tokens)));
    }
    for (std::size_t i = 0; i < n; ++i) mean_square.push_back(h[i * n + i]);
  }
  MatrixView weights() const { return {w.data(), rows, cols}; }
  MatrixView hessian() const { return {h.data(), cols, cols}; }
  InputStats stats() const { return {.mean_square = mean_square, .hessian = hessian()}; }
};

bool is_scalar(const Scheme& scheme) {
  return !is_plain_float(scheme) && scheme.code->dim == 1;
}

void expect_same(const QuantizedTensor& a, const QuantizedTensor& b, const std::string& what) {
  for (std::int64_t r = 0; r < a.rows; ++r) {
    EXPECT_TRUE(std::ranges::equal(a.codes.row(r), b.codes.row(r))) << what << ", row " << r;
  }
  if (a.scale) expect_same(*a.scale, *b.scale, what + " scale");
  if (a.zero) expect_same(*a.zero, *b.zero, what + " zero");
}

TEST(Gptq, LosesLessThanNearestCodesOnEveryScalarScheme) {
  const Problem p(20, 256);
  ThreadPool pool(2);
  int n_checked = 0;
  for (const Scheme& scheme : named_schemes()) {
    if (!is_scalar(scheme)) continue;
    const std::string name = to_string(scheme);
    const auto nearest = round_to_nearest(p.weights(), p.stats(), scheme, pool);
    const auto rounded = round_gptq(p.weights(), p.stats(), scheme, pool);
    ASSERT_TRUE(nearest) << name;
    ASSERT_TRUE(rounded) << name << ": " << rounded.error().message();
    EXPECT_EQ(rounded->note, "") << name;
    EXPECT_TRUE(has_finite_scales(rounded->tensor)) << name;
    EXPECT_LT(output_error(p.weights(), p.hessian(), rounded->tensor, pool),
              0.8 * output_error(p.weights(), p.hessian(), *nearest, pool))
        << name;
    ++n_checked;
  }
  EXPECT_GT(n_checked, 60);
}

TEST(Gptq, SchemesThatOnlyTheGrammarSpells) {
  const Problem p(19, 100);  // short last groups, a short last tile
  ThreadPool pool(2);
  for (const char* name : {"uint4.g64.zero", "int4.g64.zero", "uint3.g32.offset", "int2.g48.bf16",
                           "uint4.block16.asym", "e2m1.block8", "int4.g128.e8m0"}) {
    const Scheme scheme = *parse_scheme(name);
    const auto nearest = round_to_nearest(p.weights(), p.stats(), scheme, pool);
    const auto rounded = round_gptq(p.weights(), p.stats(), scheme, pool);
    ASSERT_TRUE(nearest) << name;
    ASSERT_TRUE(rounded) << name << ": " << rounded.error().message();
    EXPECT_LT(output_error(p.weights(), p.hessian(), rounded->tensor, pool),
              0.8 * output_error(p.weights(), p.hessian(), *nearest, pool))
        << name;
  }
}

TEST(Gptq, GridsOfVectors) {
  const Problem p(18, 256);
  ThreadPool one(1), three(3);
  for (const char* name : {"iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"}) {
    const Scheme scheme = *parse_scheme(name);
    const auto nearest = round_to_nearest(p.weights(), p.stats(), scheme, one);
    const auto alone = round_gptq(p.weights(), p.stats(), scheme, one);
    const auto shared = round_gptq(p.weights(), p.stats(), scheme, three);
    const auto unswept = round_gptq(p.weights(), p.stats(), scheme, {.n_sweeps = 0}, one);
    ASSERT_TRUE(nearest && alone && shared && unswept) << name;
    const auto error = [&](const QuantizedTensor& tensor) {
      return output_error(p.weights(), p.hessian(), tensor, one);
    };
    EXPECT_LT(error(unswept->tensor), 0.8 * error(*nearest)) << name;
    EXPECT_LT(error(alone->tensor), error(unswept->tensor)) << name;
    expect_same(alone->tensor, shared->tensor, name);
  }
  const auto refused = round_gptq(p.weights(), p.stats(), *parse_scheme("iq1_s"), one);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("rtn:iq1_s"), std::string::npos);
}

TEST(Gptq, TheBitsDependOnNoThreadCount) {
  const Problem p(45, 300);
  ThreadPool one(1), three(3);
  for (const char* name : {"int4.g128", "uint3.g32.offset", "mxfp4", "q4_k", "nf4.g64", "nvfp4",
                           "int8.channel", "e4m3.block128"}) {
    const Scheme scheme = *parse_scheme(name);
    const auto alone = round_gptq(p.weights(), p.stats(), scheme, one);
    const auto shared = round_gptq(p.weights(), p.stats(), scheme, three);
    ASSERT_TRUE(alone && shared) << name;
    expect_same(alone->tensor, shared->tensor, name);
  }
}

TEST(Gptq, EachStepLowersTheError) {
  const Problem p(64, 256);
  ThreadPool pool(2);
  for (const char* name : {"int4.g128", "int3.g64", "mxfp4", "q4_k"}) {
    const Scheme scheme = *parse_scheme(name);
    const auto error_with = [&](const GptqOptions& options) {
      const auto rounded = round_gptq(p.weights(), p.stats(), scheme, options, pool);
      return output_error(p.weights(), p.hessian(), rounded->tensor, pool);
    };
    const double first_pass = error_with({.n_sweeps = 0}), swept = error_with({});
    EXPECT_LT(error_with({.n_sweeps = 1}), first_pass) << name;
    EXPECT_LT(swept, first_pass) << name;
  }
}

TEST(Gptq, UncorrelatedInputsGiveTheNearestCodes) {
  Problem p(17, 96);
  std::fill(p.h.begin(), p.h.end(), 0.0f);
  for (std::int64_t i = 0; i < p.cols; ++i) p.h[static_cast<std::size_t>(i * p.cols + i)] = 1;
  p.mean_square.assign(p.mean_square.size(), 1.0f);
  ThreadPool pool(2);
  const GptqOptions plain{.n_sweeps = 0, .n_candidates = 0};
  for (const char* name : {"int4.g32", "uint4.g32.asym", "q4_1", "mxfp4", "int8.channel"}) {
    const Scheme scheme = *parse_scheme(name);
    const auto nearest = round_to_nearest(p.weights(), p.stats(), scheme, pool);
    const auto rounded = round_gptq(p.weights(), p.stats(), scheme, plain, pool);
    ASSERT_TRUE(nearest && rounded) << name;
    expect_same(rounded->tensor, *nearest, name);
  }
}

TEST(Gptq, AHessianOfNoUseFallsBackAndSaysSo) {
  Problem p(5, 64);
  ThreadPool pool(1);
  const Scheme scheme = *parse_scheme("int4.g32");
  const auto note_of = [&](InputStats stats) {
    const auto rounded = round_gptq(p.weights(), stats, scheme, pool);
    EXPECT_TRUE(rounded);
    const auto nearest = round_to_nearest(p.weights(), {stats.mean_square}, scheme, pool);
    expect_same(rounded->tensor, *nearest, rounded->note);
    return rounded->note;
  };
  p.h[70] = std::numeric_limits<float>::infinity();
  EXPECT_NE(note_of(p.stats()).find("not finite"), std::string::npos);
  p.h[70] = std::nanf("");
  EXPECT_NE(note_of(p.stats()).find("not finite"), std::string::npos);
  std::fill(p.h.begin(), p.h.end(), 0.0f);
  EXPECT_NE(note_of(p.stats()).find("diagonal"), std::string::npos);
  std::fill(p.h.begin(), p.h.end(), 1.0f);  // symmetric, but far from positive definite
  for (std::int64_t i = 0; i < p.cols; ++i) p.h[static_cast<std::size_t>(i * p.cols + i)] = 0.01f;
  EXPECT_NE(note_of(p.stats()).find("positive definite"), std::string::npos);
}

TEST(Gptq, ASingularHessianIsDamped) {
  Problem p(5, 64);
  ThreadPool pool(1);
  for (std::int64_t i = 0; i < p.cols; ++i) {  // two columns without inputs, two that are equal
    for (const std::int64_t dead : {3, 40}) {
      p.h[static_cast<std::size_t>(dead * p.cols + i)] = 0;
      p.h[static_cast<std::size_t>(i * p.cols + dead)] = 0;
    }
  }
  for (std::int64_t i = 0; i < p.cols; ++i) {
    p.h[static_cast<std::size_t>(9 * p.cols + i)] = p.h[static_cast<std::size_t>(8 * p.cols + i)];
  }
  for (std::int64_t i = 0; i < p.cols; ++i) {
    p.h[static_cast<std::size_t>(i * p.cols + 9)] = p.h[static_cast<std::size_t>(i * p.cols + 8)];
  }
  const auto rounded = round_gptq(p.weights(), p.stats(), *parse_scheme("int4.g32"), pool);
  ASSERT_TRUE(rounded);
  EXPECT_EQ(rounded->note, "");
  EXPECT_TRUE(has_finite_scales(rounded->tensor));
}

TEST(Gptq, ExtremeNumbersStayFinite) {
  Problem p(2, 256);
  ThreadPool pool(2);
  const std::vector<float> ordinary = p.w;
  for (const float factor : {0.0f, 1e-40f, 1e-28f, 1e-6f, 1e7f, 1e19f, 1e38f}) {
    for (std::size_t i = 0; i < p.w.size(); ++i) p.w[i] = ordinary[i] * factor;
    p.w[7] = 1000 * std::min(factor, 1e30f);
    for (const char* name : {"int4.g128", "q4_1", "uint4.g32.asym", "uint4.g64.zero", "mxfp4",
                             "nvfp4", "q4_k", "q6_k", "iq4_xs", "nf4.g64", "int8.channel"}) {
      const auto rounded = round_gptq(p.weights(), p.stats(), *parse_scheme(name), pool);
      ASSERT_TRUE(rounded) << name;
      ASSERT_TRUE(has_finite_scales(rounded->tensor)) << name << " x " << factor;
      for (const float value : decode(rounded->tensor)) {
        ASSERT_TRUE(std::isfinite(value)) << name << " x " << factor;
        if (factor == 0) {
          ASSERT_EQ(value, 0.0f) << name;
        }
      }
    }
  }
}

TEST(Gptq, RefusesWhatItCannotDo) {
  const Problem p(3, 64);
  ThreadPool pool(1);
  const Scheme scheme = *parse_scheme("int4.g32");
  const auto without = round_gptq(p.weights(), {}, scheme, pool);
  ASSERT_FALSE(without);
  EXPECT_NE(without.error().message().find("rtn:int4.g32"), std::string::npos);
  InputStats narrow = p.stats();
  narrow.hessian = {p.h.data(), 63, 63};
  EXPECT_FALSE(round_gptq(p.weights(), narrow, scheme, pool));
  Problem damaged(3, 64);
  damaged.w[70] = std::nanf("");
  EXPECT_FALSE(round_gptq(damaged.weights(), damaged.stats(), scheme, pool));
}

TEST(ColumnOrder, KeepsGroupsTogether) {
  const std::vector<float> weights{1, 2, 3, 9, 5, 4, 7, 8, 6};
  const ColumnOrder order = order_columns(weights, {.group = 2, .unit = 4}, /*is_ordered=*/true);
  EXPECT_EQ(order.column, (std::vector<std::int64_t>{3, 2, 1, 0, 7, 6, 4, 5, 8}));
  ASSERT_EQ(order.groups.size(), 5u);
  EXPECT_EQ(order.groups[0].index, 1);
  EXPECT_EQ(order.groups[4].n, 1);
  ASSERT_EQ(order.units.size(), 3u);
  EXPECT_EQ(order.units[1].first, 4);
  const ColumnOrder plain = order_columns(weights, {.group = 2, .unit = 4}, /*is_ordered=*/false);
  EXPECT_EQ(plain.column, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
  const ColumnOrder atoms = order_columns(weights, {.atom = 2, .group = 4, .unit = 4}, true);
  EXPECT_EQ(atoms.column, (std::vector<std::int64_t>{2, 3, 0, 1, 6, 7, 4, 5, 8}));
}

}  // namespace
}  // namespace lowbit
