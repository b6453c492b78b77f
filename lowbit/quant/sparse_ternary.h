// SPDX-License-Identifier: Apache-2.0
// The 3:4 sparse ternary code (1.25 bits): of four consecutive weights one is zero and three are
// +-d. Encoder: in turns, zero the lane whose loss is least, w (x^2 - (|x| - d)^2), and solve for d
// (Sherry, arXiv 2601.07892; the alternating form is that of the published STQ1_0 encoder).
#pragma once

#include "lowbit/base/matrix_view.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/quant/rounder.h"

namespace lowbit {

/// Whether a code's values are the 32 patterns of four ternary numbers with exactly one zero.
bool is_sparse_ternary(const Code& code);

/// Fills scales and codes of `tensor`. Without refit the scale is the mean magnitude of the three
/// largest of every four.
void round_sparse_ternary(MatrixView w, const InputStats& stats, QuantizedTensor& tensor,
                          bool refit, ThreadPool& pool);

}  // namespace lowbit
