// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/constraint_cache.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lowbit/grammar/synthetic_vocabulary.h"

namespace lowbit {
namespace {

using Json = nlohmann::ordered_json;

ConstraintCache small_cache() {
  std::vector<std::string> tokens = synthetic_vocabulary(400);
  return ConstraintCache(*TokenVocabulary::create(std::move(tokens), {399}), 2);
}

TEST(ConstraintCache, compiles_a_schema_once) {
  ConstraintCache cache = small_cache();
  const Json number = Json::parse(R"({"type": "integer"})");
  ASSERT_TRUE(cache.json_schema(number));
  ASSERT_TRUE(cache.json_schema(number));
  EXPECT_EQ(cache.n_schemas(), 1u);
  ASSERT_TRUE(cache.json_object());
  const ToolDefinition tool{"f", &number};
  // An integer is no object of arguments.
  EXPECT_FALSE(cache.tool_calls({&tool, 1}, true, true));
  EXPECT_EQ(cache.n_schemas(), 2u);
}

TEST(ConstraintCache, forgets_the_oldest_but_not_who_follows_it) {
  ConstraintCache cache = small_cache();
  auto first = cache.json_schema(Json::parse(R"({"const": 12})"));
  ASSERT_TRUE(first);
  for (const char* schema : {R"({"const": 1})", R"({"const": 2})", R"({"const": 3})"}) {
    ASSERT_TRUE(cache.json_schema(Json::parse(schema)));
  }
  EXPECT_EQ(cache.n_schemas(), 2u);
  (*first)->accept('1');
  EXPECT_FALSE((*first)->is_complete());
  (*first)->accept('2');
  EXPECT_TRUE((*first)->is_complete());
}

TEST(ConstraintCache, refuses_before_it_recurses) {
  ConstraintCache cache = small_cache();
  Json deep = Json::object();
  for (int i = 0; i < 300; ++i) deep = Json::object({{"items", std::move(deep)}});
  auto refused = cache.json_schema(deep);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message(), "the schema is nested deeper than 128 levels");
  EXPECT_EQ(cache.json_schema(Json::parse(R"({"not": {}})")).error().message(),
            "the keyword \"not\" at # is not supported");
  EXPECT_EQ(cache.n_schemas(), 0u);
}

}  // namespace
}  // namespace lowbit
