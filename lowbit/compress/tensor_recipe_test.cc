// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/tensor_recipe.h"

#include <gtest/gtest.h>

#include "lowbit/compress/plan_tensors.h"

namespace lowbit {
namespace {

std::string error_of(std::string_view text) {
  const auto recipe = parse_tensor_recipe(text);
  return recipe ? "no error" : recipe.error().message();
}

TEST(TensorRecipe, ReadsEveryForm) {
  struct Row {
    std::string_view text, full;
  };
  for (const Row row :
       {Row{"int4.g128", "rtn:int4.g128"}, Row{"rtn-absmax:q8_0", "rtn-absmax:q8_0"},
        Row{"awq:int4.g128", "awq+rtn:int4.g128"}, Row{"hadamard+rtn:mxfp4", "hadamard+rtn:mxfp4"},
        Row{"smoothquant+rtn:int8.channel", "smoothquant+rtn:int8.channel"},
        Row{"hadamard+awq+rtn:int3.g64", "hadamard+awq+rtn:int3.g64"}}) {
    const auto recipe = parse_tensor_recipe(row.text);
    ASSERT_TRUE(recipe) << recipe.error().message();
    EXPECT_EQ(to_string(*recipe), to_string(*parse_tensor_recipe(row.full)));
    EXPECT_EQ(to_string(*recipe), row.full);
  }
}

TEST(TensorRecipe, EveryNameOfTheListsCanBeWritten) {
  for (const Rounder& rounder : rounder_list()) {
    for (const Transform& transform : transform_list()) {
      const std::string text =
          std::string(transform.name) + "+" + std::string(rounder.name) + ":int8.g32";
      const auto recipe = parse_tensor_recipe(text);
      ASSERT_TRUE(recipe) << recipe.error().message();
      EXPECT_EQ(recipe->rounder, &rounder);
      ASSERT_EQ(recipe->transforms.size(), 1u);
      EXPECT_EQ(recipe->transforms[0], &transform);
    }
  }
}

TEST(TensorRecipe, SaysWhichNameWasMeant) {
  EXPECT_NE(error_of("hadamrd+rtn:mxfp4").find("did you mean 'hadamard'?"), std::string::npos);
  EXPECT_NE(error_of("rtm:mxfp4").find("did you mean 'rtn'?"), std::string::npos);
  EXPECT_NE(error_of("rtn:mxfp").find("did you mean 'mxfp4'?"), std::string::npos);
  EXPECT_NE(error_of("photosynthesis:int4").find("methods are rtn"), std::string::npos);
  EXPECT_NE(error_of("+rtn:int4").find("no method or transform ''"), std::string::npos);
}

TEST(TensorRecipe, SaysWhatIsPossibleInstead) {
  EXPECT_NE(error_of("rtn+hadamard:mxfp4").find("'hadamard+rtn:...'"), std::string::npos);
  EXPECT_NE(error_of("awq+hadamard:int4").find("write 'hadamard+awq+rtn:int4"), std::string::npos);
  EXPECT_NE(error_of("awq+smoothquant:int4").find("write 'awq+rtn:int4"), std::string::npos);
  EXPECT_NE(error_of("hadamard-folded+hadamard:int4").find("write 'hadamard-folded+rtn:int4"),
            std::string::npos);
  EXPECT_NE(error_of("hadamard+hadamard:int4").find("write 'hadamard+rtn:int4"), std::string::npos);
  EXPECT_NE(error_of("rtn+rtn-absmax:int4").find("only one"), std::string::npos);
  EXPECT_NE(error_of("hadamard+int4.g32").find("'hadamard:int4.g32'"), std::string::npos);
  EXPECT_NE(error_of("awq").find("the scheme is missing"), std::string::npos);
}

TEST(TensorRecipe, TakesAMixForAScheme) {
  for (const std::string_view text : {"Q4_K_M", "q4_k_m", "rtn:Q4_K_M", "Q4_K"}) {
    const auto recipe = parse_tensor_recipe(text);
    ASSERT_TRUE(recipe) << recipe.error().message();
    EXPECT_EQ(to_string(*recipe), "rtn:Q4_K_M");
  }
  // Small letters are the scheme where there is one of that name.
  EXPECT_EQ(parse_tensor_recipe("q4_0")->mix, nullptr);
  EXPECT_NE(parse_tensor_recipe("Q4_0")->mix, nullptr);
  EXPECT_NE(error_of("q4_k_n").find("did you mean 'Q4_K_"), std::string::npos);
  EXPECT_NE(error_of("IQ3_XL").find("did you mean 'IQ3_X"), std::string::npos);
  const auto rule = parse_rule("*.v_proj.weight=Q4_K_M");
  ASSERT_FALSE(rule);
  EXPECT_NE(rule.error().message().find("write 'rtn:q4_k' there"), std::string::npos);
}

TEST(TensorRecipe, RulesHaveNoTransforms) {
  const auto rule = parse_rule("*.v_proj.weight=hadamard+rtn:q8_0");
  ASSERT_FALSE(rule);
  EXPECT_NE(rule.error().message().find("write 'rtn:q8_0' there"), std::string::npos);
}

}  // namespace
}  // namespace lowbit
