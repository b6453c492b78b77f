// SPDX-License-Identifier: Apache-2.0
// Tiles of X^T X on the primitives, as gram.h defines them: a tile is some rows of G out of one
// panel times some whole panels. Included inside the anonymous namespace of an instruction set's
// file.

/// 24 accumulators where there are 32 registers of 16 lanes, else 8 or 16 registers' worth.
constexpr int gram_rows = attention_vectors == 4 ? 8 : 4;
constexpr int gram_panels = attention_vectors == 4 ? 3 : 1;

template <int n_panels>
void gram_tile(const GramJob& job, std::int64_t row_panel, int first_lane, std::int64_t col_panel) {
  const std::int64_t panel_size = job.n_tokens * panel_cols;
  const float* a = job.panels + row_panel * panel_size + first_lane;
  const float* b = job.panels + col_panel * panel_size;
  f32x16 acc[gram_rows][n_panels];
#pragma GCC unroll 8
  for (int i = 0; i < gram_rows; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) acc[i][p] = splat(0.0f);
  }
  for (std::int64_t t = 0; t < job.n_tokens; ++t) {
    f32x16 v[n_panels];
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) v[p] = load(b + p * panel_size + t * panel_cols);
#pragma GCC unroll 8
    for (int i = 0; i < gram_rows; ++i) {
      const f32x16 x = splat(a[t * panel_cols + i]);
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) acc[i][p] = fma(x, v[p], acc[i][p]);
    }
  }
  const std::int64_t first_row = row_panel * panel_cols + first_lane;
#pragma GCC unroll 8
  for (int i = 0; i < gram_rows; ++i) {
    if (first_row + i >= job.n) break;
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      const std::int64_t col = (col_panel + p) * panel_cols;
      float* const g = job.g + (first_row + i) * job.g_stride + col;
      if (col + panel_cols <= job.n) {
        store(g, add(load(g), acc[i][p]));
      } else {
        const int n_left = static_cast<int>(job.n - col);
        store_first(g, add(load_first(g, n_left), acc[i][p]), n_left);
      }
    }
  }
}

inline void gram_panels_of(const GramJob& job, std::int64_t first_row, std::int64_t last_row,
                           std::int64_t first_col, std::int64_t last_col) {
  for (std::int64_t row = first_row; row < last_row; ++row) {
    for (int lane = 0; lane < panel_cols; lane += gram_rows) {
      std::int64_t col = first_col > row ? first_col : row;
      for (; col + gram_panels <= last_col; col += gram_panels) {
        gram_tile<gram_panels>(job, row, lane, col);
      }
      if constexpr (gram_panels > 1) {
        for (; col < last_col; ++col) gram_tile<1>(job, row, lane, col);
      }
    }
  }
}

constexpr GramKernels gram_kernels{.panels = gram_panels_of};
