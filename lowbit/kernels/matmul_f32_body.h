// SPDX-License-Identifier: Apache-2.0
// Products with f32 activations: panels become numbers in scratch, then fma chains over k run with
// one output per lane; with one token, panels are read straight from memory. Included inside an
// anonymous namespace by matmul_body.h, nowhere else.

struct F32Tile {
  const float* values;  // (panel, k, 16); what Chain made of them
  std::int64_t values_stride;
  const float* x;  // (token, k); likewise
  std::int64_t x_stride;
  std::int64_t n_k, group_k;  // group_k 0: the chain goes on from the state
  const float* ws;            // (panel, group, 16)
  const float* wz;
  std::int64_t factor_panel;
  const float* xsum;  // (token, group)
  std::int64_t xsum_stride;
  float* state;
};

/// The products of one group, in k order: f32 numbers as they are. bf16_body.h has another chain,
/// which is why this one has a name.
struct FmaChain {
  /// Makes of n_k rows of 16 numbers, in place, what run() reads.
  static void prepare_values(float*, std::int64_t) {}
  /// The same for n_tokens of t.x; memory from scratch.
  static void prepare_tokens(F32Tile&, std::int64_t, Scratch) {}

  template <int n_tokens, int n_panels>
  LOWBIT_PRIMITIVE static void run(const F32Tile& t, std::int64_t first, std::int64_t last,
                                   f32x16 (&acc)[n_tokens][n_panels]) {
    for (std::int64_t k = first; k < last; ++k) {
      f32x16 v[n_panels];
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        v[p] = load(t.values + p * t.values_stride + k * panel_cols);
      }
#pragma GCC unroll 8
      for (int i = 0; i < n_tokens; ++i) {
        const f32x16 x = splat(t.x[i * t.x_stride + k]);
#pragma GCC unroll 4
        for (int p = 0; p < n_panels; ++p) acc[i][p] = fma(x, v[p], acc[i][p]);
      }
    }
  }
};

template <class Chain, int n_tokens, int n_panels>
void f32_tile(const F32Tile& t) {
  f32x16 f[n_tokens][n_panels];
#pragma GCC unroll 8
  for (int i = 0; i < n_tokens; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) f[i][p] = load(t.state + (i * n_panels + p) * panel_cols);
  }
  if (t.group_k == 0) {
    Chain::template run<n_tokens, n_panels>(t, 0, t.n_k, f);
  } else {
    std::int64_t group = 0;
    for (std::int64_t first = 0; first < t.n_k; first += t.group_k, ++group) {
      f32x16 acc[n_tokens][n_panels];
#pragma GCC unroll 8
      for (int i = 0; i < n_tokens; ++i) {
#pragma GCC unroll 4
        for (int p = 0; p < n_panels; ++p) acc[i][p] = splat(0.0f);
      }
      Chain::template run<n_tokens, n_panels>(t, first, least_of(first + t.group_k, t.n_k), acc);
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        const std::int64_t at = p * t.factor_panel + group * panel_cols;
        const f32x16 ws = load(t.ws + at);
#pragma GCC unroll 8
        for (int i = 0; i < n_tokens; ++i) f[i][p] = fma(acc[i][p], ws, f[i][p]);
        if (t.wz == nullptr) continue;
        const f32x16 wz = load(t.wz + at);
#pragma GCC unroll 8
        for (int i = 0; i < n_tokens; ++i) {
          f[i][p] = fma(splat(t.xsum[i * t.xsum_stride + group]), wz, f[i][p]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < n_tokens; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) store(t.state + (i * n_panels + p) * panel_cols, f[i][p]);
  }
}

using F32TileKernel = void (*)(const F32Tile&);

template <class Chain, int n_tokens, int n_panels>
F32TileKernel f32_kernel(std::int64_t n) {
  if constexpr (n_tokens > 1) {
    if (n < n_tokens) return f32_kernel<Chain, n_tokens - 1, n_panels>(n);
  }
  return f32_tile<Chain, n_tokens, n_panels>;
}

template <class Chain, int n_panels, int max_tokens>
void f32_group(const MatmulJob& job, std::int64_t first_panel, std::int64_t first_token,
               std::int64_t last_token, Scratch scratch) {
  const PanelView& w = job.w;
  const std::int64_t n_tokens = last_token - first_token;
  const std::int64_t padded_k = (w.cols + tile_k - 1) / tile_k * tile_k;
  const std::int64_t block_k = least_of(job.block_k, padded_k);
  const bool varies = w.group_k != 0;
  const bool has_real_zero = w.zero_kind == ZeroKind::real || w.zero_kind == ZeroKind::product;
  const std::int64_t block_groups = varies ? (block_k + w.group_k - 1) / w.group_k : 0;
  F32Tile t{};
  float* values = scratch.take<float>(n_panels * panel_cols * block_k);
  float* ws = scratch.take<float>(n_panels * panel_cols * block_groups);
  float* wz = scratch.take<float>(n_panels * panel_cols * block_groups);
  std::int32_t* zeros = scratch.take<std::int32_t>(panel_cols * (block_groups + 1));
  float* state = scratch.take<float>(n_tokens * n_panels * panel_cols);
  for (std::int64_t i = 0; i < n_tokens * n_panels; ++i) store(state + i * panel_cols, splat(0.0f));
  t.values = values;
  t.values_stride = panel_cols * block_k;
  t.group_k = w.group_k;
  t.ws = ws;
  t.wz = varies && has_real_zero ? wz : nullptr;
  t.factor_panel = block_groups * panel_cols;
  t.xsum_stride = job.n_sums;
  for (std::int64_t k = 0; k < w.cols; k += block_k) {
    const std::int64_t last_k = least_of(k + block_k, padded_k);
    t.n_k = least_of(k + block_k, w.cols) - k;
    const std::int64_t in_block = varies ? (t.n_k + w.group_k - 1) / w.group_k : 0;
    for (int p = 0; p < n_panels; ++p) {
      const std::int64_t panel = first_panel + p, at = p * t.factor_panel;
      const std::int32_t* offsets = nullptr;
      if (varies) {
        unpack_step_factors(w, panel, k, in_block, w.group_k, 1.0f, ws + at,
                            has_real_zero ? wz + at : nullptr,
                            w.zero_kind == ZeroKind::integer ? zeros : nullptr);
      }
      if (w.zero_kind == ZeroKind::integer) {
        offsets = varies ? zeros : w.row_zero_code + panel * panel_cols;
      }
      unpack_values(w, panel, k, last_k, offsets, values + p * t.values_stride);
      Chain::prepare_values(values + p * t.values_stride, last_k - k);
    }
    for (std::int64_t token = 0; token < n_tokens; token += max_tokens) {
      const std::int64_t n = least_of(max_tokens, n_tokens - token);
      t.x = job.x + (first_token + token) * job.x_stride + k;
      t.x_stride = job.x_stride;
      Chain::prepare_tokens(t, n, scratch);
      t.xsum = job.x_sums + (first_token + token) * job.n_sums + (varies ? k / w.group_k : 0);
      t.state = state + token * n_panels * panel_cols;
      f32_kernel<Chain, max_tokens, n_panels>(n)(t);
    }
  }
  for (std::int64_t token = 0; token < n_tokens; ++token) {
    const float h = w.row_add == nullptr ? 0.0f : job.x_sums[first_token + token];
    for (int p = 0; p < n_panels; ++p) {
      finish(job, first_panel + p, first_token + token,
             load(state + (token * n_panels + p) * panel_cols), h, 1.0f);
    }
  }
}

/// One token times panels of plain floats, straight from memory: the chain of f32_tile.
template <FactorKind kind, int n_panels>
void float_gemv(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel) {
  const PanelView& w = job.w;
  constexpr std::int64_t size = kind == FactorKind::f32 ? sizeof(float) : sizeof(std::uint16_t);
  for (std::int64_t panel = first_panel; panel < last_panel; panel += n_panels) {
    const std::byte* from[n_panels];  // beyond the last panel: the last one again
    f32x16 f[n_panels];
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      from[p] = w.panels + least_of(panel + p, last_panel - 1) * w.panel_bytes;
      f[p] = splat(0.0f);
    }
    for (std::int64_t k = 0; k < w.cols; ++k) {
      const f32x16 x = splat(job.x[k]);
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        prefetch(from[p] + prefetch_bytes);
        f[p] = fma(x, load_floats(kind, from[p], 0, nullptr), f[p]);
        from[p] += panel_cols * size;
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      if (panel + p < last_panel) finish(job, panel + p, 0, f[p], 0.0f, 1.0f);
    }
  }
}

