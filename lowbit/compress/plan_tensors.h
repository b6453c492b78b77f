// SPDX-License-Identifier: Apache-2.0
// Which method and scheme every tensor of a model gets: one recipe for all matrices, rules for
// those that want another, a fallback where a scheme does not fit. Decided before anything is
// written, so that a request that cannot be met fails at once.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/compress/tensor_recipe.h"
#include "lowbit/model/model_file.h"
#include "lowbit/model/model_writer.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

/// The first rule whose pattern matches a tensor's name decides. A pattern is a shell pattern (* ?
/// [abc]) over the whole name, canonical or as stored. No recipe means: keep the tensor as it is.
struct Rule {
  std::string pattern;
  std::optional<TensorRecipe> recipe;
};
/// PATTERN=RECIPE or PATTERN=keep. A rule has no transforms: they are the whole model's.
Result<Rule> parse_rule(std::string_view text);

/// The first rule whose pattern matches the tensor, or null.
const Rule* rule_for(const std::vector<Rule>& rules, const ModelTensor& tensor);

/// Behind the caller's rules, those that leave embedding and head in plain floats: for conventions
/// that know them in no other form.
void add_plain_ends(const ModelFile& model, std::vector<Rule>& rules);

/// What a tensor gets that its scheme does not fit: another recipe, or what llama.cpp's table says.
struct FallbackChoice {
  std::optional<TensorRecipe> recipe = {};
  bool llama_table = false;  // a mix implies it where there is no recipe
};
/// "llama" or a recipe for single tensors.
Result<FallbackChoice> parse_fallback(std::string_view text);

struct Fallback {
  std::string tensor, wanted, used, reason;
};

struct TensorPlan {
  const ModelTensor* tensor = nullptr;
  std::optional<TensorRecipe> recipe;  // nothing: as stored
  Scheme scheme;                       // of the result
};

struct ModelPlan {
  std::vector<TensorPlan> tensors;  // in the order of the model
  std::vector<Fallback> fallbacks;
  std::vector<std::string> notes;  // what people should know about the choice
};

/// fits: whether the place where the tensor goes can hold it in this scheme. Vectors (norms,
/// biases) are kept. calibrated: something will be known about the inputs, which llama.cpp's mixes
/// ask. Errors: a scheme that does not fit and no fallback that does, a rule that matches no
/// tensor.
Result<ModelPlan> plan_tensors(const ModelFile& model, const std::optional<TensorRecipe>& recipe,
                               const std::vector<Rule>& rules, const FallbackChoice& fallback,
                               const std::function<Status(const Scheme&, const ModelTensor&)>& fits,
                               bool calibrated = false);

/// What a plan writes. transformed: the model behind the recipe's transforms, whose vectors are f32
/// and whose matrices may have bases; null: as stored.
std::vector<OutputTensor> outputs_of(const ModelPlan& plan, const TensorSource* transformed);

}  // namespace lowbit
