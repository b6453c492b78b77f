// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/plan_tensors.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>

#include "lowbit/compress/llama_mixes.h"
#include "lowbit/formats/learned_code.h"
#include "lowbit/model/tensor_names.h"

namespace lowbit {
namespace {

constexpr std::string_view keep_word = "keep", llama_word = "llama", plain_method = "rtn";

bool matches(const Rule& rule, const ModelTensor& tensor) {
  return fnmatch(rule.pattern.c_str(), tensor.name.c_str(), 0) == 0 ||
         fnmatch(rule.pattern.c_str(), tensor.stored_name.c_str(), 0) == 0;
}

/// What is tried, in this order, for a tensor that `wanted` does not fit.
std::vector<TensorRecipe> fallbacks_of(const FallbackChoice& choice, bool is_mix,
                                       const TensorRecipe& wanted) {
  if (choice.recipe) return {*choice.recipe};
  std::vector<TensorRecipe> candidates;
  if (!choice.llama_table && !is_mix) return candidates;
  TensorRecipe next = wanted;
  while (auto scheme = llama_fallback(next.scheme)) {
    next.scheme = *scheme;
    // Nothing is left to choose in a plain float.
    if (is_plain_float(next.scheme)) next.rounder = *rounder_named(plain_method);
    candidates.push_back(next);
  }
  return candidates;
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

void add_plain_ends(const ModelFile& model, std::vector<Rule>& rules) {
  for (const ModelTensor& tensor : model.tensors()) {
    const bool is_end = tensor.is_matrix() && role_of(tensor.name).empty();
    if (!is_end || rule_for(rules, tensor) != nullptr) continue;
    Rule rule{.pattern = tensor.name, .recipe = {}};
    if (!is_plain_float(tensor.scheme)) {
      rule.recipe = TensorRecipe{*rounder_named(plain_method), *parse_scheme("f16")};
    }
    rules.push_back(std::move(rule));
  }
}

Result<FallbackChoice> parse_fallback(std::string_view text) {
  if (text == llama_word) return FallbackChoice{.recipe = {}, .llama_table = true};
  auto recipe = parse_tensor_recipe(text);
  if (!recipe) return std::move(recipe).error();
  if (Status status = check_no_transforms(*recipe, "--fallback"); !status) {
    return std::move(status).error();
  }
  return FallbackChoice{.recipe = *recipe};
}

Result<ModelPlan> plan_tensors(const ModelFile& model, const std::optional<TensorRecipe>& recipe,
                               const std::vector<Rule>& rules, const FallbackChoice& fallback,
                               const std::function<Status(const Scheme&, const ModelTensor&)>& fits,
                               bool calibrated) {
  ModelPlan plan;
  std::int64_t n_blind = 0;  // matrices that llama-quantize would not make without an imatrix
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
    const LlamaMix* mix = entry.recipe ? entry.recipe->mix : nullptr;
    if (mix != nullptr) {
      entry.recipe->scheme =
          llama_mix_scheme(*mix, model.config(), tensor.name, tensor.cols(), calibrated);
      entry.recipe->mix = nullptr;
    }
    if (entry.recipe) entry.scheme = entry.recipe->scheme;
    if (Status status = fits(entry.scheme, tensor); !status) {
      if (!tensor.is_matrix()) return std::move(status).error().in(tensor.name);
      const std::vector<TensorRecipe> candidates = fallbacks_of(
          fallback, mix != nullptr,
          entry.recipe.value_or(TensorRecipe{*rounder_named(plain_method), entry.scheme}));
      const auto second = std::ranges::find_if(candidates, [&](const TensorRecipe& candidate) {
        return fits(candidate.scheme, tensor).has_value();
      });
      if (second == candidates.end()) {
        Error error = std::move(status).error().in(tensor.name);
        if (candidates.empty()) return error;
        return Error(error.message() + "; the fallback does not fit either");
      }
      plan.fallbacks.push_back({tensor.name, to_string(entry.scheme), to_string(second->scheme),
                                status.error().message()});
      entry.recipe = *second;
      entry.scheme = second->scheme;
    }
    if (mix != nullptr && !calibrated && llama_wants_imatrix(*mix, entry.scheme, tensor.name)) {
      ++n_blind;
    }
    // A tensor that already is in its scheme would only lose by being rounded again, where no
    // transform changes its numbers.
    const bool is_transformed = recipe && !recipe->transforms.empty();
    if (entry.recipe && same_but_for_tables(entry.scheme, tensor.scheme) && !is_transformed) {
      entry.recipe.reset();
    }
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
  if (n_blind != 0) {
    plan.notes.push_back(fmt::format(
        "{} matrices get about two bits without knowing their inputs; llama-quantize refuses that: "
        "give --imatrix FILE, or --calibration",
        n_blind));
  }
  return plan;
}

std::vector<OutputTensor> outputs_of(const ModelPlan& plan, const TensorSource* transformed) {
  static const Scheme f32 = *parse_scheme("f32");
  std::vector<OutputTensor> outputs;
  for (const TensorPlan& entry : plan.tensors) {
    const bool is_float = transformed != nullptr && !entry.tensor->is_matrix();
    outputs.push_back(
        {entry.tensor, is_float ? f32 : entry.scheme,
         transformed != nullptr ? transformed->input(entry.tensor->name) : entry.tensor->input});
  }
  return outputs;
}

}  // namespace lowbit
