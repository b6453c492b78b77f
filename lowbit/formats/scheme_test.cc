// SPDX-License-Identifier: Apache-2.0
#include "lowbit/formats/scheme.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "lowbit/formats/codes.h"

namespace lowbit {
namespace {

Scheme parsed(std::string_view text) {
  const Result<Scheme> scheme = parse_scheme(text);
  EXPECT_TRUE(scheme.has_value()) << text;
  return scheme ? *scheme : Scheme{"", &codes::named("f32")};
}

std::string error_of(std::string_view text) {
  const Result<Scheme> scheme = parse_scheme(text);
  return scheme ? "no error: " + to_string(*scheme) : scheme.error().message();
}

TEST(Scheme, NamedSchemesParseAndPrint) {
  std::set<std::string_view> names;
  for (const Scheme& scheme : named_schemes()) {
    EXPECT_TRUE(names.insert(scheme.name).second) << scheme.name;
    const Scheme again = parsed(scheme.name);
    EXPECT_EQ(again, scheme) << scheme.name;
    EXPECT_EQ(again.name, scheme.name);
    EXPECT_EQ(to_string(again), scheme.name);
  }
  for (const std::string_view name :
       {"f32",         "f16",          "bf16",       "q4_0",          "q4_1",       "q5_0",
        "q5_1",        "q8_0",         "q2_k",       "q3_k",          "q4_k",       "q5_k",
        "q6_k",        "iq1_s",        "iq1_m",      "iq2_xxs",       "iq2_xs",     "iq2_s",
        "iq3_xxs",     "iq3_s",        "iq4_nl",     "iq4_xs",        "tq1_0",      "tq2_0",
        "mxfp4",       "nvfp4",        "q1_0",       "stq1_0",        "mxfp8_e4m3", "mxfp8_e5m2",
        "mxfp8",       "mxfp6_e2m3",   "mxfp6_e3m2", "mxfp6",         "mxint8",     "nf4.g64",
        "e4m3.tensor", "e4m3.channel", "e4m3.g128",  "e4m3.block128", "int8.token", "e4m3.token",
        "int8.g256"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
  for (int bits = 2; bits <= 8; ++bits) {
    for (const std::string_view group : {"tensor", "channel", "g16", "g32", "g64", "g128"}) {
      const std::string name = "int" + std::to_string(bits) + "." + std::string(group);
      EXPECT_TRUE(names.contains(name)) << name;
      EXPECT_TRUE(names.contains(name + ".asym")) << name;
    }
  }
}

TEST(Scheme, StructureDecidesAndNamesNever) {
  EXPECT_EQ(parsed("q4_0"), parsed("int4.g32"));
  EXPECT_EQ(parsed("q4_0"), parsed("int4.g32.f16"));
  EXPECT_EQ(parsed("q4_1"), parsed("uint4.g32.offset"));
  EXPECT_EQ(parsed("q8_0"), parsed("int8.g32"));
  EXPECT_EQ(parsed("mxfp4"), parsed("e2m1.g32.e8m0"));
  EXPECT_EQ(parsed("mxfp8"), parsed("mxfp8_e4m3"));
  EXPECT_EQ(parsed("mxfp6"), parsed("mxfp6_e2m3"));
  EXPECT_EQ(parsed("tq1_0"), parsed("ternary.g256"));
  EXPECT_EQ(parsed("tq1_0"), parsed("tq2_0"));
  EXPECT_EQ(parsed("q1_0"), parsed("binary.g128"));
  EXPECT_EQ(parsed("int8.token"), parsed("int8.channel"));
  EXPECT_EQ(parsed("int8"), parsed("int8.channel"));
  EXPECT_FALSE(parsed("int4.g32") == parsed("int4.g64"));
  EXPECT_FALSE(parsed("int4.g32") == parsed("int4.g32.asym"));
  EXPECT_FALSE(parsed("int4.g32") == parsed("int4.g32.f32"));
  EXPECT_FALSE(parsed("uint4.g32.zero") == parsed("uint4.g32.offset"));
  EXPECT_FALSE(parsed("nvfp4") == parsed("e2m1.g16"));
  EXPECT_FALSE(parsed("q4_k") == parsed("q4_1"));
}

TEST(Scheme, AliasIsKeptAndElseFound) {
  EXPECT_EQ(to_string(parsed("tq2_0")), "tq2_0");
  EXPECT_EQ(to_string(parsed("int4.g32")), "int4.g32");
  EXPECT_EQ(to_string(parsed("int4.g32.f16")), "q4_0");
  EXPECT_EQ(to_string(parsed("e2m1.g32.e8m0")), "mxfp4");
  Scheme renamed = parsed("tq2_0");
  renamed.group = {1, 128};  // the alias no longer holds
  EXPECT_EQ(to_string(renamed), "ternary.g128");
}

TEST(Scheme, GrammarRoundTrips) {
  for (const std::string_view text :
       {"int4.g48", "uint3.g128.offset.bf16", "uint4.g64.zero", "int5.block64.asym.f32",
        "e5m2.channel.f32", "nf4.tensor", "int4.g128.e8m0", "e3m2.g16", "binary.g64"}) {
    EXPECT_EQ(to_string(parsed(text)), text);
    EXPECT_EQ(parsed(to_string(parsed(text))), parsed(text));
  }
}

TEST(Scheme, AnyTextIsASchemeThatPrintsOrAnError) {
  constexpr std::string_view words[] = {"int4",   "uint3",   "nf4",  "e2m1",   "f16",   "q4_k",
                                        "iq2_xs", "ternary", "g32",  "g16",    "g0",    "block",
                                        "block8", "asym",    "zero", "offset", "bf16",  "f32",
                                        "e8m0",   "",        "x",    "token",  "tensor"};
  std::mt19937 random(22);
  int n_parsed = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    std::string text(words[random() % std::size(words)]);
    while (random() % 4 != 0) {
      text += '.';
      text += words[random() % std::size(words)];
    }
    if (random() % 8 == 0 && !text.empty()) {
      text[random() % text.size()] = static_cast<char>(random());
    }
    const Result<Scheme> scheme = parse_scheme(text);
    if (!scheme) {
      EXPECT_FALSE(scheme.error().message().empty());
      continue;
    }
    ++n_parsed;
    const std::string printed = to_string(*scheme);
    const Result<Scheme> again = parse_scheme(printed);
    ASSERT_TRUE(again.has_value()) << text << " -> " << printed;
    EXPECT_EQ(*again, *scheme) << text << " -> " << printed;
  }
  EXPECT_GT(n_parsed, 1000);
}

TEST(Scheme, AsymIsAnIntegerZeroOfTheSameCode) {
  const Scheme scheme = parsed("int4.g128.asym");
  ASSERT_NE(scheme.zero, nullptr);
  EXPECT_EQ(*scheme.zero->code, codes::named("int4"));
  EXPECT_EQ(scheme.zero->scale, nullptr);
  EXPECT_EQ(scheme.zero_unit, ZeroUnit::code);
}

TEST(Scheme, ErrorsNameTheWordAndWhatWouldDo) {
  const std::string lists = " ('lowbit formats' lists all codes and schemes)";
  EXPECT_EQ(error_of("int9.g32"),
            "unknown scheme 'int9.g32': there is no code 'int9'; did you mean 'int2.g32'?" + lists);
  EXPECT_EQ(error_of("Q4_K"),
            "unknown scheme 'Q4_K': there is no code 'Q4_K'; did you mean 'q4_k'?" + lists);
  EXPECT_EQ(error_of("q4_k_m"),
            "unknown scheme 'q4_k_m': there is no code 'q4_k_m'; did you mean 'q4_k'?" + lists);
  EXPECT_EQ(error_of("mxpf4"),
            "unknown scheme 'mxpf4': there is no code 'mxpf4'; did you mean 'mxfp4'?" + lists);
  EXPECT_EQ(error_of("bananas"), "unknown scheme 'bananas': there is no code 'bananas'" + lists);
  EXPECT_EQ(error_of(""), "unknown scheme '': the name of a code is missing" + lists);
  const std::string words =
      ": after the code may stand gN, blockN, channel, token or tensor, then asym, offset or zero, "
      "then f16, bf16, f32 or e8m0";
  for (const std::string_view word :
       {"g0", "g", "g32x", "g-4", "g99999999999", "block", "row", ""}) {
    const std::string text = "int4." + std::string(word);
    EXPECT_EQ(error_of(text),
              "unknown word '" + std::string(word) + "' in scheme '" + text + "'" + words);
  }
  EXPECT_EQ(error_of("int4.g32.g64"),
            "scheme 'int4.g32.g64': 'g64' says a second time what an earlier word said; leave one "
            "of them out");
  EXPECT_EQ(error_of("nf4.g64.asym"),
            "scheme 'nf4.g64.asym': asym needs an integer code (intN, uintN), nf4 has no integer "
            "zero point; use offset");
  EXPECT_EQ(error_of("uint4.g32.offset.e8m0"),
            "scheme 'uint4.g32.offset.e8m0': a zero is stored like its scale, and e8m0 has no 0; "
            "use f16, bf16 or f32");
  EXPECT_EQ(error_of("f16.g32"),
            "scheme 'f16.g32': f16 is a plain float and takes no further words");
}

TEST(Scheme, PlainFloats) {
  EXPECT_TRUE(is_plain_float(parsed("f32")));
  EXPECT_TRUE(is_plain_float(parsed("f16")));
  EXPECT_TRUE(is_plain_float(parsed("bf16")));
  EXPECT_FALSE(is_plain_float(parsed("q8_0")));
  EXPECT_FALSE(is_plain_float(parsed("e4m3")));
}

TEST(Scheme, PlanarBitsPerWeight) {
  const auto bits = [](std::string_view text, std::int64_t rows, std::int64_t cols) {
    return planar_bits_per_weight(parsed(text), rows, cols);
  };
  EXPECT_EQ(bits("f16", 3, 5), 16);
  EXPECT_EQ(bits("q4_0", 8, 256), 4.5);
  EXPECT_EQ(bits("q4_1", 8, 256), 5);
  EXPECT_EQ(bits("q4_k", 8, 256), 4.5);
  EXPECT_EQ(bits("q6_k", 8, 256), 6.5625);
  EXPECT_EQ(bits("iq1_s", 8, 256), 1.65625);
  EXPECT_EQ(bits("mxfp4", 8, 256), 4.25);
  EXPECT_EQ(bits("stq1_0", 8, 256), 1.3125);
  EXPECT_EQ(bits("nvfp4", 1, 64), 4.5 + 32.0 / 64);
  EXPECT_EQ(bits("int8.tensor", 4, 4), 9);
  EXPECT_EQ(bits("int4.g32.asym", 1, 33), 4 + 2 * (16.0 + 4) / 33);  // a short group
}

TEST(Scheme, RequiredMultiple) {
  EXPECT_EQ(required_multiple(parsed("f16")), 1);
  EXPECT_EQ(required_multiple(parsed("int4.g128")), 1);
  EXPECT_EQ(required_multiple(parsed("int4.channel.asym")), 1);
  EXPECT_EQ(required_multiple(parsed("e4m3.block128")), 1);
  EXPECT_EQ(required_multiple(parsed("mxfp4")), 32);
  EXPECT_EQ(required_multiple(parsed("nvfp4")), 16);
  EXPECT_EQ(required_multiple(parsed("stq1_0")), 4);
  for (const std::string_view name : {"q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq1_s", "iq1_m",
                                      "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"}) {
    EXPECT_EQ(required_multiple(parsed(name)), 256) << name;
  }
}

}  // namespace
}  // namespace lowbit