#include "lowbit/kernels/f32_gemv_body.h"

/// Whether the product was one of one token straight from memory, and is done.
inline bool float_gemv_of(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel) {
  if (job.n_tokens != 1) return false;
  switch (job.w.code) {
    case CodeKind::f32:
      float_gemv<FactorKind::f32, gemv_panels>(job, first_panel, last_panel);
      break;
    case CodeKind::f16:
      float_gemv<FactorKind::f16, gemv_panels>(job, first_panel, last_panel);
      break;
    case CodeKind::bf16:
      float_gemv<FactorKind::bf16, gemv_panels>(job, first_panel, last_panel);
      break;
    default:
      if constexpr (gemv_panels > 1) {
        const F32Planes planes = f32_planes_of<gemv_panels>(job.w);
        if (planes == nullptr) return false;
        planes(job, first_panel, last_panel);
        break;
      }
      return false;
  }
  return true;
}

template <class Chain>
void f32_panels_by(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel,
                   std::int64_t first_token, std::int64_t last_token, std::byte* memory) {
  const Scratch scratch{memory};
  const std::int64_t n_tokens = last_token - first_token;
  std::int64_t panel = first_panel;
  if constexpr (gemv_panels > tile_panels) {
    // One token gives one chain per panel: more panels at once hide the latency of fma.
    for (; n_tokens == 1 && panel + gemv_panels <= last_panel; panel += gemv_panels) {
      f32_group<Chain, gemv_panels, 1>(job, panel, first_token, last_token, scratch);
    }
  }
  for (; panel + tile_panels <= last_panel; panel += tile_panels) {
    f32_group<Chain, tile_panels, f32_tile_tokens>(job, panel, first_token, last_token, scratch);
  }
  if constexpr (tile_panels > 1) {
    for (; panel < last_panel; ++panel) {
      f32_group<Chain, 1, f32_tile_tokens>(job, panel, first_token, last_token, scratch);
    }
  }
}

inline void f32_panels(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel,
                       std::int64_t first_token, std::int64_t last_token, std::byte* memory) {
  if (float_gemv_of(job, first_panel, last_panel)) return;
  f32_panels_by<FmaChain>(job, first_panel, last_panel, first_token, last_token, memory);
}
