// SPDX-License-Identifier: Apache-2.0
#include "lowbit/kernels/gram.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "lowbit/base/assert.h"
#include "lowbit/kernels/kernel_table.h"

namespace lowbit {
namespace {

/// Panels in a side of what one thread takes at a time: two such blocks of 256 tokens are 256 KiB,
/// in every second-level cache.
constexpr std::int64_t block_panels = 8;
constexpr std::int64_t alignment = 64;

/// The first number of the workspace at an aligned address, with room for n_numbers.
float* aligned_panels(GramWorkspace& workspace, std::int64_t n_numbers) {
  constexpr auto slack = static_cast<std::size_t>(alignment) / sizeof(float);
  const auto needed = static_cast<std::size_t>(n_numbers) + slack;
  if (workspace.panels.size() < needed) workspace.panels.resize(needed);
  void* at = workspace.panels.data();
  std::size_t space = workspace.panels.size() * sizeof(float);
  return static_cast<float*>(std::align(static_cast<std::size_t>(alignment),
                                        static_cast<std::size_t>(n_numbers) * sizeof(float), at,
                                        space));
}

void fill_panel(MatrixView x, std::int64_t panel, float* out) {
  const std::int64_t first = panel * panel_cols;
  const std::int64_t n_here = std::min<std::int64_t>(panel_cols, x.cols - first);
  for (std::int64_t t = 0; t < x.rows; ++t, out += panel_cols) {
    std::copy_n(x.row(t) + first, n_here, out);
    std::fill_n(out + n_here, panel_cols - n_here, 0.0f);
  }
}

void add_block(const KernelTable& kernels, MatrixView x, MutableMatrixView g,
               GramWorkspace& workspace, ThreadPool& pool) {
  const std::int64_t n_panels = (x.cols + panel_cols - 1) / panel_cols;
  const std::int64_t panel_size = x.rows * panel_cols;
  float* const panels = aligned_panels(workspace, n_panels * panel_size);
  pool.parallel_for(n_panels, /*chunk=*/4, [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t p = first; p < last; ++p) fill_panel(x, p, panels + p * panel_size);
  });
  const GramJob job{panels, x.rows, x.cols, g.data, g.stride};
  // Pairs of blocks on and above the diagonal, numbered row by row.
  const std::int64_t n_blocks = (n_panels + block_panels - 1) / block_panels;
  pool.parallel_for(
      n_blocks * n_blocks, /*chunk=*/1, [&](std::int64_t first, std::int64_t last, int) {
        for (std::int64_t pair = first; pair < last; ++pair) {
          const std::int64_t row = pair / n_blocks, col = pair % n_blocks;
          if (col < row) continue;
          kernels.gram.panels(job, row * block_panels, std::min((row + 1) * block_panels, n_panels),
                              col * block_panels, std::min((col + 1) * block_panels, n_panels));
        }
      });
}

}  // namespace

void add_gram(const KernelTable& kernels, MatrixView x, MutableMatrixView g,
              GramWorkspace& workspace, ThreadPool& pool) {
  LOWBIT_ASSERT(g.rows == x.cols && g.cols == x.cols);
  for (std::int64_t first = 0; first < x.rows; first += gram_block_tokens) {
    const std::int64_t n_tokens = std::min(gram_block_tokens, x.rows - first);
    add_block(kernels, {x.row(first), n_tokens, x.cols, x.stride}, g, workspace, pool);
  }
}

void mirror_gram(MutableMatrixView g, ThreadPool& pool) {
  // By squares, so that the columns read stay in the cache.
  constexpr std::int64_t side = 64;
  const std::int64_t n_squares = (g.rows + side - 1) / side;
  pool.parallel_for(n_squares, /*chunk=*/1, [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t i = first * side; i < std::min(last * side, g.rows); i += side) {
      for (std::int64_t j = 0; j <= i; j += side) {
        for (std::int64_t row = i; row < std::min(i + side, g.rows); ++row) {
          for (std::int64_t col = j; col < std::min(j + side, row); ++col) {
            g.row(row)[col] = g.row(col)[row];
          }
        }
      }
    }
  });
}

void add_gram_reference(MatrixView x, MutableMatrixView g) {
  for (std::int64_t first = 0; first < x.rows; first += gram_block_tokens) {
    const std::int64_t last = std::min(first + gram_block_tokens, x.rows);
    for (std::int64_t i = 0; i < x.cols; ++i) {
      for (std::int64_t j = 0; j < x.cols; ++j) {
        float sum = 0;
        for (std::int64_t t = first; t < last; ++t) sum = std::fma(x.row(t)[i], x.row(t)[j], sum);
        g.row(i)[j] += sum;
      }
    }
  }
}

}  // namespace lowbit
