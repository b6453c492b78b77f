// SPDX-License-Identifier: Apache-2.0
// A transform rewrites the matrices of a model so that they round better while the model computes
// the same: scales move from one matrix into its neighbours, rotations cancel along a stream. Here
// are the names that a recipe may use and what each must know; how they are folded into neighbours
// is a matter of whole models (compress/fold.h, compress/hadamard.h, compress/smooth.h).
#pragma once

#include <span>
#include <string_view>

#include "lowbit/base/result.h"
#include "lowbit/quant/rounder.h"

namespace lowbit {

struct Transform {
  std::string_view name;
  /// weights: it acts on the whole model before anything is calibrated. activations: it acts on one
  /// block of layers, with the inputs that calibration captured there.
  Needs needs;
  std::string_view summary;  // one line for --help
};

/// THE list of transforms, in the order in which a recipe may join them.
std::span<const Transform> transform_list();
/// Null: there is no such transform.
const Transform* transform_named(std::string_view name);

}  // namespace lowbit
