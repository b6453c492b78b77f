// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/plan_tensors.h"

#include <fmt/format.h>
#include <fnmatch.h>

namespace lowbit {
namespace {

constexpr std::string_view keep_word = "keep";

bool matches(const Rule& rule, const ModelTensor& tensor) {
  return fnmatch(rule.pattern.c_str(), tensor.name.c_str(), 0) == 0 ||
         fnmatch(rule.pattern.c_str(), tensor.stored_name.c_str(), 0) == 0;
}

}  // namespace

Result<Rule> parse_rule(std::string_view text) {
  const std::size_t equals = text.rfind('=');
  if (equals == std::string_view::npos || equals == 0 || equals + 1 == text.size()) {
    return Error(
        fmt::format("rule \"{}\" is not PATTERN=SCHEME, for example '*.v_proj.weight=q8_0'", text));
  }
  Rule rule{.pattern = std::string(text.substr(0, equals)), .recipe = {}};
  const std::string_view value = text.substr(equals + 1);
  if (value == keep_word) return rule;
  auto recipe = parse_tensor_recipe(value);
  if (!recipe) return std::move(recipe).error().in(fmt::format("rule \"{}\"", text));
  if (Status status = check_no_transforms(*recipe, "a rule"); !status) {
    return std::move(status).error().in(fmt::format("rule \"{}\"", text));
  }
  rule.recipe = *recipe;
  return rule;
}

const Rule* rule_for(const std::vector<Rule>& rules, const ModelTensor& tensor) {
  for (const Rule& rule : rules) {
    if (matches(rule, tensor)) return &rule;
  }
  return nullptr;
}

Result<ModelPlan> plan_tensors(
    const ModelFile& model, const std::optional<TensorRecipe>& recipe,
    const std::vector<Rule>& rules, const std::optional<TensorRecipe>& fallback,
    const std::function<Status(const Scheme&, const ModelTensor&)>& fits) {
  ModelPlan plan;
  std::vector<bool> rule_used(rules.size(), false);
  for (const ModelTensor& tensor : model.tensors()) {
    TensorPlan entry{.tensor = &tensor, .recipe = {}, .scheme = tensor.scheme};
    if (tensor.is_matrix()) {
      entry.recipe = recipe;
      for (std::size_t i = 0; i < rules.size(); ++i) {
        if (!matches(rules[i], tensor)) continue;
        entry.recipe = rules[i].recipe;
        rule_used[i] = true;
        break;
      }
    }
    if (entry.recipe) entry.scheme = entry.recipe->scheme;
    if (Status status = fits(entry.scheme, tensor); !status) {
      if (!fallback || !tensor.is_matrix()) return std::move(status).error().in(tensor.name);
      if (Status second = fits(fallback->scheme, tensor); !second) {
        return std::move(second).error().in(
            fmt::format("{}: the fallback does not fit either", tensor.name));
      }
      plan.fallbacks.push_back({tensor.name, to_string(entry.scheme), to_string(fallback->scheme),
                                status.error().message()});
      entry.recipe = fallback;
      entry.scheme = fallback->scheme;
    }
    // A tensor that already is in its scheme would only lose by being rounded again.
    if (entry.recipe && entry.scheme == tensor.scheme) entry.recipe.reset();
    plan.tensors.push_back(std::move(entry));
  }
  for (std::size_t i = 0; i < rules.size(); ++i) {
    if (!rule_used[i]) {
      return Error(
          fmt::format("rule \"{}\" matches no matrix of the model or comes after one that does; "
                      "`lowbit inspect` lists the names",
                      rules[i].pattern));
    }
  }
  return plan;
}

}  // namespace lowbit
