// SPDX-License-Identifier: Apache-2.0
// What a recipe says in words: [TRANSFORM+]...[METHOD:]SCHEME. The transforms make the matrices
// easier to round, the method (a rounder) chooses codes, the scheme says what they mean:
//   int4.g128     gptq:int4.g128     hadamard+gptq:mxfp4     smoothquant+rtn:int8.channel
//   awq:int4.g128, which is awq+rtn:int4.g128
// In place of a scheme may stand one of llama.cpp's mixes: gptq:Q4_K_M.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/quant/rounder.h"
#include "lowbit/quant/transform.h"

namespace lowbit {

struct LlamaMix;

struct TensorRecipe {
  const Rounder* rounder = nullptr;
  Scheme scheme;                                  // with a mix, of most matrices
  std::vector<const Transform*> transforms = {};  // of the whole model, in order
  const LlamaMix* mix = nullptr;  // chooses the scheme of every matrix; plan_tensors asks it
};
/// Errors: a word or a scheme that does not exist, with the one that is nearest; words in an order
/// or a combination that cannot be, with what can.
Result<TensorRecipe> parse_tensor_recipe(std::string_view text);
/// The recipe in full, as parse_tensor_recipe reads it: "awq+rtn:int4.g128".
std::string to_string(const TensorRecipe& recipe);

/// An error where the recipe has transforms or is a mix: for places that give a recipe to single
/// tensors.
Status check_no_transforms(const TensorRecipe& recipe, std::string_view place);

/// All methods and transforms, a few lines for --help.
std::string recipe_help();

}  // namespace lowbit
