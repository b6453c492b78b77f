// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/transforms.h"

#include <algorithm>
#include <utility>

#include "lowbit/compress/awq.h"
#include "lowbit/compress/smooth.h"

namespace lowbit {

Result<std::vector<BlockTransform>> block_transforms(
    const TensorSource& source, const TensorRecipe& recipe,
    const std::function<std::optional<TensorRecipe>(std::string_view name)>& recipe_of) {
  std::vector<BlockTransform> steps;
  const bool is_any = std::ranges::any_of(recipe.transforms, [](const Transform* transform) {
    return transform->needs == Needs::activations;
  });
  if (!is_any) return steps;
  const auto graph = trace_model(source);
  if (!graph) return Error(graph.error());
  for (const Transform* transform : recipe.transforms) {
    if (transform->name == "smoothquant") steps.push_back(smoothquant(*graph));
    if (transform->name == "awq") steps.push_back(awq(*graph, recipe_of));
  }
  return steps;
}

}  // namespace lowbit
