// SPDX-License-Identifier: Apache-2.0
// G += X^T X: what calibration sums over the inputs x of a matrix (the Hessian of its squared
// error). X is copied once into panels of 16 columns, so that both factors of a tile are read in a
// row. The order of the operations is part of the definition (docs/design.md, idea C): tokens come
// in blocks of gram_block_tokens, a block's sum is one fma chain in token order that starts at 0,
// and is added to G by one addition. Only tiles on and above the diagonal are computed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lowbit/base/matrix_view.h"
#include "lowbit/base/thread_pool.h"

namespace lowbit {

/// 16 KiB of a panel: two factors of a tile stay in the first-level cache. Short chains also round
/// less.
inline constexpr std::int64_t gram_block_tokens = 256;

/// One product of blocks of panels: rows of g from panels [first_row, last_row), columns from
/// panels [first_col, last_col).
struct GramJob {
  const float* panels = nullptr;  // (n_panels, n_tokens, 16), 64-byte aligned, zeros beyond n
  std::int64_t n_tokens = 0, n = 0;
  float* g = nullptr;  // (n, n), g_stride numbers from row to row
  std::int64_t g_stride = 0;
};

struct GramKernels {
  /// Adds to the tiles of g on and above the diagonal, and maybe to some numbers just below it.
  void (*panels)(const GramJob& job, std::int64_t first_row, std::int64_t last_row,
                 std::int64_t first_col, std::int64_t last_col) = nullptr;
};

/// Memory of a call, kept for the next one.
struct GramWorkspace {
  std::vector<float> panels;
};

struct KernelTable;

/// Adds X^T X to g on and above the diagonal; what lies below is unspecified until mirror_gram().
/// x: (n_tokens, n), any alignment and stride; g: (n, n).
void add_gram(const KernelTable& kernels, MatrixView x, MutableMatrixView g,
              GramWorkspace& workspace, ThreadPool& pool);

/// Below the diagonal: what stands above it.
void mirror_gram(MutableMatrixView g, ThreadPool& pool);

/// The definition in plain loops, both halves, for tests.
void add_gram_reference(MatrixView x, MutableMatrixView g);

}  // namespace lowbit
