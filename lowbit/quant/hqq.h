// SPDX-License-Identifier: Apache-2.0
// HQQ, half-quadratic quantization (Badri and Shaji, 2023): zeros from the weights alone, robust to
// outliers. It minimises sum |w - decoded|^p, p = 0.7, by splitting the error: what the shrinkage
// of the p-norm takes for outliers (r) is set aside, the rest is solved for,
//   v = nearest(w / s + z);   r = shrink(w - s (v - z));   z = mean(v - (w - r) / s)
// until the mean error no longer falls. The scale stays that of the extremes: solved for as well,
// or started from clipped extremes, it gave twice the KL divergence (docs/methods.md). On symmetric
// schemes, which have no zero, the same steps move the scale. Errors are weighted by E[x^2] where
// it is known.
#pragma once

#include "lowbit/quant/rounder.h"

namespace lowbit {

/// Scalar codes under one level of scales, or under two.
Result<QuantizedTensor> round_half_quadratic(MatrixView w, const InputStats& stats,
                                             const Scheme& scheme, ThreadPool& pool);

}  // namespace lowbit
