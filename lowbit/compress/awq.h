// SPDX-License-Identifier: Apache-2.0
// The transform `awq` (Lin et al. 2023, arXiv 2306.00978): columns whose inputs matter are scaled
// up before rounding, so that their share of a group's error falls. The factors come from a grid
// that is judged by what the rounded matrices put out on calibration rows; then the largest numbers
// of each group are clipped where that lowers the error of the group's output.
//   s_j = mean|x_j|^r, or mean|x_j|^r / mean_i(|W_ij| / max of its group)^(1 - r), r = 0.1 .. 1;
//   s = 1 is a candidate, so the factors never make the judged error worse.
// Judged is what the consumers of the fold put out: gate and up by what down_proj makes of them; q,
// k and v each relative to its own output (rows of a text are no sequence to attend over); o and
// down by themselves.
#pragma once

#include "lowbit/compress/graph.h"
#include "lowbit/compress/pipeline.h"

namespace lowbit {

struct AwqOptions {
  int n_ratios = 10;       // of each of the two forms
  int n_clip_levels = 10;  // from the largest number of a group down to half of it; 0: no clipping
  std::int64_t n_rows = 256;  // of calibration inputs that judge
};

/// recipe_of: what a matrix becomes; folds without one that rounds are left alone. Rounders that
/// need a Hessian are judged by rtn in their place.
BlockTransform awq(const ModelGraph& graph,
                   std::function<std::optional<TensorRecipe>(std::string_view name)> recipe_of,
                   const AwqOptions& options = {});

}  // namespace lowbit
