// SPDX-License-Identifier: Apache-2.0
// The table of a learned code for one matrix: k-means over the numbers (or vectors) of the matrix
// under their group scales, each weighted by E[x_j^2] and by its scale squared, so that the sum is
// the weighted squared error of the matrix (GPTVQ, arXiv 2402.15319). In turns: scales for the
// table, a table for the scales. The same table whatever the number of threads.
#pragma once

#include "lowbit/base/matrix_view.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/scheme.h"
#include "lowbit/quant/rounder.h"

namespace lowbit {

/// The scheme with a table learned for `w`; any other scheme, and one whose table is learned
/// already, as it is. Error: what round_to_nearest refuses.
Result<Scheme> with_learned_table(MatrixView w, const InputStats& stats, const Scheme& scheme,
                                  ThreadPool& pool);

}  // namespace lowbit
