// SPDX-License-Identifier: Apache-2.0
// GPTQ over codes of several numbers (GPTVQ, arXiv 2402.15319; block LDLQ, arXiv 2402.04396): the
// columns of a code, or of the codes that share a sign which is not stored, are an atom, rounded
// together. Over atoms H = M D M^T with M unit in its diagonal blocks, so that the error of a row
// is
//   sum_b (x_b - decoded_b) A_b (x_b - decoded_b)^T,   A_b = M_bb D_b M_bb^T of the scalar factor
// and x_b is what the atom should be given what those before it lost. The search for the nearest
// row of the grid weighs by the diagonal of A_b.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lowbit/quant/gptq_tile.h"
#include "lowbit/quant/grid_group.h"

namespace lowbit {

/// Rounds one atom of one row; kept by a thread for its next one.
class AtomRounder {
 public:
  explicit AtomRounder(const GridCode& grid) : grid_(grid) {}

  std::size_t dim() const { return grid_.dim(); }

  /// x, weights, v: (n), whole codes. v: the numbers of the nearest codes, without the scale.
  void round(std::span<const float> x, const float* weights, float scale, float* v,
             std::uint32_t* codes);

 private:
  const GridCode& grid_;
  GridGroup group_;
};

/// The columns that are rounded together: of one code, or of those that share an unstored sign.
std::int64_t atom_cols(const Code& code);

/// The diagonal of A of every atom of a block, each atom's largest 1. feedback: M of the block.
std::vector<float> atom_weights(const BlockMatrix& feedback, const float* pivots,
                                std::int64_t n_atom);

/// The codes of a tile: of row r those of the atom at column k of the block begin at
/// first[r * row_codes + code_of[k]].
struct TileCodes {
  std::uint32_t* first;
  std::int64_t row_codes;
  std::span<const std::int64_t> code_of;

  std::uint32_t* at(std::int64_t row, std::int64_t column) const {
    return first + row * row_codes + code_of[static_cast<std::size_t>(column)];
  }
};

/// round_columns (gptq_tile.h) for codes of several numbers, columns [first, last) of a block,
/// n_rows rows of a tile.
void round_atoms(AtomRounder& rounder, const TileGrid& grid, const BlockMatrix& feedback,
                 const std::vector<float>& weights, std::int64_t n_atom, std::int64_t n_rows,
                 std::int64_t first, std::int64_t last, const TileColumn* w, TileColumn* target,
                 TileColumn* v, TileColumn* e, const TileCodes& codes);

/// improve_columns for them: an atom changes where that lowers e H e^T.
void improve_atoms(AtomRounder& rounder, const TileGrid& grid, const BlockMatrix& h,
                   std::int64_t n_atom, std::int64_t n_rows, std::int64_t first, std::int64_t last,
                   const TileColumn* w, TileColumn* v, TileColumn* e, TileColumn* gradient,
                   const TileCodes& codes);

}  // namespace lowbit
