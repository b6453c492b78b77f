// SPDX-License-Identifier: Apache-2.0
// The matrix products, written once on the primitives and compiled per instruction set. Included
// inside an anonymous namespace, nowhere else. For each group of panels: a block of inputs is
// unpacked into scratch (codes as bytes or numbers as floats, factors as f32, one vector per step),
// then tiles of tokens walk it; accumulators stay in registers inside a tile. With many tokens a
// block is all of K and unpacking is paid once; with few it fits the first-level cache.

#include "lowbit/kernels/unpack_body.h"

constexpr std::int64_t row_bytes = panel_cols * quad_k;

/// Scratch memory handed out in 64-byte aligned pieces.
struct Scratch {
  std::byte* next;
  template <class T>
  LOWBIT_PRIMITIVE T* take(std::int64_t n_items) {
    T* piece = reinterpret_cast<T*>(next);
    next += (n_items * static_cast<std::int64_t>(sizeof(T)) + 63) / 64 * 64;
    return piece;
  }
};

LOWBIT_PRIMITIVE std::int64_t least_of(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}

alignas(64) constexpr float ones[panel_cols] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

// ---- int8 activations

enum class Form : std::uint8_t { plain, integer_zero, real_zero, two_level, two_level_zero };

/// One tile's view of an unpacked block. Strides in items; [token] and [panel] strides are named.
struct Int8Tile {
  const std::uint8_t* codes;  // (panel, quad, 64)
  std::int64_t codes_stride;
  const std::int8_t* x;  // (token, inputs of the block)
  std::int64_t x_stride;
  std::int64_t n_steps, step_quads, n_quads;
  const float* ws;  // (panel, step, 16); step stride 0 when constant
  const float* wz;
  const std::int32_t* zeros;  // integer zeros (panel, step, 16)
  std::int64_t factor_panel, factor_step, zero_panel, zero_step;
  const float* as;  // (token, activation group)
  std::int64_t as_stride, first_step;
  int as_shift;
  const std::int32_t* start;  // (token, step): the bias of the stored codes times the sum of x
  const std::int32_t* asum;   // (token, step)
  std::int64_t sums_stride;
  bool is_short;             // sums of a step fit int16
  const std::int32_t* subs;  // two-level: (panel, group, 16)
  const std::int32_t* zero_subs;
  std::int64_t sub_panel, step_subs, sub_quads, n_subs;
  float* state;  // (token, panel, 16)
};

LOWBIT_PRIMITIVE i32x16 times_sum(const i32x16& zero, std::int32_t asum, bool is_short) {
  return is_short ? mul_i16(zero, splat(asum)) : mul(zero, splat(asum));
}

/// acc += the codes of one quad times x.
template <int n_tokens, int n_panels, bool wide>
LOWBIT_PRIMITIVE void dot_quad(const Int8Tile& t, const std::uint8_t* codes, const std::int8_t* x,
                               i32x16 (&acc)[n_tokens][n_panels]) {
  u8x64 w[n_panels];
#pragma GCC unroll 4
  for (int p = 0; p < n_panels; ++p) w[p] = load(codes + p * t.codes_stride);
#pragma GCC unroll 8
  for (int i = 0; i < n_tokens; ++i) {
    const u8x64 four = broadcast4(x + i * t.x_stride);
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) acc[i][p] = dot4<wide>(acc[i][p], w[p], four);
  }
}

/// acc += codes of quads [first, last) times x. Whole tiles, the usual step, run without a branch:
/// a loop of 8 rounds costs as much in its exit as in its products.
template <int n_tokens, int n_panels, bool wide>
LOWBIT_PRIMITIVE void dot_quads(const Int8Tile& t, std::int64_t first, std::int64_t last,
                                i32x16 (&acc)[n_tokens][n_panels]) {
  constexpr int tile_quads = tile_k / quad_k;
  const std::uint8_t* codes = t.codes + first * row_bytes;
  const std::int8_t* x = t.x + first * quad_k;
  std::int64_t n_quads = last - first;
  for (; n_quads >= tile_quads; n_quads -= tile_quads) {
#pragma GCC unroll 8
    for (int quad = 0; quad < tile_quads; ++quad) {
      dot_quad<n_tokens, n_panels, wide>(t, codes + quad * row_bytes, x + quad * quad_k, acc);
    }
    codes += tile_quads * row_bytes;
    x += tile_quads * quad_k;
  }
  for (; n_quads > 0; --n_quads) {
    dot_quad<n_tokens, n_panels, wide>(t, codes, x, acc);
    codes += row_bytes;
    x += quad_k;
  }
}

