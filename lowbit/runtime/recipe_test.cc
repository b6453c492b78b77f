// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/recipe.h"

#include <gtest/gtest.h>

namespace lowbit {
namespace {

TEST(Recipe, PartsInAnyOrder) {
  auto recipe = parse_recipe("kv=int8.token,w=rtn:int4.g32,a=int8.token");
  ASSERT_TRUE(recipe) << recipe.error().message();
  EXPECT_EQ(recipe->weights, "rtn:int4.g32");
  EXPECT_EQ(recipe->activations, Activations::int8_token);
  EXPECT_EQ(recipe->kv, KvKind::int8_token);
  EXPECT_EQ(split_weight_recipe(*recipe->weights).method, "rtn");
  EXPECT_EQ(split_weight_recipe(*recipe->weights).scheme, "int4.g32");
}

TEST(Recipe, BareMeansWeights) {
  auto recipe = parse_recipe("q8_0,a=f32");
  ASSERT_TRUE(recipe) << recipe.error().message();
  EXPECT_EQ(recipe->weights, "q8_0");
  EXPECT_EQ(split_weight_recipe(*recipe->weights).method, "");
  EXPECT_EQ(recipe->activations, Activations::f32);
  EXPECT_EQ(recipe->kv, KvKind::f16);
}

TEST(Recipe, TextRoundTrips) {
  for (std::string_view text :
       {"kv=f16", "kv=f32", "a=int8.g32,kv=f16", "w=hqq:int3.g64,kv=f16",
        "w=mxfp4,a=int8.g256,kv=int8.token", "kv=int4.g64", "kv=e4m3.token"}) {
    auto recipe = parse_recipe(text);
    ASSERT_TRUE(recipe) << recipe.error().message();
    EXPECT_EQ(to_string(*recipe), text);
  }
  ASSERT_TRUE(parse_recipe(""));
  EXPECT_EQ(to_string(*parse_recipe("")), "kv=f16");
}

TEST(Recipe, ErrorsNameTheWord) {
  const auto message = [](std::string_view text) {
    auto recipe = parse_recipe(text);
    return recipe ? std::string("no error") : recipe.error().message();
  };
  EXPECT_NE(message("a=int9").find("int8.token"), std::string::npos) << message("a=int9");
  EXPECT_NE(message("kv=q4").find("kv=q4"), std::string::npos) << message("kv=q4");
  EXPECT_NE(message("q=int4").find("'q'"), std::string::npos) << message("q=int4");
  EXPECT_NE(message("a=f32,a=f32").find("twice"), std::string::npos);
  EXPECT_NE(message("int4,w=int8").find("twice"), std::string::npos);
  EXPECT_NE(message("w=").find("no value"), std::string::npos);
  EXPECT_NE(message("w=int4.g32,").find("empty"), std::string::npos);
  EXPECT_NE(message(",").find("empty"), std::string::npos);
  EXPECT_NE(message("w=rtn:int4.g0x").find("rtn:int4.g0x"), std::string::npos);
}

}  // namespace
}  // namespace lowbit
