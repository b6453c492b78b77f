// SPDX-License-Identifier: Apache-2.0
// What runs: the scheme of the weights, of the activations and of the KV cache, as one line of text
// 'w=int4.g128,a=int8.token,kv=f16'. What is left out keeps its default.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "lowbit/backend/backend.h"
#include "lowbit/base/result.h"

namespace lowbit {

struct Recipe {
  /// '[METHOD:]SCHEME' to which weights are re-quantized in memory at load; nothing: as stored.
  std::optional<std::string> weights = {};
  /// Nothing: each tensor's own default (backend.h, default_activations).
  std::optional<Activations> activations = {};
  KvKind kv = KvKind::f16;
};

/// Comma-separated `w=`, `a=`, `kv=`, each at most once; a bare recipe means `w=`. "" is the
/// default recipe.
Result<Recipe> parse_recipe(std::string_view text);

/// The part of Recipe::weights before the colon ("" where none is named) and the one after it.
struct WeightRecipe {
  std::string_view method, scheme;
};
WeightRecipe split_weight_recipe(std::string_view weights);

/// parse_recipe(to_string(r)) == r.
std::string to_string(const Recipe& recipe);

}  // namespace lowbit
