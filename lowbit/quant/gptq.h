// SPDX-License-Identifier: Apache-2.0
// GPTQ, in the form of LDLQ: codes are chosen column by column, and what a column loses is handed
// on to the columns that follow, so that the outputs change least. With e = w - decoded and the
// Hessian H = E[x x^T] = M D M^T (linear_algebra.h) the error of a row is
//   e H e^T = sum_k D_k (target_k - decoded_k)^2,   target_k = w_k + sum_{j<k} e_j M_jk
// so the nearest code of target_k is the best for column k, and D_k weighs what remains. The same
// as GPTQ's loop over the Cholesky factor of the inverse (arXiv 2210.17323, 2307.13304), without
// the inverse.
//
// Columns are visited group by group, so that no order has to be stored (arXiv 2505.14638). Scales
// are chosen when their first column is reached, among candidates that are each tried with the
// feedback inside the group. Afterwards sweeps of coordinate descent over scales and codes lower
// the same error further; all of it within the format as it is.
#pragma once

#include "lowbit/quant/rounder.h"

namespace lowbit {

/// Defaults are what measured best (docs/methods.md).
struct GptqOptions {
  /// Added to the diagonal of H, as a share of its mean; raised when the factorisation fails.
  double damping = 0.01;
  /// Sweeps of coordinate descent after the first pass.
  int n_sweeps = 4;
  /// Scales tried on either side of the fitted one.
  int n_candidates = 3;
  /// Groups, and the columns inside them, by falling H_jj; false: as they stand.
  bool is_ordered = true;
};

/// Needs stats.hessian. Where it is of no use (not finite, zero, not positive definite under any
/// damping) the tensor is rounded to nearest instead and the note says so.
Result<Rounded> round_gptq(MatrixView w, const InputStats& stats, const Scheme& scheme,
                           ThreadPool& pool);
Result<Rounded> round_gptq(MatrixView w, const InputStats& stats, const Scheme& scheme,
                           const GptqOptions& options, ThreadPool& pool);

/// sum over rows of (w - decoded) H (w - decoded)^T: the squared change of the outputs, per token.
double output_error(MatrixView w, MatrixView hessian, const QuantizedTensor& tensor,
                    ThreadPool& pool);

}  // namespace lowbit
