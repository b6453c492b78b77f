// SPDX-License-Identifier: Apache-2.0
#include "lowbit/formats/describe.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "lowbit/formats/codes.h"

namespace lowbit {
namespace {

/// Bits per weight that are not those of the planar form, for one scheme only.
const Container small_container{"small", [](const Scheme& scheme) -> std::optional<double> {
                                  if (scheme.name != "iq1_s") return std::nullopt;
                                  return 1.5625;
                                }};
const Container planar_container{"planar", [](const Scheme& scheme) -> std::optional<double> {
                                   return planar_bits_per_weight(scheme, 4096, 4096);
                                 }};

bool has_line(const std::string& page, std::string_view line) {
  return page.find(fmt::format("\n{}\n", line)) != std::string::npos;
}

TEST(Describe, EveryCodeAndSchemeHasARow) {
  const std::vector<CodeFacts> codes = describe_codes();
  ASSERT_EQ(codes.size(), codes::list.size());
  const std::vector<SchemeFacts> schemes = describe_schemes({});
  ASSERT_EQ(schemes.size(), named_schemes().size());
  const std::string page = formats_markdown({});
  for (const CodeFacts& code : codes) {
    EXPECT_NE(page.find(fmt::format("\n| {} |", code.name)), std::string::npos) << code.name;
  }
  for (const SchemeFacts& scheme : schemes) {
    EXPECT_NE(page.find(fmt::format("\n| {} |", scheme.name)), std::string::npos) << scheme.name;
  }
}

TEST(Describe, RowsSayWhatTheListsSay) {
  const std::vector<Container> containers{small_container, planar_container};
  const std::string page = formats_markdown(containers);
  for (const std::string_view line : {
           "| int4 | 4 | 1 | -8 | 7 | 1 |",
           "| e4m3 | 8 | 1 | -448 | 448 | - |",
           "| e2m1 | 4 | 1 | -6 | 6 | 0.5 |",
           "| e8m0 | 8 | 1 | 5.87747e-39 | 1.70141e+38 | - |",
           "| sparse_ternary | 1.25 | 4 | -1 | 1 | 1 |",
           "| iq2_xxs | 2 | 8 | -43 | 43 | 1 |",
           "| f16 | 16 | 1 | -65504 | 65504 | - |",
           "| bf16 | 16 | 1 | -3.38953e+38 | 3.38953e+38 | - |",
           "| q4_0 | int4 | 32 | f16 | - | 4.5 | planar |",
           "| q4_1 | uint4 | 32 | f16 | f16, offset | 5 | planar |",
           "| q4_k | uint4 | 32 | uint6 per 8 under f16 | uint6 per 8 under f16, offset | 4.5 | "
           "planar |",
           "| iq1_s | iq1 | 32 | odd3 per 8 under f16 | - | 1.5625 | small, planar 1.65625 |",
           "| nvfp4 | e2m1 | 16 | ue4m3 per tensor under f32 | - | 4.5 | planar |",
           "| int4.g128.asym | int4 | 128 | f16 | int4 | 4.15625 | planar |",
           "| e4m3.block128 | e4m3 | 128 x 128 | f16 | - | 8.00098 | planar |",
           "| int8.tensor | int8 | tensor | f16 | - | 8 | planar |",
           "| f32 | f32 | - | - | - | 32 | planar |",
       }) {
    EXPECT_TRUE(has_line(page, line)) << line;
  }
}

}  // namespace
}  // namespace lowbit
