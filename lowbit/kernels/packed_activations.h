// SPDX-License-Identifier: Apache-2.0
// The rows of x in the form the matrix products read: f32, or int8 codes with f32 scales and int32
// sums. A row is prepared by itself, so whoever makes it (a norm, a gather) can prepare it while it
// is in the cache. A buffer to be reused: it only ever grows.
#pragma once

#include <cstdint>
#include <vector>

#include "lowbit/base/matrix_view.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/kernels/kernel_table.h"
#include "lowbit/kernels/packed_matrix.h"

namespace lowbit {

class PackedActivations {
 public:
  Activations kind() const { return kind_; }
  std::int64_t n_tokens() const { return n_tokens_; }
  std::int64_t cols() const { return cols_; }

  /// Begins anew: rows without numbers and without readers.
  void reset(Activations kind, std::int64_t n_tokens, std::int64_t cols);
  /// Rows that are filled from now on also get the sums that products with w read. Matrices of one
  /// scheme share them.
  void add_reader(const KernelTable& kernels, const PackedMatrix& w);
  /// x: (cols). Rows may be filled by several threads at once.
  void fill(const KernelTable& kernels, std::int64_t token, const float* x);

  /// Sets what a job reads of x; w must be a reader.
  void describe(const KernelTable& kernels, const PackedMatrix& w, MatmulJob& job) const;

 private:
  /// What one kind of reader wants to know of a row: its sums over spans of inputs, and those times
  /// the bias of the stored codes.
  struct Sums {
    std::int64_t span_k = 0, n_sums = 0;
    std::int32_t bias = 0;
    std::vector<std::int32_t> sums, starts;  // (n_tokens, n_sums); int8
    std::vector<float> x_sums;               // f32
  };
  Sums wanted(const KernelTable& kernels, const PackedMatrix& w) const;
  std::size_t index_of(const Sums& wanted) const;

  Activations kind_ = Activations::f32;
  std::int64_t n_tokens_ = 0, cols_ = 0;
  std::int64_t x_stride_ = 0, codes_stride_ = 0, scales_stride_ = 0, n_blocks_ = 0;
  std::vector<float> x_, x_sums_, scales_;
  std::vector<std::int8_t> codes_;
  std::vector<std::int32_t> sums_;  // over 16 inputs, like x_sums_
  std::vector<Sums> readers_;       // the first n_readers_ count
  std::size_t n_readers_ = 0;
};

/// All rows of x, for products with w. x: (n_tokens, K) row-major f32, any alignment and stride.
void prepare_activations(const KernelTable& kernels, MatrixView x, Activations activations,
                         const PackedMatrix& w, PackedActivations& out, ThreadPool& pool);

}  // namespace lowbit