template <int n_tokens, int n_panels, Form form, bool wide>
void int8_tile(const Int8Tile& t) {
  f32x16 f[n_tokens][n_panels];
#pragma GCC unroll 8
  for (int i = 0; i < n_tokens; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) f[i][p] = load(t.state + (i * n_panels + p) * panel_cols);
  }
  for (std::int64_t step = 0; step < t.n_steps; ++step) {
    const std::int64_t first = step * t.step_quads;
    const std::int64_t last = least_of(first + t.step_quads, t.n_quads);
    i32x16 acc[n_tokens][n_panels];
#pragma GCC unroll 8
    for (int i = 0; i < n_tokens; ++i) {
      const i32x16 start = splat(t.start[i * t.sums_stride + step]);
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) acc[i][p] = start;
    }
    dot_quads<n_tokens, n_panels, wide>(t, first, last, acc);
#pragma GCC unroll 8
    for (int i = 0; i < n_tokens; ++i) {
      const f32x16 as = splat(t.as[i * t.as_stride + ((t.first_step + step) >> t.as_shift)]);
      const std::int32_t asum = t.asum[i * t.sums_stride + step];
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        i32x16 a = acc[i][p];
        if constexpr (form == Form::integer_zero) {
          const i32x16 zero = load(t.zeros + p * t.zero_panel + step * t.zero_step);
          a = sub(a, times_sum(zero, asum, t.is_short));
        }
        const std::int64_t at = p * t.factor_panel + step * t.factor_step;
        f[i][p] = fma(to_f32(a), mul(load(t.ws + at), as), f[i][p]);
        if constexpr (form == Form::real_zero) {
          f[i][p] = fma(splat(static_cast<float>(asum)), mul(load(t.wz + at), as), f[i][p]);
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

/// Two-level scales: an int32 sum of sub-scale x dot per super-block, so f32 work is rare and f
/// stays in memory.
template <int n_tokens, int n_panels, Form form, bool wide>
void int8_super_tile(const Int8Tile& t) {
  for (std::int64_t step = 0; step < t.n_steps; ++step) {
    const std::int64_t first_sub = step * t.step_subs;
    const std::int64_t last_sub = least_of(first_sub + t.step_subs, t.n_subs);
    i32x16 total[n_tokens][n_panels];
#pragma GCC unroll 8
    for (int i = 0; i < n_tokens; ++i) {
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) total[i][p] = splat(0);
    }
    for (std::int64_t s = first_sub; s < last_sub; ++s) {
      i32x16 acc[n_tokens][n_panels];
#pragma GCC unroll 8
      for (int i = 0; i < n_tokens; ++i) {
        const i32x16 start = splat(t.start[i * t.sums_stride + s]);
#pragma GCC unroll 4
        for (int p = 0; p < n_panels; ++p) acc[i][p] = start;
      }
      const std::int64_t first = s * t.sub_quads;
      dot_quads<n_tokens, n_panels, wide>(t, first, least_of(first + t.sub_quads, t.n_quads), acc);
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        const i32x16 scale = load(t.subs + p * t.sub_panel + s * panel_cols);
#pragma GCC unroll 8
        for (int i = 0; i < n_tokens; ++i) total[i][p] = add(total[i][p], mul(acc[i][p], scale));
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_tokens; ++i) {
      const f32x16 as = splat(t.as[i * t.as_stride + ((t.first_step + step) >> t.as_shift)]);
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        float* state = t.state + (i * n_panels + p) * panel_cols;
        const std::int64_t at = p * t.factor_panel + step * t.factor_step;
        f32x16 f = fma(to_f32(total[i][p]), mul(load(t.ws + at), as), load(state));
        if constexpr (form == Form::two_level_zero) {
          i32x16 zeros = splat(0);
          for (std::int64_t s = first_sub; s < last_sub; ++s) {
            const i32x16 zero = load(t.zero_subs + p * t.sub_panel + s * panel_cols);
            zeros = add(zeros, mul_i16(zero, splat(t.asum[i * t.sums_stride + s])));
          }
          f = fma(to_f32(zeros), mul(load(t.wz + at), as), f);
        }
        store(state, f);
      }
    }
  }
}

