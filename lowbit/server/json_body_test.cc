// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/json_body.h"

#include <gtest/gtest.h>

#include <string>

namespace lowbit {
namespace {

std::string problem_of(std::string_view text, const JsonLimits& limits = {}) {
  const auto json = parse_json(text, limits);
  return json ? "" : json.error().message();
}

TEST(JsonBody, ReadsWhatTheParserOfTheLibraryReads) {
  const std::string texts[] = {R"({"z": [1, -2, 3.5, 18446744073709551615], "a": {"b": null}})",
                               R"([[], {}, [[]], "", "\u00e9\ud83d\ude00", true, false])",
                               R"("alone")",
                               "7",
                               "null",
                               R"({"": {"": []}})"};
  for (const std::string& text : texts) {
    const auto json = parse_json(text);
    ASSERT_TRUE(json) << text;
    EXPECT_EQ(*json, Json::parse(text));
    EXPECT_EQ(dump(*json), Json::parse(text).dump());  // the order of keys too
  }
}

TEST(JsonBody, LimitsNesting) {
  const JsonLimits limits{.depth = 3};
  EXPECT_EQ(problem_of("[[[]]]", limits), "");
  EXPECT_EQ(problem_of("[[[[]]]]", limits), "JSON nested more than 3 levels deep");
  EXPECT_EQ(problem_of(R"({"a":{"a":{"a":{}}}})", limits), "JSON nested more than 3 levels deep");
  constexpr std::size_t n_levels = 1000000;
  EXPECT_NE(problem_of(std::string(n_levels, '[')), "");
}

TEST(JsonBody, LimitsValues) {
  const JsonLimits limits{.n_values = 4};
  EXPECT_EQ(problem_of("[1,2,3]", limits), "");
  EXPECT_EQ(problem_of("[1,2,3,4]", limits), "more than 4 values in one JSON text");
}

TEST(JsonBody, RefusesKeysThatOccurTwice) {
  EXPECT_EQ(problem_of(R"({"a": 1, "b": {"a": 2}})"), "");
  EXPECT_EQ(problem_of(R"([{"b": {"a": 1, "c": [], "a": 2}}])"),
            "the key 'a' occurs twice in one object");
}

TEST(JsonBody, SaysWhereItIsBroken) {
  for (const std::string_view text :
       {"", "{", "{\"a\":}", "[1,]", "NaN", "[1e999]", "[Infinity]", "\"\xff\"", "\"\xc0\xaf\"",
        "\"\xed\xa0\x80\"", "[1] 2", "\"\n\"", "'a'", "[01]"}) {
    EXPECT_NE(problem_of(text), "") << text;
  }
  EXPECT_EQ(problem_of("[1 2]").substr(0, 24), "broken JSON at byte 4: s");
}

TEST(JsonBody, ManyKeysTakeLinearTime) {
  // Quadratic time would be minutes here.
  constexpr int n_keys = 200000;
  std::string text = "{";
  for (int i = 0; i < n_keys; ++i) text += "\"k" + std::to_string(i) + "\":0,";
  text.back() = '}';
  const auto json = parse_json(text);
  ASSERT_TRUE(json);
  EXPECT_EQ(json->size(), static_cast<std::size_t>(n_keys));
}

TEST(JsonBody, DumpsInvalidTextAsReplacements) {
  EXPECT_EQ(dump(Json("a\xff")), "\"a\xef\xbf\xbd\"");
}

}  // namespace
}  // namespace lowbit
