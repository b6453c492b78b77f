// SPDX-License-Identifier: Apache-2.0
// Walks the groups of a matrix: the numbers and weights of one group as spans, gathered into a
// buffer only where they do not lie together (blocks of several rows).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "lowbit/base/matrix_view.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/quant/group_fit.h"
#include "lowbit/quant/rounder.h"

namespace lowbit {

class GroupWalk {
 public:
  GroupWalk(MatrixView w, const InputStats& stats, const QuantizedTensor& tensor)
      : w_(w), stats_(stats), group_rows_(tensor.group_rows()), group_cols_(tensor.group_cols()) {}

  std::int64_t n_rows() const { return (w_.rows + group_rows_ - 1) / group_rows_; }
  std::int64_t n_cols() const { return (w_.cols + group_cols_ - 1) / group_cols_; }

  /// Numbers of group (row, col); valid until the next call with the same buffers.
  struct Buffers {
    std::vector<float> x, weights;
  };
  GroupData group(std::int64_t row, std::int64_t col, Buffers& buffers) const {
    const std::int64_t first = col * group_cols_, n = std::min(group_cols_, w_.cols - first);
    const std::int64_t first_row = row * group_rows_;
    const std::int64_t n_rows = std::min(group_rows_, w_.rows - first_row);
    const auto weights = stats_.mean_square.empty()
                             ? std::span<const float>()
                             : stats_.mean_square.subspan(static_cast<std::size_t>(first),
                                                          static_cast<std::size_t>(n));
    std::span<const float> x{w_.row(first_row) + first, static_cast<std::size_t>(n)};
    buffers.weights.clear();
    if (n_rows > 1) {
      for (std::int64_t r = 0; r < n_rows; ++r) {
        buffers.weights.insert(buffers.weights.end(), weights.begin(), weights.end());
      }
      if (n == w_.stride) {  // whole rows: a tensor of one scale is not copied
        x = {w_.row(first_row), static_cast<std::size_t>(n_rows * n)};
      } else {
        buffers.x.clear();
        for (std::int64_t r = first_row; r < first_row + n_rows; ++r) {
          buffers.x.insert(buffers.x.end(), w_.row(r) + first, w_.row(r) + first + n);
        }
        x = buffers.x;
      }
    }
    if (stats_.favours_large) {
      if (buffers.weights.empty()) buffers.weights.assign(weights.begin(), weights.end());
      favour_large(x, buffers.weights);
    }
    return {x, buffers.weights.empty() ? weights : buffers.weights};
  }

  /// visit(row, col, numbers) of every group, rows of groups in parallel.
  template <class Visit>
  void for_each(ThreadPool& pool, const Visit& visit) const {
    pool.parallel_for(n_rows(), /*chunk=*/1, [&](std::int64_t first, std::int64_t last, int) {
      Buffers buffers;
      for (std::int64_t row = first; row < last; ++row) {
        for (std::int64_t col = 0; col < n_cols(); ++col) visit(row, col, group(row, col, buffers));
      }
    });
  }

 private:
  /// Multiplies weights (empty: all 1) by sqrt(1 + x^2 / mean x^2).
  static void favour_large(std::span<const float> x, std::vector<float>& weights) {
    float sum = 0;
    for (const float value : x) sum += value * value;
    const float mean = sum / static_cast<float>(x.size());
    constexpr float negligible = 0x1p-100f;
    if (!(mean > negligible) || !std::isfinite(mean)) return;
    if (weights.empty()) weights.assign(x.size(), 1.0f);
    for (std::size_t i = 0; i < x.size(); ++i) weights[i] *= std::sqrt(1 + x[i] * x[i] / mean);
  }

  MatrixView w_;
  InputStats stats_;
  std::int64_t group_rows_, group_cols_;
};

}  // namespace lowbit