using Int8TileKernel = void (*)(const Int8Tile&);

template <int n_tokens, int n_panels, bool wide>
Int8TileKernel int8_kernel_of(Form form) {
  switch (form) {
    case Form::plain:
      return int8_tile<n_tokens, n_panels, Form::plain, wide>;
    case Form::integer_zero:
      return int8_tile<n_tokens, n_panels, Form::integer_zero, wide>;
    case Form::real_zero:
      return int8_tile<n_tokens, n_panels, Form::real_zero, wide>;
    case Form::two_level:
      return int8_super_tile<n_tokens, n_panels, Form::two_level, wide>;
    default:
      return int8_super_tile<n_tokens, n_panels, Form::two_level_zero, wide>;
  }
}

/// The kernel for n_tokens <= tile_tokens. Only where it differs is a wide code a kernel of its
/// own.
template <int n_tokens, int n_panels>
Int8TileKernel int8_kernel(std::int64_t n, Form form, bool wide) {
  if constexpr (n_tokens > 1) {
    if (n < n_tokens) return int8_kernel<n_tokens - 1, n_panels>(n, form, wide);
  }
  if constexpr (wide_bias != 0) {
    if (wide) return int8_kernel_of<n_tokens, n_panels, true>(form);
  }
  return int8_kernel_of<n_tokens, n_panels, false>(form);
}

/// f of one token and panel -> y: what is constant along the row, then the store.
LOWBIT_PRIMITIVE void finish(const MatmulJob& job, std::int64_t panel, std::int64_t token, f32x16 f,
                             float row_sum, float as) {
  const PanelView& w = job.w;
  const std::int64_t column = panel * panel_cols;
  if (w.group_k == 0) {
    const bool is_integer_product = job.codes != nullptr;
    if (is_integer_product) {
      f32x16 scale = splat(w.unit);
      if (w.row_scale != nullptr) scale = mul(load(w.row_scale + column), scale);
      f = mul(f, scale);
    } else if (w.row_scale != nullptr) {
      f = mul(f, load(w.row_scale + column));
    }
    if (w.row_add != nullptr) f = fma(splat(row_sum), load(w.row_add + column), f);
  }
  f = mul(f, splat(as));
  float* y = job.y + token * job.y_stride + column;
  if (column + panel_cols <= w.rows) {
    store(y, f);
  } else {
    store_first(y, f, static_cast<int>(w.rows - column));
  }
}

inline Form form_of(const PanelView& w) {
  if (w.group_k != 0 && w.scale.kind == FactorKind::two_level) {
    return w.zero_kind == ZeroKind::none ? Form::two_level : Form::two_level_zero;
  }
  if (w.zero_kind == ZeroKind::integer) return Form::integer_zero;
  return w.zero_kind == ZeroKind::none || w.group_k == 0 ? Form::plain : Form::real_zero;
}

inline int shift_of(std::int64_t ratio) {
  return 63 - __builtin_clzll(static_cast<unsigned long long>(ratio));
}

/// The sum over the steps of asum * as, for zeros that are constant along the row.
inline float row_sum_of(const MatmulJob& job, std::int64_t token) {
  const std::int32_t* asum = job.sums + token * job.n_sums;
  if (job.activation_group_k == 0) return static_cast<float>(asum[0]);
  float h = 0;
  for (std::int64_t step = 0; step < job.n_sums; ++step) {
    h = __builtin_fmaf(static_cast<float>(asum[step]), job.scales[token * job.scales_stride + step],
                       h);
  }
  return h;
}

