// SPDX-License-Identifier: Apache-2.0
// The nearest row of a grid for a vector under any scale, exactly and without looking at most rows.
// For scale s the weighted error of row v is sum w x^2 - 2 s p + s^2 q with p = sum w x v and
// q = sum w v^2, so
//   - p and q are sums over the two halves of the vector, and a grid has few distinct halves (81 of
//     four numbers with three levels): a row is judged by two look-ups, and a first half whose own
//     part of the error is too large drops out with all its rows;
//   - the rows that are nearest for some s form a convex hull in (p, q): between two scales with
//     the same nearest row there is no other. A search over scales asks again and again nearby, and
//     mostly needs no search at all.
// Neighbour lists around the rounded vector, as llama.cpp has them, look at fewer rows once, but
// miss the best row where the weights differ much, and know nothing about other scales.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lowbit/quant/lanes.h"

namespace lowbit {

class GridRows {
 public:
  /// values: (n_rows, dim) row-major; dim even; at most 2^16 rows. Row r of them is code
  /// first_code + r.
  GridRows(std::span<const float> values, int dim, std::uint32_t first_code = 0);

  int dim() const { return 2 * half_; }
  float largest() const { return largest_; }  // magnitude in the grid

 private:
  friend class ScaledVector;
  /// Half vectors that occur, number by number: numbers[i] is (n_padded), the i-th of each.
  struct Halves {
    std::vector<std::vector<float>> numbers;
    std::size_t n = 0;  // without the padding up to whole lanes
  };
  struct Row {
    std::uint32_t second, code;  // index of the second half
  };
  int half_;
  float largest_ = 0;
  Halves first_, second_;
  std::vector<Row> rows_;                 // by first half
  std::vector<std::uint32_t> row_begin_;  // of a first half in rows_; one more at the end
};

/// One vector and its nearest rows under the scales asked for so far.
class ScaledVector {
 public:
  struct Nearest {
    std::uint32_t code = 0;
    float p = 0, q = 0;  // sum w x v and sum w v^2
  };

  /// x, weights: (grid.dim()); weights may be null: all 1. The grid must outlive the vector.
  void reset(const GridRows& grid, const float* x, const float* weights);
  /// The nearest row under a scale above 0.
  Nearest at(float scale);

 private:
  struct Known {
    float scale;
    Nearest nearest;
  };
  Nearest search(float scale, float bound, Nearest best);

  const GridRows* grid_ = nullptr;
  std::vector<float> first_p_, first_q_, second_p_, second_q_;  // per half, padded
  std::vector<float> first_cost_, second_cost_;
  std::vector<Known> known_;  // by scale
};

}  // namespace lowbit
