// SPDX-License-Identifier: Apache-2.0
// Codes learned for one tensor: what learning gains on sources whose best table is known, who owns
// the table, and that nothing but the data decides it.
#include <gtest/gtest.h>

#include <cmath>

#include "lowbit/formats/codes.h"
#include "lowbit/formats/learned_code.h"
#include "lowbit/quant/codebook.h"
#include "lowbit/quant/rounder.h"
#include "lowbit/quant/test_matrices.h"

namespace lowbit {
namespace {

TEST(LearnedCode, ReachesTheBestTableOfAGaussian) {
  // One scale for the whole matrix: the table is all that can adapt. Lloyd and Max: the least
  // relative error of 4, 8 and 16 levels for N(0, 1). A table in the plane is no worse than the
  // product of two, and at any rate no better than by the ratio of Zador's constants, 2.02 / 2.72.
  ThreadPool pool(2);
  constexpr std::int64_t rows = 128, cols = 256;
  const std::vector<float> w = gaussian(rows * cols, 0.02f);
  const MatrixView view(w.data(), rows, cols);
  for (const auto& [name, best] : {std::pair{"lut2.tensor", 0.1175},
                                   {"lut3.tensor", 0.03454},
                                   {"lut4.tensor", 0.009497},
                                   {"vq4x2.tensor", 0.1175},
                                   {"vq6x2.tensor", 0.03454}}) {
    const auto tensor = round_to_nearest(view, {}, *parse_scheme(name), pool);
    ASSERT_TRUE(tensor) << name << ": " << tensor.error().message();
    // int8 values and a sample of the matrix.
    EXPECT_LE(relative_error(w, *tensor), best * 1.04) << name;
    const double least = parse_scheme(name)->code->dim == 1 ? 0.96 : 0.74;
    EXPECT_GE(relative_error(w, *tensor), best * least) << name;
  }
}

TEST(LearnedCode, BeatsTheTableItStartsFrom) {
  ThreadPool pool(2);
  constexpr std::int64_t rows = 64, cols = 512;
  const std::vector<float> w = gaussian(rows * cols, 0.02f);
  const MatrixView view(w.data(), rows, cols);
  std::vector<float> weights(cols);
  for (std::size_t i = 0; i < weights.size(); ++i)
    weights[i] = i % 10 == 0 ? 20.0f : 0.5f + static_cast<float>(i % 3);
  const InputStats stats{weights};
  for (const Code& family : codes::list) {
    if (!family.is_learned) continue;
    Scheme scheme = *parse_scheme(std::string(family.name) + ".g64");
    const auto learned = round_to_nearest(view, stats, scheme, pool);
    ASSERT_TRUE(learned) << family.name << ": " << learned.error().message();
    scheme.code = LearnedCode::make(family, family.values);
    const auto start = round_to_nearest(view, stats, scheme, pool);
    ASSERT_TRUE(start);
    EXPECT_LT(weighted_error(view, stats, *learned), weighted_error(view, stats, *start))
        << family.name;
    EXPECT_TRUE(same_but_for_tables(learned->scheme, start->scheme));
    EXPECT_FALSE(learned->scheme == start->scheme);
    EXPECT_EQ(to_string(learned->scheme), std::string(family.name) + ".g64");
  }
}

TEST(LearnedCode, IsTheSameForAnyNumberOfThreads) {
  constexpr std::int64_t rows = 40, cols = 320;
  const std::vector<float> w = gaussian(rows * cols, 0.02f);
  const MatrixView view(w.data(), rows, cols);
  ThreadPool one(1), three(3);
  for (const char* name : {"lut3.g64", "vq6x2.g64", "vq8x4.g32"}) {
    const auto a = with_learned_table(view, {}, *parse_scheme(name), one);
    const auto b = with_learned_table(view, {}, *parse_scheme(name), three);
    ASSERT_TRUE(a && b);
    EXPECT_TRUE(*a == *b) << name;
  }
}

TEST(LearnedCode, LivesAsLongAsASchemePointsToIt) {
  const Code& family = codes::named("lut2");
  const std::vector<float> values{-127, -10, 3, 99};
  Scheme copy;
  {
    Scheme scheme = *parse_scheme("lut2.g64");
    scheme.code = LearnedCode::make(family, values);
    QuantizedTensor tensor(scheme, 2, 64);
    scheme = *parse_scheme("q8_0");
    QuantizedTensor moved = std::move(tensor);
    copy = moved.clone().scheme;
  }
  EXPECT_EQ(std::vector<float>(copy.code->values.begin(), copy.code->values.end()), values);
  const Scheme* itself = &copy;
  copy = *itself;
  EXPECT_EQ(copy.code->values[3], 99);
}

TEST(LearnedCode, ItsTableGoesThroughText) {
  Scheme scheme = *parse_scheme("lut2.g64");
  EXPECT_EQ(text_with_table(scheme), "lut2.g64");
  scheme.code = LearnedCode::make(codes::named("lut2"), std::vector<float>{-127, -1, 0, 127});
  const std::string text = text_with_table(scheme);
  EXPECT_EQ(text, "lut2.g64#81ff007f");
  const auto back = parse_scheme_with_table(text);
  ASSERT_TRUE(back);
  EXPECT_TRUE(*back == scheme);
  for (const char* broken : {"lut2.g64#81ff00", "lut2.g64#81ff007f00", "lut2.g64#80ff007f",
                             "lut2.g64#81ff00zz", "q8_0#81ff007f", "lut2.g64#"}) {
    EXPECT_FALSE(parse_scheme_with_table(broken)) << broken;
  }
}

TEST(LearnedCode, RefusesZerosAndTwoLevels) {
  ThreadPool pool(1);
  const std::vector<float> w = gaussian(256, 0.02f);
  const auto offset =
      round_to_nearest(MatrixView(w.data(), 1, 256), {}, *parse_scheme("lut4.g64.offset"), pool);
  ASSERT_FALSE(offset);
  EXPECT_NE(offset.error().message().find("without zeros"), std::string::npos);
  const auto odd =
      round_to_nearest(MatrixView(w.data(), 1, 255), {}, *parse_scheme("vq6x2.channel"), pool);
  ASSERT_FALSE(odd);
}

}  // namespace
}  // namespace lowbit
