// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/recipe.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "lowbit/formats/scheme.h"

namespace lowbit {
namespace {

constexpr std::array all_activations{Activations::f32, Activations::int8_g32,
                                     Activations::int8_g256, Activations::int8_token};

Error unknown_value(std::string_view key, std::string_view value, std::string_view known) {
  return Error(fmt::format("{}={} is not known; {} can be {}", key, value, key, known));
}

Result<Activations> parse_activations(std::string_view text) {
  std::vector<std::string_view> known;
  for (const Activations activations : all_activations) {
    if (text == name_of(activations)) return activations;
    known.push_back(name_of(activations));
  }
  return unknown_value("a", text, fmt::format("{}", fmt::join(known, ", ")));
}

Status parse_part(std::string_view part, Recipe& recipe, std::string& seen) {
  const std::size_t equals = part.find('=');
  const std::string_view key = equals == part.npos ? "w" : part.substr(0, equals);
  const std::string_view value = equals == part.npos ? part : part.substr(equals + 1);
  if (key != "w" && key != "a" && key != "kv") {
    return Error(fmt::format("'{}' is not a part of a recipe; it has w=, a= and kv=", key));
  }
  if (value.empty()) return Error(fmt::format("{}= has no value", key));
  if (seen.find(fmt::format(" {} ", key)) != seen.npos) {
    return Error(fmt::format("{}= is given twice", key));
  }
  seen += fmt::format(" {} ", key);
  if (key == "a") {
    auto activations = parse_activations(value);
    if (!activations) return std::move(activations).error();
    recipe.activations = *activations;
  } else if (key == "kv") {
    const auto kind = kv_kind_named(value);
    if (!kind) {
      return unknown_value(key, value, fmt::format("{}", fmt::join(kv_kind_names, ", ")));
    }
    recipe.kv = *kind;
  } else {
    auto scheme = parse_scheme(split_weight_recipe(value).scheme);
    if (!scheme) return std::move(scheme).error().in("w");
    recipe.weights = value;
  }
  return ok();
}

}  // namespace

Result<Recipe> parse_recipe(std::string_view text) {
  Recipe recipe;
  std::string seen;
  for (std::size_t first = 0; !text.empty() && first <= text.size();) {
    const std::size_t last = std::min(text.find(',', first), text.size());
    const std::string_view part = text.substr(first, last - first);
    auto parsed = part.empty() ? Status(Error("a part between commas is empty"))
                               : parse_part(part, recipe, seen);
    if (!parsed) return std::move(parsed).error().in(fmt::format("recipe '{}'", text));
    first = last + 1;
  }
  return recipe;
}

WeightRecipe split_weight_recipe(std::string_view weights) {
  const std::size_t colon = weights.rfind(':');
  if (colon == weights.npos) return {"", weights};
  return {weights.substr(0, colon), weights.substr(colon + 1)};
}

std::string to_string(const Recipe& recipe) {
  std::string text;
  if (recipe.weights) text += fmt::format("w={},", *recipe.weights);
  if (recipe.activations) text += fmt::format("a={},", name_of(*recipe.activations));
  return text + fmt::format("kv={}", name_of(recipe.kv));
}

}  // namespace lowbit
