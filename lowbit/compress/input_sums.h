// SPDX-License-Identifier: Apache-2.0
// Sums over the inputs of a matrix, window after window, into the statistics of statistics.h. Every
// column is summed by one thread in token order: f32 inside a block of tokens, double over blocks.
#pragma once

#include <cstdint>
#include <vector>

#include "lowbit/base/matrix_view.h"
#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/statistics.h"
#include "lowbit/kernels/kernel_table.h"

namespace lowbit {

class InputSums {
 public:
  /// needs: weights collects nothing, hessian everything.
  InputSums(std::int64_t n_inputs, Needs needs, const KernelTable& kernels, ThreadPool& pool);

  /// x: (n_tokens, n_inputs).
  void add(MatrixView x);
  /// The means. Errors: sums that are not finite (the input that is, is named).
  Result<TensorStats> take();

 private:
  std::int64_t n_inputs_, n_tokens_ = 0;
  Needs needs_;
  const KernelTable& kernels_;
  ThreadPool& pool_;
  std::vector<double> squares_, magnitudes_;
  std::vector<float> largest_;
  std::vector<std::int64_t> outliers_;  // per column
  std::vector<float> hessian_;
  GramWorkspace workspace_;
};

}  // namespace lowbit
