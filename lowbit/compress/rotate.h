// SPDX-License-Identifier: Apache-2.0
// The transform `hadamard`: what flows between matrices is rotated, so that no input sticks out of
// its group, where the rotation cancels inside the model and can be folded into the weights:
//
//   v_proj -> o_proj   head by head: attention mixes whole heads
//   residual stream    where embedding and head are two matrices: the norms' weights move into the
//                      matrices behind them, then everything turns. An embedding that is also the
//                      head cannot take the final norm's weight and is left as it is
//
#pragma once

#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/fold.h"
#include "lowbit/compress/graph.h"

namespace lowbit {

/// Adds the rotations to the model; the pool must outlive it. Errors: a tensor that cannot be
/// loaded.
Status rotate(const ModelGraph& graph, FoldedModel& model, ThreadPool& pool);

}  // namespace lowbit
