// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/tensor_recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

#include "lowbit/base/edit_distance.h"
#include "lowbit/compress/llama_mixes.h"

namespace lowbit {
namespace {

constexpr std::string_view default_method = "rtn";

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('+', at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

const Rounder* rounder_or_null(std::string_view name) {
  const auto list = rounder_list();
  const auto at = std::ranges::find(list, name, &Rounder::name);
  return at == list.end() ? nullptr : &*at;
}

/// "; did you mean 'gptq'?", or nothing where no name is near.
std::string suggestion(std::string_view word) {
  std::string_view best;
  std::size_t best_distance = word.size() / 3 + 2;
  const auto consider = [&](std::string_view name) {
    const std::size_t distance = edit_distance(word, name);
    if (distance >= best_distance) return;
    best = name;
    best_distance = distance;
  };
  for (const Rounder& rounder : rounder_list()) consider(rounder.name);
  for (const Transform& transform : transform_list()) consider(transform.name);
  return best.empty() ? std::string() : fmt::format("; did you mean '{}'?", best);
}

template <class List>
std::string names_of(const List& list) {
  std::string names;
  for (const auto& entry : list) {
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  return names;
}

Error unknown_word(std::string_view word) {
  return Error(
      fmt::format("there is no method or transform '{}'{}; methods are {}; transforms are {}", word,
                  suggestion(word), names_of(rounder_list()), names_of(transform_list())));
}

/// The error of parse_scheme, or the mix that was meant if the text looks like one.
Error unknown_scheme(std::string_view text, const Error& error) {
  std::string upper(text);
  for (char& letter : upper) {
    letter = static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
  }
  const auto distance = [&](const LlamaMix& mix) { return edit_distance(upper, mix.name); };
  const auto nearest = std::ranges::min_element(llama_mix_list(), {}, distance);
  constexpr std::size_t one_letter = 1;
  const bool looks_like_a_mix =
      text.find('_') != std::string_view::npos && text.find('.') == std::string_view::npos;
  if (!looks_like_a_mix || distance(*nearest) > one_letter) return error;
  return Error(
      fmt::format("there is no scheme and no mix '{}'; did you mean '{}'?", text, nearest->name));
}

/// Two that rotate or two that scale decide the same.
bool are_alike(const Transform& a, const Transform& b) {
  return a.needs == b.needs;
}

/// The transforms in the order of THE list, of those that are alike the first.
std::vector<const Transform*> in_order(const std::vector<const Transform*>& wanted) {
  std::vector<const Transform*> ordered;
  for (const Transform* transform : wanted) {
    if (std::ranges::none_of(
            ordered, [&](const Transform* other) { return are_alike(*transform, *other); })) {
      ordered.push_back(transform);
    }
  }
  std::ranges::sort(ordered);
  return ordered;
}

Status check_order(const TensorRecipe& recipe) {
  const auto& transforms = recipe.transforms;
  TensorRecipe possible = recipe;
  possible.transforms = in_order(transforms);
  for (std::size_t i = 1; i < transforms.size(); ++i) {
    const Transform &before = *transforms[i - 1], &after = *transforms[i];
    if (&before == &after) {
      return Error(
          fmt::format("{} stands in it twice; write '{}'", after.name, to_string(possible)));
    }
    if (are_alike(before, after)) {
      return Error(fmt::format("{} and {} do the same thing in two ways; write '{}'", before.name,
                               after.name, to_string(possible)));
    }
    if (&before > &after) {
      return Error(fmt::format("{} would undo the scales of {}, so it comes first; write '{}'",
                               after.name, before.name, to_string(possible)));
    }
  }
  return ok();
}

/// The words before the ':'.
Status parse_words(std::string_view text, TensorRecipe& recipe) {
  for (const std::string_view word : words_of(text)) {
    const Transform* transform = transform_named(word);
    const Rounder* rounder = rounder_or_null(word);
    if (transform == nullptr && rounder == nullptr) return unknown_word(word);
    if (rounder != nullptr && recipe.rounder != nullptr) {
      return Error(fmt::format("{} and {} are both methods and only one can choose the codes",
                               recipe.rounder->name, rounder->name));
    }
    if (transform != nullptr && recipe.rounder != nullptr) {
      return Error(
          fmt::format("{} comes before the method: '{}+{}:...'", word, word, recipe.rounder->name));
    }
    if (rounder != nullptr) recipe.rounder = rounder;
    if (transform != nullptr) recipe.transforms.push_back(transform);
  }
  return ok();
}

}  // namespace

Result<TensorRecipe> parse_tensor_recipe(std::string_view text) {
  const std::string place = fmt::format("recipe \"{}\"", text);
  const std::size_t colon = text.find(':');
  TensorRecipe recipe;
  std::string_view scheme_text = text;
  if (colon != std::string_view::npos) {
    if (Status status = parse_words(text.substr(0, colon), recipe); !status) {
      return std::move(status).error().in(place);
    }
    scheme_text = text.substr(colon + 1);
  } else if (const std::size_t plus = text.rfind('+'); plus != std::string_view::npos) {
    return Error(fmt::format("between methods and the scheme stands a ':', for example '{}:{}'",
                             text.substr(0, plus), text.substr(plus + 1)))
        .in(place);
  } else if (transform_named(text) != nullptr || rounder_or_null(text) != nullptr) {
    return Error(fmt::format("the scheme is missing, for example '{}:int4.g128'", text)).in(place);
  }
  if (recipe.rounder == nullptr) recipe.rounder = rounder_or_null(default_method);
  auto scheme = parse_scheme(scheme_text);
  if (!scheme) {
    recipe.mix = llama_mix_named(scheme_text);
    if (recipe.mix == nullptr) return unknown_scheme(scheme_text, scheme.error()).in(place);
    scheme = parse_scheme(recipe.mix->scheme);
  }
  recipe.scheme = *scheme;
  if (Status status = check_order(recipe); !status) return std::move(status).error().in(place);
  return recipe;
}

std::string to_string(const TensorRecipe& recipe) {
  std::string text;
  for (const Transform* transform : recipe.transforms) text += std::string(transform->name) + '+';
  return fmt::format(
      "{}{}:{}", text, recipe.rounder->name,
      recipe.mix != nullptr ? std::string(recipe.mix->name) : to_string(recipe.scheme));
}

Status check_no_transforms(const TensorRecipe& recipe, std::string_view place) {
  if (recipe.mix != nullptr) {
    return Error(
        fmt::format("{} is a mix of schemes for a whole model and cannot stand in {}; write "
                    "'{}:{}' there",
                    recipe.mix->name, place, recipe.rounder->name, recipe.mix->scheme));
  }
  if (recipe.transforms.empty()) return ok();
  TensorRecipe without = recipe;
  without.transforms.clear();
  return Error(
      fmt::format("{} changes whole blocks of layers and cannot stand in {}; write '{}' there and "
                  "the transforms in --recipe of `lowbit quantize`",
                  recipe.transforms.front()->name, place, to_string(without)));
}

std::string recipe_help() {
  std::string text = fmt::format("Methods: {}; without a word {}.\nTransforms before one:\n",
                                 names_of(rounder_list()), default_method);
  for (const Transform& transform : transform_list()) {
    text += fmt::format("  {:<15} {}\n", transform.name, transform.summary);
  }
  text +=
      fmt::format("In place of a scheme, llama.cpp's mixes, in capitals where both exist:\n  {}\n",
                  names_of(llama_mix_list()));
  return text;
}

}  // namespace lowbit
