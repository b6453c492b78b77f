// SPDX-License-Identifier: Apache-2.0
// Rounders against published errors on a Gaussian source, against exhaustive search, and against
// what every scheme must keep.
#include <gtest/gtest.h>

#include <cmath>

#include "lowbit/quant/group_fit.h"
#include "lowbit/quant/rounder.h"
#include "lowbit/quant/test_matrices.h"

namespace lowbit {
namespace {

struct Anchor {
  const char* method;
  const char* scheme;
  double relative_mse;
};

// Relative squared error on N(0, 1), measured independently over 2^20 samples (absmax) or the best
// of a fine scale search; half of a per mille of sampling noise at this size.
class GaussianAnchor : public testing::TestWithParam<Anchor> {};

TEST_P(GaussianAnchor, MatchesThePublishedError) {
  const Anchor anchor = GetParam();
  ThreadPool pool(2);
  constexpr std::int64_t rows = 96, cols = 1024;
  const std::vector<float> w = gaussian(rows * cols);
  const bool is_absmax = std::string_view(anchor.method) == "rtn-absmax";
  const auto tensor = (is_absmax ? round_absmax : round_to_nearest)(
      MatrixView(w.data(), rows, cols), {}, *parse_scheme(anchor.scheme), pool);
  ASSERT_TRUE(tensor) << tensor.error().message();
  const double error = relative_error(w, *tensor);
  EXPECT_LE(error, anchor.relative_mse * 1.02) << anchor.method << ":" << anchor.scheme;
  if (is_absmax) {
    EXPECT_GE(error, anchor.relative_mse * 0.98) << anchor.method << ":" << anchor.scheme;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Anchors, GaussianAnchor,
    testing::Values(
        Anchor{"rtn-absmax", "int8.g128", 4.2e-5}, Anchor{"rtn-absmax", "int6.g128", 7.0e-4},
        Anchor{"rtn-absmax", "int5.g128", 0.00300}, Anchor{"rtn-absmax", "int4.g128", 0.01374},
        Anchor{"rtn-absmax", "int3.g128", 0.0749}, Anchor{"rtn-absmax", "int2.g128", 0.588},
        Anchor{"rtn-absmax", "mxfp8", 8.6e-4}, Anchor{"rtn-absmax", "mxfp6_e2m3", 8.0e-4},
        Anchor{"rtn-absmax", "mxfp6_e3m2", 2.9e-3}, Anchor{"rtn-absmax", "mxfp4", 0.01320},
        Anchor{"rtn-absmax", "nvfp4", 0.00906}, Anchor{"rtn-absmax", "nf4.g64", 0.00847},
        Anchor{"rtn-absmax", "tq2_0", 0.262}, Anchor{"rtn", "int6.g128", 6.2e-4},
        Anchor{"rtn", "int5.g128", 0.00244}, Anchor{"rtn", "int4.g128", 0.00931},
        Anchor{"rtn", "int4.g32", 0.00654}, Anchor{"rtn", "int3.g128", 0.0345},
        Anchor{"rtn", "int3.g32", 0.0263}, Anchor{"rtn", "int2.g128", 0.132},
        Anchor{"rtn", "int2.g32", 0.110}, Anchor{"rtn", "uint4.g128.asym", 0.01010},
        Anchor{"rtn", "uint4.g64.asym", 0.00829}, Anchor{"rtn", "uint4.g32.asym", 0.00652},
        Anchor{"rtn", "uint3.g128.asym", 0.0464}, Anchor{"rtn", "uint3.g32.asym", 0.0300},
        Anchor{"rtn", "iq4_nl", 0.00538}, Anchor{"rtn", "mxfp4", 0.01243},
        Anchor{"rtn", "nvfp4", 0.00661}, Anchor{"rtn", "tq2_0", 0.189},
        Anchor{"rtn", "stq1_0", 0.283}, Anchor{"rtn", "q1_0", 0.362}));

TEST(Rounders, EverySchemeWithAnEncoderIsNoWorseSearchedThanAbsmax) {
  ThreadPool pool(2);
  constexpr std::int64_t rows = 8, cols = 512;
  const std::vector<float> w = gaussian(rows * cols, 0.02f);
  std::vector<float> importance(cols);
  for (std::size_t i = 0; i < importance.size(); ++i)
    importance[i] = 0.1f + static_cast<float>(i % 7);
  const MatrixView view(w.data(), rows, cols);
  const InputStats stats{importance};
  int n_checked = 0;
  for (const Scheme& scheme : named_schemes()) {
    if (is_plain_float(scheme)) continue;
    const auto searched = round_to_nearest(view, stats, scheme, pool);
    const auto absmax = round_absmax(view, stats, scheme, pool);
    ASSERT_TRUE(searched) << to_string(scheme) << ": " << searched.error().message();
    ASSERT_TRUE(absmax) << to_string(scheme) << ": " << absmax.error().message();
    EXPECT_TRUE(has_finite_scales(*searched)) << to_string(scheme);
    // A whisker for the float rounding of the sums by which candidates are compared.
    EXPECT_LE(weighted_error(view, stats, *searched), 1.001 * weighted_error(view, stats, *absmax))
        << to_string(scheme);
    EXPECT_LT(relative_error(w, *searched), 1.0) << to_string(scheme);
    ++n_checked;
  }
  EXPECT_GT(n_checked, 30);
}

TEST(Rounders, ZerosStayZero) {
  ThreadPool pool(1);
  constexpr std::int64_t rows = 2, cols = 256;
  std::vector<float> w(rows * cols, 0.0f);
  for (const Scheme& scheme : named_schemes()) {
    for (const Rounder& rounder : rounder_list()) {
      if (rounder.needs == Needs::hessian) continue;
      if (rounder.name == "hqq" && scheme.code->dim != 1) continue;  // it refuses them
      const auto tensor = rounder.round(MatrixView(w.data(), rows, cols), {}, scheme, pool);
      ASSERT_TRUE(tensor) << to_string(scheme);
      for (const float value : decode(tensor->tensor))
        ASSERT_EQ(value, 0.0f) << rounder.name << ":" << to_string(scheme);
    }
  }
}

TEST(Rounders, NumbersOnTheGridComeBack) {
  ThreadPool pool(1);
  constexpr std::int64_t rows = 4, cols = 256;
  for (const char* name :
       {"q4_0", "q8_0", "q4_1", "mxfp4", "iq4_nl", "int3.g64", "nf4.g64", "e4m3.channel"}) {
    const Scheme scheme = *parse_scheme(name);
    const std::vector<float> w = gaussian(rows * cols);
    const auto first = round_to_nearest(MatrixView(w.data(), rows, cols), {}, scheme, pool);
    ASSERT_TRUE(first);
    const std::vector<float> on_grid = decode(*first);
    const auto second = round_to_nearest(MatrixView(on_grid.data(), rows, cols), {}, scheme, pool);
    ASSERT_TRUE(second);
    EXPECT_LT(relative_error(on_grid, *second), 1e-6) << name;
  }
}

TEST(Rounders, ShortLastGroups) {
  ThreadPool pool(1);
  constexpr std::int64_t rows = 3, cols = 100;
  const std::vector<float> w = gaussian(rows * cols);
  for (const char* name : {"int4.g64", "int8.g128.asym", "nf4.g64", "int2.g32", "e4m3.g128"}) {
    const auto tensor =
        round_to_nearest(MatrixView(w.data(), rows, cols), {}, *parse_scheme(name), pool);
    ASSERT_TRUE(tensor) << name;
    EXPECT_LT(relative_error(w, *tensor), 0.2) << name;
  }
}

TEST(Rounders, RefuseWhatTheyCannotDo) {
  ThreadPool pool(1);
  std::vector<float> w(256, 1.0f);
  w[7] = std::nanf("");
  const auto damaged =
      round_to_nearest(MatrixView(w.data(), 1, 256), {}, *parse_scheme("q4_0"), pool);
  ASSERT_FALSE(damaged);
  EXPECT_NE(damaged.error().message().find("not finite"), std::string::npos);
  w[7] = 1;
  const auto odd_groups =
      round_to_nearest(MatrixView(w.data(), 1, 256), {}, *parse_scheme("sparse_ternary.g30"), pool);
  ASSERT_FALSE(odd_groups);
  EXPECT_NE(odd_groups.error().message().find("groups of 30"), std::string::npos);
  std::vector<float> weights(255, 1.0f);
  const auto round_weighted = [&] {
    return round_to_nearest(MatrixView(w.data(), 1, 256), {weights}, *parse_scheme("q4_0"), pool);
  };
  EXPECT_FALSE(round_weighted());  // too few columns
  weights.push_back(-1.0f);
  EXPECT_FALSE(round_weighted());
  weights.back() = 0.0f;
  EXPECT_TRUE(round_weighted());
  EXPECT_FALSE(rounder_named("gptqq"));
}

// Without statistics the method weighs the error of a number w by sqrt(1 + w^2 / E[w^2]).
TEST(Rtn, FavoursLargeNumbersWithoutData) {
  constexpr std::int64_t rows = 16, cols = 256;
  constexpr std::size_t group = 128;
  std::vector<float> w = gaussian(rows * cols);
  for (float& value : w) value *= std::abs(value);  // heavy tails
  ThreadPool pool(1);
  const MatrixView view(w.data(), rows, cols);
  const auto error = [&](const QuantizedTensor& tensor, bool favours_large) {
    const std::vector<float> decoded = decode(tensor);
    double sum = 0;
    for (std::size_t first = 0; first < w.size(); first += group) {
      double mean = 0;
      for (std::size_t i = first; i < first + group; ++i) mean += std::pow(w[i], 2) / group;
      for (std::size_t i = first; i < first + group; ++i) {
        const double weight = favours_large ? std::sqrt(1 + std::pow(w[i], 2) / mean) : 1;
        sum += weight * std::pow(w[i] - decoded[i], 2);
      }
    }
    return sum;
  };
  for (const char* name : {"int3.g128", "int4.g128", "uint4.g128.asym", "int4.block128"}) {
    const Scheme scheme = *parse_scheme(name);
    const auto method = (*rounder_named("rtn"))->round(view, {}, scheme, pool);
    const auto plain = round_to_nearest(view, {}, scheme, pool);
    ASSERT_TRUE(method && plain) << name;
    EXPECT_GT(error(method->tensor, false), error(*plain, false)) << name;
    if (std::string_view(name) == "int4.block128") continue;  // its groups are 128 rows high
    EXPECT_LT(error(method->tensor, true), 0.999 * error(*plain, true)) << name;
  }
  const std::vector<float> ones(cols, 1.0f);
  const auto with_data =
      (*rounder_named("rtn"))->round(view, {.mean_square = ones}, *parse_scheme("int4.g128"), pool);
  const auto plain = round_to_nearest(view, {}, *parse_scheme("int4.g128"), pool);
  ASSERT_TRUE(with_data && plain);
  EXPECT_EQ(decode(with_data->tensor), decode(*plain));
}

TEST(GroupFit, FindsTheBestScaleOfAFineScan) {
  const Code& int3 = *parse_scheme("int3.g32")->code;
  const Levels levels(int3);
  const StoredCode f32(*parse_scheme("f32")->code);
  const StoredNumber scale(f32);
  const std::vector<float> x = gaussian(32);
  std::vector<float> weights(32);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = 1.0f + static_cast<float>(i % 3);
  const GroupData group{x, weights};
  double best = 1e30;
  for (float s = -2.0f; s < 2.0f; s += 0.001f)
    best = std::min(best, group_error(group, levels, s, 0, 0));
  EXPECT_LE(fit_scale(group, levels, scale).error, best * 1.01);
}

TEST(GroupFit, FindsTheBestZeroPointOfAFineScan) {
  const Scheme scheme = *parse_scheme("uint3.g32.asym");
  const Levels levels(*scheme.code);
  const StoredCode f32(*parse_scheme("f32")->code), zeros(*scheme.zero->code);
  std::vector<float> x = gaussian(32);
  for (float& value : x) value += 0.5f;
  double best = 1e30;
  for (const float zero : zeros.values()) {
    for (float s = 0.01f; s < 2.0f; s += 0.001f)
      best = std::min(best, group_error({x, {}}, levels, s, zero, 0));
  }
  const GroupFit fit = fit_code_zero({x, {}}, levels, StoredNumber(f32), StoredNumber(zeros));
  EXPECT_LE(fit.error, best * 1.01);
}

TEST(GroupFit, FindsTheBestOffsetOfAFineScan) {
  const Levels levels(*parse_scheme("uint3.g32.offset")->code);
  const StoredCode f32(*parse_scheme("f32")->code);
  const std::vector<float> x = gaussian(32);
  double best = 1e30;
  for (float offset = -4.0f; offset < 0.0f; offset += 0.01f) {
    for (float s = 0.1f; s < 1.5f; s += 0.002f)
      best = std::min(best, group_error({x, {}}, levels, s, 0, offset));
  }
  const StoredNumber any(f32);
  EXPECT_LE(fit_offset({x, {}}, levels, any, any, /*nonpositive=*/false).error, best * 1.01);
}

}  // namespace
}  // namespace lowbit
