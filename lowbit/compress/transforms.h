// SPDX-License-Identifier: Apache-2.0
// The transforms of a recipe, put to work on a model: those that need no data on the model as it is
// loaded, the others as steps of the pipeline (pipeline.h), in the order of the recipe.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "lowbit/compress/fold.h"
#include "lowbit/compress/pipeline.h"
#include "lowbit/compress/tensor_recipe.h"

namespace lowbit {

/// The model behind the recipe's transforms that need no data; null where there are none. `source`
/// and the pool must outlive it. Errors: a source that lacks a tensor or was rotated before.
Result<std::unique_ptr<FoldedModel>> fold_model(const TensorSource& source,
                                                const TensorRecipe& recipe, ThreadPool& pool);

/// recipe_of: what becomes of a matrix. Errors: a source that lacks a tensor.
Result<std::vector<BlockTransform>> block_transforms(
    const TensorSource& source, const TensorRecipe& recipe,
    const std::function<std::optional<TensorRecipe>(std::string_view name)>& recipe_of);

}  // namespace lowbit