template <int n_panels>
void int8_group(const MatmulJob& job, std::int64_t first_panel, std::int64_t first_token,
                std::int64_t last_token, Scratch scratch) {
  const PanelView& w = job.w;
  const Form form = form_of(w);
  const bool two_level = form == Form::two_level || form == Form::two_level_zero;
  const std::int64_t padded_k = (w.cols + tile_k - 1) / tile_k * tile_k;
  const std::int64_t block_k = least_of(job.block_k, padded_k), n_tokens = last_token - first_token;
  const std::int64_t block_steps = (block_k + job.step_k - 1) / job.step_k;
  const bool varies = w.group_k != 0;
  const bool wide = w.wide;

  Int8Tile t{};
  std::uint8_t* codes = scratch.take<std::uint8_t>(n_panels * panel_cols * block_k);
  float* ws = scratch.take<float>(n_panels * panel_cols * block_steps);
  float* wz = scratch.take<float>(n_panels * panel_cols * block_steps);
  std::int32_t* zeros = scratch.take<std::int32_t>(n_panels * panel_cols * block_steps);
  const std::int64_t block_subs = two_level ? (block_k + w.group_k - 1) / w.group_k : 0;
  std::int32_t* subs = scratch.take<std::int32_t>(n_panels * panel_cols * block_subs);
  std::int32_t* zero_subs = scratch.take<std::int32_t>(n_panels * panel_cols * block_subs);
  float* state = scratch.take<float>(n_tokens * n_panels * panel_cols);
  for (std::int64_t i = 0; i < n_tokens * n_panels; ++i) store(state + i * panel_cols, splat(0.0f));

  t.codes = codes;
  t.codes_stride = panel_cols * block_k;
  t.step_quads = job.step_k / quad_k;
  t.ws = varies ? ws : ones;
  t.wz = wz;
  t.factor_panel = varies ? block_steps * panel_cols : 0;
  t.factor_step = varies ? panel_cols : 0;
  t.zeros = varies ? zeros : w.row_zero_code + first_panel * panel_cols;
  t.zero_panel = varies ? block_steps * panel_cols : panel_cols;
  t.zero_step = varies ? panel_cols : 0;
  t.is_short = job.step_k <= 256;
  t.as_shift = job.activation_group_k == 0 ? 63 : shift_of(job.activation_group_k / job.step_k);
  t.as_stride = job.activation_group_k == 0 ? 0 : job.scales_stride;
  t.x_stride = job.codes_stride;
  t.subs = subs;
  t.zero_subs = zero_subs;
  t.sub_panel = block_subs * panel_cols;
  t.sub_quads = w.group_k / quad_k;
  t.step_subs = two_level ? job.step_k / w.group_k : 0;

  for (std::int64_t k = 0; k < w.cols; k += block_k) {
    const std::int64_t last_k = least_of(k + block_k, padded_k);
    const std::int64_t n_k = least_of(k + block_k, w.cols) - k;
    t.n_quads = (last_k - k) / quad_k;
    t.n_steps = (n_k + job.step_k - 1) / job.step_k;
    t.first_step = k / job.step_k;
    for (int p = 0; p < n_panels; ++p) {
      const std::int64_t panel = first_panel + p;
      unpack_codes(w, panel, k, last_k, codes + p * t.codes_stride);
      if (two_level) {
        t.n_subs = (n_k + w.group_k - 1) / w.group_k;
        const std::int64_t at = p * block_steps * panel_cols, sub_at = p * t.sub_panel;
        unpack_coarse(w, w.scale, panel, k, t.n_steps, w.scale.unit * w.unit, ws + at);
        unpack_subs(w, w.scale, panel, k, t.n_subs, subs + sub_at);
        if (form == Form::two_level_zero) {
          unpack_coarse(w, w.zero, panel, k, t.n_steps, w.zero.unit, wz + at);
          unpack_subs(w, w.zero, panel, k, t.n_subs, zero_subs + sub_at);
        }
      } else if (varies) {
        const std::int64_t at = p * block_steps * panel_cols;
        unpack_step_factors(w, panel, k, t.n_steps, job.step_k, w.unit, ws + at,
                            form == Form::real_zero ? wz + at : nullptr,
                            form == Form::integer_zero ? zeros + at : nullptr);
      }
    }
    for (std::int64_t token = 0; token < n_tokens; token += tile_tokens) {
      const std::int64_t n = least_of(tile_tokens, n_tokens - token);
      const std::int64_t global = first_token + token;
      const std::int64_t first_sum = two_level ? k / w.group_k : t.first_step;
      t.x = job.codes + global * job.codes_stride + k;
      t.as = job.activation_group_k == 0 ? ones : job.scales + global * job.scales_stride;
      t.start = job.starts + global * job.n_sums + first_sum;
      t.asum = job.sums + global * job.n_sums + first_sum;
      t.sums_stride = job.n_sums;
      t.state = state + token * n_panels * panel_cols;
      int8_kernel<tile_tokens, n_panels>(n, form, wide)(t);
    }
  }
  for (std::int64_t token = 0; token < n_tokens; ++token) {
    const std::int64_t global = first_token + token;
    const float as = job.activation_group_k == 0 ? job.scales[global * job.scales_stride] : 1.0f;
    const float h = w.row_add == nullptr ? 0.0f : row_sum_of(job, global);
    for (int p = 0; p < n_panels; ++p) {
      finish(job, first_panel + p, global, load(state + (token * n_panels + p) * panel_cols), h,
             as);
    }
  }
}

