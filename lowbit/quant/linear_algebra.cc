// SPDX-License-Identifier: Apache-2.0
// A blocked Cholesky factorisation from the last row to the first, looking left: a block column
// takes in all that stand before it by one product, its diagonal block is factored in double, and
// the rows below are solved 16 at a time, one per lane.
#include "lowbit/quant/linear_algebra.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "lowbit/base/assert.h"
#include "lowbit/quant/lanes.h"

namespace lowbit {
namespace {

constexpr std::int64_t block_cols = 128, rows_at_once = 16;

/// Approximate kernels have other bits than everyone else's: those that must be asked for are
/// passed over.
const KernelTable& exact_kernels() {
  const auto chosen = select_kernels();
  if (chosen && runs_by_default((*chosen)->isa)) return **chosen;
  for (const KernelTable* table : available_kernels()) {
    if (runs_by_default(table->isa)) return *table;
  }
  return *available_kernels().back();
}

/// Factors the block at `first` in double; false when a pivot is lost in the rounding of f32.
bool factor_block(MutableMatrixView l, std::int64_t first, std::int64_t n,
                  std::span<const float> diagonal) {
  constexpr double least_pivot = 4 * static_cast<double>(std::numeric_limits<float>::epsilon());
  std::vector<double> block(static_cast<std::size_t>(n * n));
  const auto at = [&](std::int64_t r, std::int64_t c) -> double& {
    return block[static_cast<std::size_t>(r * n + c)];
  };
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t c = 0; c <= r; ++c) {
      at(r, c) = static_cast<double>(l.row(first + r)[first + c]);
    }
  }
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t c = 0; c <= r; ++c) {
      double sum = at(r, c);
      for (std::int64_t k = 0; k < c; ++k) sum -= at(r, k) * at(c, k);
      if (c < r) {
        at(r, c) = sum / at(c, c);
        continue;
      }
      const auto whole = static_cast<double>(diagonal[static_cast<std::size_t>(first + r)]);
      if (!(sum > least_pivot * whole) || !std::isfinite(sum)) return false;
      at(r, r) = std::sqrt(sum);
    }
  }
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t c = 0; c <= r; ++c) {
      l.row(first + r)[first + c] = static_cast<float>(at(r, c));
    }
  }
  return true;
}

/// Rows [row, row + n_rows) of the block column at `first`: x L^T = a, in place.
void solve_rows(MutableMatrixView l, std::int64_t first, std::int64_t n, std::int64_t row,
                std::int64_t n_rows) {
  float x[block_cols][rows_at_once] = {};
  for (std::int64_t r = 0; r < n_rows; ++r) {
    for (std::int64_t k = 0; k < n; ++k) x[k][r] = l.row(row + r)[first + k];
  }
  constexpr std::int64_t n_vectors = rows_at_once / static_cast<std::int64_t>(n_lanes);
  for (std::int64_t k = 0; k < n; ++k) {
    const float* known = l.row(first + k) + first;
    std::array<Lanes, n_vectors> sum;
    for (std::size_t i = 0; i < n_vectors; ++i) sum[i] = lanes_at(x[k] + i * n_lanes);
    for (std::int64_t j = 0; j < k; ++j) {
      const Lanes factor = all_lanes(known[j]);
      for (std::size_t i = 0; i < n_vectors; ++i) sum[i] -= factor * lanes_at(x[j] + i * n_lanes);
    }
    for (std::size_t i = 0; i < n_vectors; ++i) {
      sum[i] /= all_lanes(known[k]);
      std::memcpy(x[k] + i * n_lanes, &sum[i], sizeof(Lanes));
    }
  }
  for (std::int64_t r = 0; r < n_rows; ++r) {
    for (std::int64_t k = 0; k < n; ++k) l.row(row + r)[first + k] = x[k][r];
  }
}

