// SPDX-License-Identifier: Apache-2.0
// y = x W^T. Activations are prepared once and multiplied with as many matrices as read them; few
// tokens (gemv) or many (gemm) run the same arithmetic in another order of blocks, so the bits of a
// token do not depend on its neighbours, on the threads or on the instruction set.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lowbit/base/matrix_view.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/kernels/kernel_table.h"
#include "lowbit/kernels/packed_matrix.h"

namespace lowbit {

/// Tokens in the form the kernels read: f32 rows, or int8 codes with f32 scales and int32 sums. A
/// buffer to be reused: it only ever grows. It also owns the threads' scratch memory, so one
/// product at a time reads it.
class PackedActivations {
 public:
  Activations kind() const { return kind_; }
  std::int64_t n_tokens() const { return n_tokens_; }
  std::int64_t cols() const { return cols_; }

 private:
  friend void prepare_activations(const KernelTable&, MatrixView, Activations, PackedActivations&,
                                  ThreadPool&);
  friend void matmul(const KernelTable&, const PackedMatrix&, const PackedActivations&,
                     MutableMatrixView, ThreadPool&);

  Activations kind_ = Activations::f32;
  std::int64_t n_tokens_ = 0, cols_ = 0;
  std::int64_t x_stride_ = 0, codes_stride_ = 0, scales_stride_ = 0, sums_stride_ = 0;
  std::vector<float> x_, x_sums_, scales_;
  std::vector<std::int8_t> codes_;
  std::vector<std::int32_t> sums_;
  mutable std::vector<std::byte> scratch_;
  mutable std::vector<float> step_x_sums_;  // per step of the current product
  mutable std::vector<std::int32_t> step_sums_, step_starts_;
};

/// x: (n_tokens, K) row-major f32, any alignment and stride.
void prepare_activations(const KernelTable& kernels, MatrixView x, Activations activations,
                         PackedActivations& out, ThreadPool& pool);

/// y: (n_tokens, N) row-major f32, any alignment and stride. check_activations() must have passed
/// for x.kind(), and x must have been prepared with the same table.
void matmul(const KernelTable& kernels, const PackedMatrix& w, const PackedActivations& x,
            MutableMatrixView y, ThreadPool& pool);

/// What runs for n_tokens, e.g. "gemv int8.g32 linear4 two-level avx512_vnni".
std::string kernel_name(const KernelTable& kernels, const PackedMatrix& w, Activations activations,
                        std::int64_t n_tokens);

}  // namespace lowbit
