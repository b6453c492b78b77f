// SPDX-License-Identifier: Apache-2.0
// The transform `hadamard`: what flows between matrices is rotated, so that no input sticks out of
// its group. Where a rotation cancels inside the model it is folded into the weights; elsewhere it
// becomes the basis of a matrix, which is applied to x at run time.
//
//   v_proj -> o_proj           folded, head by head: attention mixes whole heads
//   residual stream            folded where embedding and head are two matrices: the norms' weights
//                              move into the matrices behind them, then everything turns
//   residual stream, tied      an embedding that is also the head cannot take the final norm's
//                              weight, and a second copy of it costs more bits than rotations save:
//                              the matrices that read the stream, the table among them, get a basis
//   down_proj                  a basis: the gate before it is no linear map
#pragma once

#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/fold.h"
#include "lowbit/compress/graph.h"

namespace lowbit {

struct RotateOptions {
  /// False: only what folds, for containers that have no place for a basis.
  bool with_bases = true;
  /// False: a stream is left to bases even where it could be folded.
  bool fold_streams = true;
  /// Most numbers that a run-time rotation mixes.
  std::int64_t largest_block = 512;
};

/// Adds the rotations to the model; the pool must outlive it. Errors: a tensor that cannot be
/// loaded.
Status rotate(const ModelGraph& graph, const RotateOptions& options, FoldedModel& model,
              ThreadPool& pool);

}  // namespace lowbit
