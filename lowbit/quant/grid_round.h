// SPDX-License-Identifier: Apache-2.0
// Rounding to the grids of vectors (the iq types, codebooks): scales as for numbers, a search over
// the scale of a group and, with two levels, over the scale of scales; but every vector takes the
// row that is nearest under the weights, and what a container does not store (the last sign of
// eight, a delta for every code) is obeyed while choosing and not repaired afterwards.
#pragma once

#include "lowbit/base/matrix_view.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/quant/rounder.h"

namespace lowbit {

/// Whether the code is a table of vectors of an even number of numbers.
bool is_grid(const Code& code);

/// Fills scales and codes of `tensor`. `searched`: the scales of least weighted error, else those
/// that let the largest number of a group reach the largest of the grid. Error: a scheme with
/// zeros or with one scale of scales for the whole tensor.
Status round_to_grid(MatrixView w, const InputStats& stats, QuantizedTensor& tensor, bool searched,
                     ThreadPool& pool);

}  // namespace lowbit