#include "lowbit/kernels/gemv_body.h"

/// One token through gemv_body.h, where the instruction set wants it (n_panels > 0).
template <int n_panels>
bool int8_gemv_of(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel) {
  if constexpr (n_panels > 0) {
    if (job.n_tokens == 1) {
      int8_gemv<n_panels>(job, first_panel, last_panel);
      return true;
    }
  }
  return false;
}

inline void int8_panels(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel,
                        std::int64_t first_token, std::int64_t last_token, std::byte* memory) {
  if (int8_gemv_of<int8_gemv_panels>(job, first_panel, last_panel)) return;
  const Scratch scratch{memory};
  std::int64_t panel = first_panel;
  for (; panel + tile_panels <= last_panel; panel += tile_panels) {
    int8_group<tile_panels>(job, panel, first_token, last_token, scratch);
  }
  if constexpr (tile_panels > 1) {
    for (; panel < last_panel; ++panel) {
      int8_group<1>(job, panel, first_token, last_token, scratch);
    }
  }
}

#include "lowbit/kernels/matmul_f32_body.h"

// ---- activations

/// reference.h defines every operation of this.
inline void quantize_row(const float* x, std::int64_t cols, std::int64_t group_k,
                         std::int8_t* codes, float* scales, std::int32_t* sums) {
  constexpr std::int64_t lanes = panel_cols;
  constexpr float max_code = 127, smallest = 0x1p-100f;
  constexpr std::int32_t magnitude = 0x7fffffff, infinity = 0x7f800000;
  const std::int64_t step = group_k == 0 ? cols : group_k;
  const std::int64_t padded_k = (cols + tile_k - 1) / tile_k * tile_k;
  for (std::int64_t first = 0; first < cols; first += step) {
    const std::int64_t last = least_of(first + step, cols);
    // Magnitudes are compared as integers: the same order, and a NaN is above everything.
    i32x16 most_bits = splat(0);
    for (std::int64_t k = first; k < last; k += lanes) {
      const f32x16 part = load_first(x + k, static_cast<int>(least_of(lanes, last - k)));
      most_bits = max(most_bits, bit_and(as_bits(part), splat(magnitude)));
    }
    const std::int32_t bits = max_lane(most_bits);
    float most;
    __builtin_memcpy(&most, &bits, sizeof most);
    const bool is_finite = bits < infinity, is_zero = is_finite && most < smallest;
    *scales++ = !is_finite ? __builtin_nanf("") : is_zero ? 0.0f : most / max_code;
    const f32x16 inverse = splat(is_finite && !is_zero ? max_code / most : 0.0f);
    for (std::int64_t k = first; k < last; k += lanes) {
      i32x16 code = splat(0);
      if (is_finite && !is_zero) {
        const f32x16 part = load_first(x + k, static_cast<int>(least_of(lanes, last - k)));
        const f32x16 scaled = mul(part, inverse);
        code = to_i32(max(min(scaled, splat(max_code)), splat(-max_code)));
      }
      store_i8(codes + k, code);
      sums[k / lanes] = sum(code);
    }
  }
  for (std::int64_t k = (cols + lanes - 1) / lanes * lanes; k < padded_k; k += lanes) {
    store_i8(codes + k, splat(0));
    sums[k / lanes] = 0;
  }
}

constexpr MatmulKernels matmul_kernels{.tile_tokens = tile_tokens,
                                       .tile_panels = tile_panels,
                                       .gemv_panels = gemv_panels,
                                       .wide_bias = wide_bias,
                                       .quantize_row = quantize_row,
                                       .int8_panels = int8_panels,
                                       .f32_panels = f32_panels};
