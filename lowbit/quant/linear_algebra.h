// SPDX-License-Identifier: Apache-2.0
// What rounding against a Hessian needs of linear algebra: products of f32 matrices and the factors
// of a symmetric matrix. All heavy work is a product x w^T on the packed f32 kernels, whose fma
// chains run in index order, and what is left works on 16 rows side by side; so the bits depend
// neither on the thread count nor on the instruction set.
#pragma once

#include <cstdint>
#include <vector>

#include "lowbit/base/matrix_view.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/kernels/matmul.h"

namespace lowbit {

/// Products on the best exact kernels of this machine; keeps their memory from call to call.
class FloatProducts {
 public:
  explicit FloatProducts(ThreadPool& pool);

  /// y = x w^T. x: (m, k), w: (n, k), y: (m, n), none of them overlapping; any stride. k >= 1.
  void multiply(MatrixView x, MatrixView w, MutableMatrixView y);

 private:
  ThreadPool& pool_;
  const KernelTable& kernels_;
  PackedActivations activations_;
  MatmulWorkspace workspace_;
};

/// A symmetric positive definite H = M D M^T, M unit upper triangular, D diagonal: column k of M
/// says how much of the error of the columns before k column k can take over.
struct TriangularFactor {
  std::int64_t n = 0;
  std::vector<float> columns;  // (n, n) row-major: row k holds column k of M, zeros behind it
  std::vector<float> pivots;   // (n): D

  MatrixView view() const { return {columns.data(), n, n}; }
};

/// Factors h (n, n), of which the half below the diagonal is read. False: not positive definite to
/// f32 precision, or not finite; `factor` then holds nothing of use. n^3 / 3 fma.
bool factor_symmetric(MatrixView h, FloatProducts& products, ThreadPool& pool,
                      TriangularFactor& factor);

}  // namespace lowbit
