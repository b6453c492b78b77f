// SPDX-License-Identifier: Apache-2.0
// y = x W^T. Activations are prepared once and multiplied with as many matrices as read them; few
// tokens (gemv) or many (gemm) run the same arithmetic in another order of blocks, so the bits of a
// token do not depend on its neighbours, on the threads or on the instruction set.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "lowbit/base/matrix_view.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/kernels/kernel_table.h"
#include "lowbit/kernels/packed_activations.h"
#include "lowbit/kernels/packed_matrix.h"

namespace lowbit {

/// One matrix of a group: y = x w^T. check_activations() must have passed for x->kind(), w must be
/// a reader of x, and x must have been filled with the same table.
struct MatmulPart {
  const PackedMatrix* w = nullptr;
  const PackedActivations* x = nullptr;
  MutableMatrixView y;  // (n_tokens, N) row-major f32, any alignment and stride
};

/// A piece of y: columns [first_col, last_col) of tokens [first_token, last_token).
struct MatmulBlock {
  std::int64_t first_token = 0, last_token = 0, first_col = 0, last_col = 0;
};

/// Matrices with equally many outputs whose same columns are computed together by one thread.
struct MatmulGroup {
  std::array<MatmulPart, 2> parts = {};  // the second one without w: there is only one
  std::int64_t unit_cols = 1;            // what a piece holds whole multiples of, e.g. a head
  /// Called by the thread that computed a piece, while it is in its cache. May be empty.
  std::function<void(const MatmulBlock&)> after = {};
};

/// Memory of a call, kept for the next one.
class MatmulWorkspace {
 public:
  struct Piece {
    std::size_t group = 0;
    std::int64_t first_token = 0, last_token = 0, first_panel = 0, last_panel = 0;
  };

 private:
  friend void matmul(const KernelTable&, std::span<const MatmulGroup>, MatmulWorkspace&,
                     ThreadPool&);
  std::vector<MatmulJob> jobs_;  // two per group
  std::vector<Piece> pieces_;
  std::vector<std::byte> scratch_;
};

/// All groups in one parallel loop.
void matmul(const KernelTable& kernels, std::span<const MatmulGroup> groups,
            MatmulWorkspace& workspace, ThreadPool& pool);

/// One product.
void matmul(const KernelTable& kernels, const PackedMatrix& w, const PackedActivations& x,
            MutableMatrixView y, MatmulWorkspace& workspace, ThreadPool& pool);

/// What runs for n_tokens, e.g. "gemv int8.g32 linear4 two-level avx512_vnni".
std::string kernel_name(const KernelTable& kernels, const PackedMatrix& w, Activations activations,
                        std::int64_t n_tokens);

}  // namespace lowbit
