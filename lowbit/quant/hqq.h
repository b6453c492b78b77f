// SPDX-License-Identifier: Apache-2.0
// HQQ, half-quadratic quantization: scales and zeros from the weights alone, robust to outliers.
// It minimises sum |w - decoded|^p, p = 0.7, by splitting the error: what the shrinkage of the
// p-norm takes for outliers (r) is set aside, the rest is a least-squares problem,
//   codes v = nearest(w / s + z);  r = shrink(error);  (s, z) = least squares of w - r ~ s (v - z).
// The published solver (Badri and Shaji, 2023) moves the zero alone and measures errors in weight
// units, in which its shrinkage hardly ever acts; here errors are measured in steps of the code, so
// that it does not depend on the size of the weights, and the scale is solved for as well. On
// symmetric schemes it moves the scale alone. Errors are weighted by E[x^2] where it is known.
#pragma once

#include "lowbit/quant/rounder.h"

namespace lowbit {

/// Scalar codes under one level of scales, or under two.
Result<QuantizedTensor> round_half_quadratic(MatrixView w, const InputStats& stats,
                                             const Scheme& scheme, ThreadPool& pool);

}  // namespace lowbit