/// (r, c) <-> (n - 1 - c, n - 1 - r): what was factored from the last row to the first becomes the
/// rows of the transposed factor in their own order.
void swap_across_antidiagonal(MutableMatrixView m, ThreadPool& pool) {
  const std::int64_t n = m.rows;
  pool.parallel_for(n, rows_at_once, [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t r = first; r < last; ++r) {
      for (std::int64_t c = 0; c < n - 1 - r; ++c) {
        std::swap(m.row(r)[c], m.row(n - 1 - c)[n - 1 - r]);
      }
    }
  });
}

}  // namespace

FloatProducts::FloatProducts(ThreadPool& pool) : pool_(pool), kernels_(exact_kernels()) {}

void FloatProducts::multiply(MatrixView x, MatrixView w, MutableMatrixView y) {
  LOWBIT_ASSERT(x.cols == w.cols && y.rows == x.rows && y.cols == w.rows && x.cols > 0);
  const RowSource source{*parse_scheme("f32"), w.rows, w.cols,
                         [&](std::int64_t first, std::int64_t n_rows, QuantizedTensor& out) {
                           if (out.rows != n_rows || out.cols != w.cols) {
                             out = QuantizedTensor(*parse_scheme("f32"), n_rows, w.cols);
                           }
                           for (std::int64_t r = 0; r < n_rows; ++r) {
                             const std::span<std::byte> bytes = out.codes.row(r);
                             std::memcpy(bytes.data(), w.row(first + r), bytes.size());
                           }
                         }};
  const auto packed = pack(source, pool_);
  LOWBIT_ASSERT(packed.has_value());  // plain floats pack in any shape
  prepare_activations(kernels_, x, Activations::f32, *packed, activations_, pool_);
  matmul(kernels_, *packed, activations_, y, workspace_, pool_);
}

bool factor_symmetric(MatrixView h, FloatProducts& products, ThreadPool& pool,
                      TriangularFactor& factor) {
  const std::int64_t n = h.rows;
  factor.n = n;
  factor.columns.assign(static_cast<std::size_t>(n * n), 0.0f);
  factor.pivots.assign(static_cast<std::size_t>(n), 0.0f);
  const MutableMatrixView l(factor.columns.data(), n, n);
  std::vector<float> diagonal(static_cast<std::size_t>(n));
  for (std::int64_t r = 0; r < n; ++r) {
    // From the last row to the first: M is upper triangular. h is symmetric.
    const float* from = h.row(n - 1 - r);
    for (std::int64_t c = 0; c <= r; ++c) l.row(r)[c] = h.row(n - 1 - c)[n - 1 - r];
    diagonal[static_cast<std::size_t>(r)] = from[n - 1 - r];
  }
  std::vector<float> known(static_cast<std::size_t>(n * std::min(n, block_cols)));
  for (std::int64_t first = 0; first < n; first += block_cols) {
    const std::int64_t n_block = std::min(block_cols, n - first), below = first + n_block;
    const std::int64_t n_rows = n - first;
    if (first > 0) {
      const MutableMatrixView product(known.data(), n_rows, n_block);
      products.multiply({l.row(first), n_rows, first, n}, {l.row(first), n_block, first, n},
                        product);
      pool.parallel_for(n_rows, rows_at_once, [&](std::int64_t from, std::int64_t to, int) {
        for (std::int64_t r = from; r < to; ++r) {
          const std::int64_t n_cols = std::min(r + 1, n_block);
          float* row = l.row(first + r) + first;
          for (std::int64_t c = 0; c < n_cols; ++c) row[c] -= product.row(r)[c];
        }
      });
    }
    if (!factor_block(l, first, n_block, diagonal)) return false;
    pool.parallel_for(n - below, rows_at_once, [&](std::int64_t from, std::int64_t to, int) {
      solve_rows(l, first, n_block, below + from, to - from);
    });
  }
  swap_across_antidiagonal(l, pool);
  for (std::int64_t k = 0; k < n; ++k) {
    float* column = l.row(k);
    const float pivot = column[k];
    factor.pivots[static_cast<std::size_t>(k)] = pivot * pivot;
    for (std::int64_t j = 0; j < k; ++j) column[j] /= pivot;
    column[k] = 1;
  }
  return true;
}

}  // namespace lowbit
