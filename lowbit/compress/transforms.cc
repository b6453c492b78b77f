// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/transforms.h"

#include <algorithm>
#include <utility>

#include "lowbit/compress/awq.h"
#include "lowbit/compress/rotate.h"
#include "lowbit/compress/smooth.h"

namespace lowbit {

Result<std::unique_ptr<FoldedModel>> fold_model(const TensorSource& source,
                                                const TensorRecipe& recipe, ThreadPool& pool) {
  std::unique_ptr<FoldedModel> model;
  for (const Transform* transform : recipe.transforms) {
    if (transform->needs != Needs::weights) continue;
    const auto graph = trace_model(source);
    if (!graph) return Error(graph.error());
    if (!model) model = std::make_unique<FoldedModel>(source);
    const RotateOptions options{.with_bases = transform->name == "hadamard"};
    if (Status done = rotate(*graph, options, *model, pool); !done) {
      return std::move(done).error().in(transform->name);
    }
  }
  return model;
}

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
