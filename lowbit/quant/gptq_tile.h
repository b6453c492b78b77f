// SPDX-License-Identifier: Apache-2.0
// The inner loops of GPTQ: up to 128 columns of 16 rows, a row per lane, so that all rows choose
// the code of a column at once and no sum crosses lanes.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "lowbit/base/matrix_view.h"
#include "lowbit/formats/scheme.h"
#include "lowbit/quant/lanes.h"
#include "lowbit/quant/levels.h"

namespace lowbit {

constexpr std::int64_t gptq_tile_rows = 16, gptq_block_cols = 128;
constexpr std::size_t lanes_per_column = static_cast<std::size_t>(gptq_tile_rows) / n_lanes;

/// One number for each row of a tile.
struct TileColumn {
  std::array<Lanes, lanes_per_column> lanes{};

  float get(std::int64_t row) const {
    return lanes[static_cast<std::size_t>(row) / n_lanes][static_cast<std::size_t>(row) % n_lanes];
  }
  void set(std::int64_t row, float value) {
    lanes[static_cast<std::size_t>(row) / n_lanes][static_cast<std::size_t>(row) % n_lanes] = value;
  }
  /// += other * factor.
  void add(const TileColumn& other, float factor) {
    const Lanes all = all_lanes(factor);
    for (std::size_t i = 0; i < lanes_per_column; ++i) lanes[i] += other.lanes[i] * all;
  }
};
using TileColumns = std::array<TileColumn, gptq_block_cols>;

/// `n` columns of the rows of a tile, zeros beyond the last row.
inline void load_columns(MatrixView from, std::int64_t first_row, std::int64_t first_col,
                         std::int64_t n, TileColumn* to) {
  const std::int64_t n_rows = std::min(gptq_tile_rows, from.rows - first_row);
  std::fill_n(to, n, TileColumn());
  for (std::int64_t r = 0; r < n_rows; ++r) {
    const float* row = from.row(first_row + r) + first_col;
    for (std::int64_t k = 0; k < n; ++k) to[k].set(r, row[k]);
  }
}
inline void save_columns(const TileColumn* from, std::int64_t first_row, std::int64_t first_col,
                         std::int64_t n, MutableMatrixView to) {
  const std::int64_t n_rows = std::min(gptq_tile_rows, to.rows - first_row);
  for (std::int64_t r = 0; r < n_rows; ++r) {
    float* row = to.row(first_row + r) + first_col;
    for (std::int64_t k = 0; k < n; ++k) row[k] = from[k].get(r);
  }
}

/// What the codes of a group mean, row by row: decoded = scale * (v - code_zero) + offset.
struct TileGrid {
  TileColumn scale, inverse, code_zero, offset;

  void set(std::int64_t row, float row_scale, float row_zero, ZeroUnit unit) {
    scale.set(row, row_scale);
    inverse.set(row, row_scale == 0 ? 0 : 1 / row_scale);
    code_zero.set(row, unit == ZeroUnit::code ? row_zero : 0);
    offset.set(row, unit == ZeroUnit::weight ? row_zero : 0);
  }

  template <class Kind>
  Lanes nearest(const Kind& kind, std::size_t i, Lanes x) const {
    return kind.nearest((x - offset.lanes[i]) * inverse.lanes[i] + code_zero.lanes[i]);
  }
  Lanes decoded(std::size_t i, Lanes v) const {
    return scale.lanes[i] * (v - code_zero.lanes[i]) + offset.lanes[i];
  }
};

/// A square matrix over the columns of a block, as the loops read it: (n, n) row-major.
struct BlockMatrix {
  std::int64_t n = 0;
  std::vector<float> numbers;

  explicit BlockMatrix(std::int64_t n_) : n(n_), numbers(static_cast<std::size_t>(n_ * n_)) {}
  float* row(std::int64_t r) { return numbers.data() + r * n; }
  const float* row(std::int64_t r) const { return numbers.data() + r * n; }
};

/// Codes of the columns [first, last) of a block, what each loses of its target handed on to those
/// up to `reach`. error += pivot (target - decoded)^2. w, target, v, e: the columns of the block.
template <class Kind>
void round_columns(const Kind& kind, const TileGrid& grid, const BlockMatrix& feedback,
                   const float* pivots, std::int64_t first, std::int64_t last, std::int64_t reach,
                   const TileColumn* w, TileColumn* target, TileColumn* v, TileColumn* e,
                   TileColumn& error) {
  for (std::int64_t k = first; k < last; ++k) {
    for (std::size_t i = 0; i < lanes_per_column; ++i) {
      const Lanes x = target[k].lanes[i], code = grid.nearest(kind, i, x);
      const Lanes decoded = grid.decoded(i, code), lost = x - decoded;
      v[k].lanes[i] = code;
      e[k].lanes[i] = w[k].lanes[i] - decoded;
      error.lanes[i] += all_lanes(pivots[k]) * (lost * lost);
    }
    const float* row = feedback.row(k);
    const TileColumn handed_on = e[k];
    for (std::int64_t j = k + 1; j < reach; ++j) target[j].add(handed_on, row[j]);
  }
}

/// One step of coordinate descent for each of the columns [first, last): the code that minimises e
/// H e^T with all others as they are. gradient = e H over the n columns of the block.
template <class Kind>
void improve_columns(const Kind& kind, const TileGrid& grid, const BlockMatrix& h,
                     std::int64_t first, std::int64_t last, const TileColumn* w, TileColumn* v,
                     TileColumn* e, TileColumn* gradient) {
  for (std::int64_t k = first; k < last; ++k) {
    const float* row = h.row(k);
    const Lanes inverse = all_lanes(1 / row[k]);
    TileColumn change;
    LaneBits moved{};
    for (std::size_t i = 0; i < lanes_per_column; ++i) {
      const Lanes now = grid.decoded(i, v[k].lanes[i]);
      const Lanes code = grid.nearest(kind, i, now + gradient[k].lanes[i] * inverse);
      moved |= code != v[k].lanes[i];
      const Lanes decoded = grid.decoded(i, code);
      change.lanes[i] = decoded - now;
      v[k].lanes[i] = code;
      e[k].lanes[i] = w[k].lanes[i] - decoded;
    }
    if ((moved[0] | moved[1] | moved[2] | moved[3]) == 0) continue;
    for (std::int64_t j = 0; j < h.n; ++j) gradient[j].add(change, -row[j]);
  }
}

}  // namespace lowbit
