// SPDX-License-Identifier: Apache-2.0
// One matrix of a model through a rounder within a memory budget: where the f32 numbers of all its
// rows would not fit, it goes through in slices of rows, if neither the method nor the scheme ties
// rows together. The bits do not depend on the slices.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/tensor_recipe.h"
#include "lowbit/quant/rounder.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

/// Tensor `name` of the source by the recipe; as it is where it is in that scheme already, because
/// another rounding could only lose. memory_bytes: what the f32 numbers may take. Errors:
/// a number that is not finite (with its place), what the rounder says; all name the tensor.
Result<Rounded> round_tensor(const TensorSource& source, std::string_view name,
                             const InputStats& stats, const TensorRecipe& recipe,
                             std::int64_t memory_bytes, ThreadPool& pool);
/// The same of a tensor that is loaded.
Result<Rounded> round_tensor(const QuantizedTensor& tensor, const InputStats& stats,
                             const TensorRecipe& recipe, std::int64_t memory_bytes,
                             ThreadPool& pool);

/// The numbers of a matrix as f32. Errors: one that is not finite, with its place.
Result<std::vector<float>> finite_numbers(const QuantizedTensor& tensor, ThreadPool& pool);

}  // namespace lowbit
