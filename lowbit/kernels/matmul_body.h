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

/// How far unpacked codes reach, where the instruction set multiplies them differently.
enum class Reach : std::uint8_t {
  small,   // at most max_small_code: the products of 4 quads are summed as int16
  narrow,  // dot4<false>
  wide,    // dot4<true>
};

/// What a step ends with. Every form has a kernel of its own, so that no tile carries registers or
/// branches it does not need.
enum class Form : std::uint8_t {
  row,           // nothing varies along the row: int32 sums all the way
  weight_scale,  // f += scale * acc
  plain,         // f += (scale * activation scale) * acc
  integer_zero,
  real_zero,
  super_8,  // two-level, dots of 8 or 4 quads that fit int16
  super_4,
  super_any,
};

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
  const std::int32_t* start;  // (token, step): what the accumulator starts from
  std::int64_t start_stride;
  const std::int32_t* asum;  // (token, step)
  std::int64_t sums_stride;
  bool is_short;             // sums of a step fit int16
  const std::int32_t* subs;  // two-level: (panel, group, 16)
  std::int64_t sub_panel, step_subs, sub_quads, n_subs;
  // Two-level, a pair of groups in one lane: (panel, pair, 16) and (token, group). sub_pairs times
  // centre_sums is what centred codes owe, zero_pairs times asum_pairs the zeros. Null without.
  const std::int32_t *sub_pairs, *zero_pairs;
  std::int64_t pair_panel;
  const std::int16_t *centre_sums, *asum_pairs;
  std::int64_t pair_stride;
  float* state;           // (token, panel, 16)
  std::int32_t* i_state;  // the same memory, Form::row
};

LOWBIT_PRIMITIVE i32x16 times_sum(const i32x16& zero, std::int32_t asum, bool is_short) {
  return is_short ? mul_i16(zero, splat(asum)) : mul(zero, splat(asum));
}

/// Where a tile reads on.
struct Cursor {
  const std::uint8_t* codes;
  const std::int8_t* x;
};

/// acc += the next n_quads quads, a number known to the compiler, times x.
template <int n_quads, int n_tokens, int n_panels, Reach reach>
LOWBIT_PRIMITIVE void dot_some(const Int8Tile& t, Cursor& at, i32x16 (&acc)[n_tokens][n_panels]) {
  if constexpr (reach == Reach::small) {
    static_assert(n_quads % small_quads == 0);
#pragma GCC unroll 4
    for (int quad = 0; quad < n_quads; quad += small_quads) {
#pragma GCC unroll 16
      for (int i = 0; i < n_tokens; ++i) {
#pragma GCC unroll 4
        for (int p = 0; p < n_panels; ++p) {
          acc[i][p] = dot16(acc[i][p], at.codes + p * t.codes_stride + quad * row_bytes,
                            at.x + i * t.x_stride + quad * quad_k);
        }
      }
    }
    at.codes += n_quads * row_bytes;
    at.x += n_quads * quad_k;
    return;
  }
#pragma GCC unroll 8
  for (int quad = 0; quad < n_quads; ++quad) {
    u8x64 w[n_panels];
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      w[p] = load(at.codes + p * t.codes_stride + quad * row_bytes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n_tokens; ++i) {
      const u8x64 four = broadcast4(at.x + i * t.x_stride + quad * quad_k);
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p)
        acc[i][p] = dot4<reach == Reach::wide>(acc[i][p], w[p], four);
    }
  }
  at.codes += n_quads * row_bytes;
  at.x += n_quads * quad_k;
}

/// acc += the next n_quads quads times x: exactly half a tile of inputs, or whole tiles.
template <bool half_tile, int n_tokens, int n_panels, Reach reach>
LOWBIT_PRIMITIVE void dot_step(const Int8Tile& t, std::int64_t n_quads, Cursor& at,
                               i32x16 (&acc)[n_tokens][n_panels]) {
  constexpr int tile_quads = tile_k / quad_k;
  if constexpr (half_tile) {
    dot_some<tile_quads / 2, n_tokens, n_panels, reach>(t, at, acc);
  } else {
    do {
      dot_some<tile_quads, n_tokens, n_panels, reach>(t, at, acc);
      n_quads -= tile_quads;
    } while (n_quads > 0);
  }
}

/// p, of unknown origin: what walks from token to token is one pointer then. g++ keeps one per
/// token otherwise, half of them in vector registers, and fetching those takes a port of the
/// products.
template <class T>
LOWBIT_PRIMITIVE const T* walk(const T* p) {
  __asm__("" : "+r"(p));
  return p;
}

template <int n_tokens, int n_panels>
LOWBIT_PRIMITIVE void start_sums(const Int8Tile& t, std::int64_t step,
                                 i32x16 (&acc)[n_tokens][n_panels]) {
  const std::int32_t* from = walk(t.start + step);
#pragma GCC unroll 16
  for (int i = 0; i < n_tokens; ++i, from = walk(from + t.start_stride)) {
    const i32x16 start = splat(*from);
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) acc[i][p] = start;
  }
}

/// One step as long as the row: no f32 work, so twice the tokens fit the registers. The sums wait
/// in i_state from block to block; the caller starts them.
template <int n_tokens, int n_panels, Reach reach>
void int8_row_tile(const Int8Tile& tile) {
  const Int8Tile t = tile;
  i32x16 acc[n_tokens][n_panels];
#pragma GCC unroll 16
  for (int i = 0; i < n_tokens; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      acc[i][p] = load(t.i_state + (i * n_panels + p) * panel_cols);
    }
  }
  Cursor at{t.codes, t.x};
  dot_step<false, n_tokens, n_panels, reach>(t, t.n_quads, at, acc);
#pragma GCC unroll 16
  for (int i = 0; i < n_tokens; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      store(t.i_state + (i * n_panels + p) * panel_cols, acc[i][p]);
    }
  }
}

template <int n_tokens, int n_panels, Form form, bool half_tile, Reach reach>
void int8_tile(const Int8Tile& tile) {
  const Int8Tile t = tile;  // a copy, which no store of a vector can change
  f32x16 f[n_tokens][n_panels];
#pragma GCC unroll 8
  for (int i = 0; i < n_tokens; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) f[i][p] = load(t.state + (i * n_panels + p) * panel_cols);
  }
  Cursor at{t.codes, t.x};
  std::int64_t quads_left = t.n_quads;
  for (std::int64_t step = 0; step < t.n_steps; ++step, quads_left -= t.step_quads) {
    i32x16 acc[n_tokens][n_panels];
    start_sums<n_tokens, n_panels>(t, step, acc);
    dot_step<half_tile, n_tokens, n_panels, reach>(t, least_of(t.step_quads, quads_left), at, acc);
    const float* as_at = walk(t.as + ((t.first_step + step) >> t.as_shift));
#pragma GCC unroll 8
    for (int i = 0; i < n_tokens; ++i, as_at = walk(as_at + t.as_stride)) {
      f32x16 as;
      if constexpr (form != Form::weight_scale) as = splat(*as_at);
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        i32x16 a = acc[i][p];
        const std::int64_t factor = p * t.factor_panel + step * t.factor_step;
        if constexpr (form == Form::weight_scale) {
          f[i][p] = fma(to_f32(a), load(t.ws + factor), f[i][p]);
          continue;
        }
        if constexpr (form == Form::integer_zero) {
          const std::int32_t asum = t.asum[i * t.sums_stride + step];
          const i32x16 zero = load(t.zeros + p * t.zero_panel + step * t.zero_step);
          a = sub(a, times_sum(zero, asum, t.is_short));
        }
        f[i][p] = fma(to_f32(a), mul(load(t.ws + factor), as), f[i][p]);
        if constexpr (form == Form::real_zero) {
          const std::int32_t asum = t.asum[i * t.sums_stride + step];
          f[i][p] = fma(splat(static_cast<float>(asum)), mul(load(t.wz + factor), as), f[i][p]);
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

/// sums += factors x token sums over the pairs of groups [first_sub, last_sub).
template <int n_tokens, int n_panels>
LOWBIT_PRIMITIVE void add_pairs(const Int8Tile& t, const std::int32_t* factors,
                                const std::int16_t* token_sums, std::int64_t first_sub,
                                std::int64_t last_sub, i32x16 (&sums)[n_tokens][n_panels]) {
  for (std::int64_t s = first_sub; s < last_sub; s += 2) {
    i32x16 pair[n_panels];
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p)
      pair[p] = load(factors + p * t.pair_panel + s / 2 * panel_cols);
#pragma GCC unroll 8
    for (int i = 0; i < n_tokens; ++i) {
      const i32x16 token = broadcast2(token_sums + i * t.pair_stride + s);
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) sums[i][p] = dot2(sums[i][p], token, pair[p]);
    }
  }
}

/// f += coarse factor x the sums of a super-block; f stays in memory.
template <int n_tokens, int n_panels>
LOWBIT_PRIMITIVE void end_super(const Int8Tile& t, std::int64_t step, const float* factors,
                                const i32x16 (&sums)[n_tokens][n_panels]) {
#pragma GCC unroll 8
  for (int i = 0; i < n_tokens; ++i) {
    const f32x16 as = splat(t.as[i * t.as_stride + ((t.first_step + step) >> t.as_shift)]);
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      float* state = t.state + (i * n_panels + p) * panel_cols;
      const f32x16 factor = load(factors + p * t.factor_panel + step * t.factor_step);
      store(state, fma(to_f32(sums[i][p]), mul(factor, as), load(state)));
    }
  }
}

/// Two-level scales: an int32 sum of sub-scale x dot per super-block, so f32 work is rare and f
/// stays in memory. fixed_quads > 0: a group is that many quads, and its codes are centred so that
/// its dot fits int16: one instruction multiplies and adds it. Centring by c adds c * sub * asum to
/// the sum, and a zero is zero * asum: both are exact sums over pairs of groups, half an
/// instruction per group.
template <int n_tokens, int n_panels, int fixed_quads, Reach reach>
void int8_super_tile(const Int8Tile& tile) {
  const Int8Tile t = tile;
  Cursor at{t.codes, t.x};
  [[maybe_unused]] std::int64_t quads_left = t.n_quads;
  for (std::int64_t step = 0; step < t.n_steps; ++step) {
    const std::int64_t first_sub = step * t.step_subs;
    const std::int64_t last_sub = least_of(first_sub + t.step_subs, t.n_subs);
    i32x16 total[n_tokens][n_panels];
#pragma GCC unroll 8
    for (int i = 0; i < n_tokens; ++i) {
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) total[i][p] = splat(0);
    }
    if (t.centre_sums != nullptr) {
      add_pairs<n_tokens, n_panels>(t, t.sub_pairs, t.centre_sums, first_sub, last_sub, total);
    }
    for (std::int64_t s = first_sub; s < last_sub; ++s) {
      i32x16 acc[n_tokens][n_panels];
      start_sums<n_tokens, n_panels>(t, s, acc);
      if constexpr (fixed_quads > 0) {
        dot_some<fixed_quads, n_tokens, n_panels, reach>(t, at, acc);
      } else {
        if (t.sub_quads < tile_k / quad_k) {
          dot_step<true, n_tokens, n_panels, reach>(t, 0, at, acc);
        } else {
          dot_step<false, n_tokens, n_panels, reach>(t, least_of(t.sub_quads, quads_left), at, acc);
          quads_left -= t.sub_quads;
        }
      }
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        const i32x16 scale = load(t.subs + p * t.sub_panel + s * panel_cols);
#pragma GCC unroll 8
        for (int i = 0; i < n_tokens; ++i) {
          total[i][p] = fixed_quads > 0 ? dot2(total[i][p], acc[i][p], scale)
                                        : add(total[i][p], mul(acc[i][p], scale));
        }
      }
    }
    end_super<n_tokens, n_panels>(t, step, t.ws, total);
    if (t.zero_pairs != nullptr) {
      i32x16 zeros[n_tokens][n_panels];
#pragma GCC unroll 8
      for (int i = 0; i < n_tokens; ++i) {
#pragma GCC unroll 4
        for (int p = 0; p < n_panels; ++p) zeros[i][p] = splat(0);
      }
      add_pairs<n_tokens, n_panels>(t, t.zero_pairs, t.asum_pairs, first_sub, last_sub, zeros);
      end_super<n_tokens, n_panels>(t, step, t.wz, zeros);
    }
  }
}

using Int8TileKernel = void (*)(const Int8Tile&);

template <int n_tokens, Form form, Reach reach>
Int8TileKernel int8_step_kernel(bool half_tile) {
  if (half_tile) return int8_tile<n_tokens, tile_panels, form, true, reach>;
  return int8_tile<n_tokens, tile_panels, form, false, reach>;
}
template <int n_tokens, Reach reach>
Int8TileKernel int8_kernel_of(Form form, bool half_tile) {
  switch (form) {
    case Form::row:
      return int8_row_tile<n_tokens, tile_panels, reach>;
    case Form::weight_scale:
      return int8_step_kernel<n_tokens, Form::weight_scale, reach>(half_tile);
    case Form::plain:
      return int8_step_kernel<n_tokens, Form::plain, reach>(half_tile);
    case Form::integer_zero:
      return int8_step_kernel<n_tokens, Form::integer_zero, reach>(half_tile);
    case Form::real_zero:
      return int8_step_kernel<n_tokens, Form::real_zero, reach>(half_tile);
    case Form::super_8:
      return int8_super_tile<n_tokens, tile_panels, 8, reach>;
    case Form::super_4:
      return int8_super_tile<n_tokens, tile_panels, 4, reach>;
    default:
      return int8_super_tile<n_tokens, tile_panels, 0, reach>;
  }
}

/// The kernel of a tile of n tokens, one of the sizes of tile_size(); 1 is a tile of two wherever
/// tiles are larger. half_tile: steps of 16 inputs. Only where they differ has a reach a kernel of
/// its own.
template <int n_tokens>
Int8TileKernel int8_kernel(std::int64_t n, Form form, Reach reach, bool half_tile) {
  if constexpr (n_tokens > 4) {
    if (n <= 4) return int8_kernel<4>(n, form, reach, half_tile);
  } else if constexpr (n_tokens > 2) {
    if (n <= 2) return int8_kernel<2>(n, form, reach, half_tile);
  }
  if constexpr (wide_bias != 0) {
    if (reach == Reach::wide) return int8_kernel_of<n_tokens, Reach::wide>(form, half_tile);
  }
  if constexpr (max_small_code != 0) {
    if (reach == Reach::small) return int8_kernel_of<n_tokens, Reach::small>(form, half_tile);
  }
  return int8_kernel_of<n_tokens, Reach::narrow>(form, half_tile);
}
/// Likewise for rows of int32 sums alone.
template <int n_tokens>
Int8TileKernel int8_row_kernel(std::int64_t n, Reach reach) {
  if (n < n_tokens) return int8_kernel<tile_tokens>(n, Form::row, reach, false);
  if constexpr (wide_bias != 0) {
    if (reach == Reach::wide) return int8_row_tile<n_tokens, tile_panels, Reach::wide>;
  }
  if constexpr (max_small_code != 0) {
    if (reach == Reach::small) return int8_row_tile<n_tokens, tile_panels, Reach::small>;
  }
  return int8_row_tile<n_tokens, tile_panels, Reach::narrow>;
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

/// The largest unpacked code.
inline int most_code(const PanelView& w) {
  if (w.code != CodeKind::lut) return (1 << w.bits) - 1;
  int most = 0;
  for (int i = 0; i < 1 << w.bits; ++i) most = w.lut[i] > most ? w.lut[i] : most;
  return most;
}

inline Reach reach_of(const PanelView& w) {
  if (w.wide) return Reach::wide;
  return most_code(w) <= max_small_code ? Reach::small : Reach::narrow;
}

/// Codes of a two-level type less `centre` reach at most most_centred; group_k of their products
/// with activations fit int16, if group_k inputs are what a fixed kernel takes.
struct Centre {
  int centre = 0;
  Form form = Form::super_any;
};
inline Centre centre_of(const PanelView& w) {
  constexpr int most_x = 127, most_dot = 32767, bits_of_byte = 8;
  if (w.wide || w.bits >= bits_of_byte || (w.group_k != tile_k && w.group_k != tile_k / 2))
    return {};
  const int most = most_code(w);
  const Form form = w.group_k == tile_k ? Form::super_8 : Form::super_4;
  for (const int centre : {-w.least, (most + 1) / 2}) {
    const int reach = centre > most - centre ? centre : most - centre;
    if (centre >= 0 && w.group_k * reach * most_x <= most_dot) return {centre, form};
  }
  return {};
}

inline bool is_two_level(const PanelView& w) {
  return w.group_k != 0 && w.scale.kind == FactorKind::two_level;
}

inline Form form_of(const MatmulJob& job) {
  const PanelView& w = job.w;
  if (is_two_level(w)) return centre_of(w).form;
  if (w.group_k == 0 && job.activation_group_k == 0) return Form::row;
  if (w.zero_kind == ZeroKind::integer) return Form::integer_zero;
  if (w.zero_kind != ZeroKind::none && w.group_k != 0) return Form::real_zero;
  return job.activation_group_k == 0 ? Form::weight_scale : Form::plain;
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

/// Tokens of the next tile: whole tiles, then 4, 2 and 1 (two equal tiles rather than a whole and a
/// small one).
template <int most>
LOWBIT_PRIMITIVE std::int64_t tile_size(std::int64_t n_left) {
  constexpr std::int64_t half = most > 4 ? 4 : 2;
  if (n_left >= most && !(most > half && n_left == 2 * half)) return most;
  for (std::int64_t size = half; size > 1; size /= 2) {
    if (n_left >= size && size < most) return size;
  }
  return 1;
}

/// What a tile of two-level types reads of its tokens: sums of pairs of groups, sums that centred
/// codes start from.
struct TokenSums {
  std::int32_t* start;          // (token, group)
  std::int16_t *asum, *centre;  // (token, group), even strides
  std::int64_t stride;
};
LOWBIT_PRIMITIVE void fill_token_sums(const std::int32_t* asum, std::int64_t asum_stride,
                                      std::int64_t n_tokens, std::int64_t n_subs, int centre,
                                      int least, const TokenSums& sums) {
  for (std::int64_t i = 0; i < n_tokens; ++i) {
    const std::int32_t* from = asum + i * asum_stride;
    std::int32_t* start = sums.start + i * sums.stride;
    std::int16_t *pair = sums.asum + i * sums.stride, *owed = sums.centre + i * sums.stride;
    for (std::int64_t s = 0; s < n_subs; ++s) {
      start[s] = -centre * from[s];
      pair[s] = static_cast<std::int16_t>(from[s]);
      owed[s] = static_cast<std::int16_t>((centre + least) * from[s]);
    }
    if (n_subs % 2 != 0) pair[n_subs] = owed[n_subs] = 0;
  }
}

/// Weights of the next group of panels, fetched bit by bit while this one is multiplied.
struct Ahead {
  const std::byte *next, *end;
  std::int64_t n_bytes;  // per tile
  LOWBIT_PRIMITIVE void fetch() {
    for (std::int64_t i = 0; i < n_bytes && next < end; i += row_bytes, next += row_bytes) {
      prefetch(next);
    }
  }
};

/// Panels [first_panel, first_panel + tile_panels) of which n_real exist: the last one stands in
/// for those that do not.
inline void int8_group(const MatmulJob& job, std::int64_t first_panel, int n_real,
                       std::int64_t first_token, std::int64_t last_token, Scratch scratch) {
  constexpr int n_panels = tile_panels;
  const PanelView& w = job.w;
  const Form form = form_of(job);
  const Reach reach = reach_of(w);
  const bool two_level = is_two_level(w), is_row = form == Form::row;
  const std::int64_t padded_k = (w.cols + tile_k - 1) / tile_k * tile_k;
  const std::int64_t block_k = least_of(job.block_k, padded_k), n_tokens = last_token - first_token;
  const std::int64_t block_steps = (block_k + job.step_k - 1) / job.step_k;
  const bool varies = w.group_k != 0;
  const bool has_zero_pairs = two_level && w.zero_kind != ZeroKind::none;
  const Centre centre = two_level ? centre_of(w) : Centre{};
  const bool is_centred = two_level && form != Form::super_any && centre.centre != -w.least;

  Int8Tile t{};
  const std::int64_t n_vectors = n_real * block_steps;
  std::uint8_t* codes = scratch.take<std::uint8_t>(n_real * panel_cols * block_k);
  float* ws = scratch.take<float>(n_vectors * panel_cols);
  float* wz = scratch.take<float>(n_vectors * panel_cols);
  std::int32_t* zeros = scratch.take<std::int32_t>(n_vectors * panel_cols);
  const std::int64_t block_subs = two_level ? (block_k + w.group_k - 1) / w.group_k : 0;
  const std::int64_t block_pairs = (block_subs + 1) / 2;
  std::int32_t* subs = scratch.take<std::int32_t>(n_real * panel_cols * block_subs);
  std::int32_t* sub_pairs = scratch.take<std::int32_t>(n_real * panel_cols * block_pairs);
  std::int32_t* zero_pairs = scratch.take<std::int32_t>(n_real * panel_cols * block_pairs);
  const TokenSums sums{scratch.take<std::int32_t>(tile_tokens * 2 * block_pairs),
                       scratch.take<std::int16_t>(tile_tokens * 2 * block_pairs),
                       scratch.take<std::int16_t>(tile_tokens * 2 * block_pairs), 2 * block_pairs};
  // One more token: a tile of one is a tile of two that counts it twice.
  float* state = scratch.take<float>((n_tokens + 1) * n_panels * panel_cols);
  const std::int64_t token_state = n_panels * panel_cols;

  const auto panel_stride = [&](std::int64_t stride) { return n_real > 1 ? stride : 0; };
  t.codes = codes;
  t.codes_stride = panel_stride(panel_cols * block_k);
  t.step_quads = job.step_k / quad_k;
  t.ws = varies ? ws : ones;
  t.wz = wz;
  t.factor_panel = varies ? panel_stride(block_steps * panel_cols) : 0;
  t.factor_step = varies ? panel_cols : 0;
  t.zeros = varies ? zeros : w.row_zero_code + first_panel * panel_cols;
  t.zero_panel = panel_stride(varies ? block_steps * panel_cols : panel_cols);
  t.zero_step = varies ? panel_cols : 0;
  t.is_short = job.step_k <= 256;
  t.as_shift = job.activation_group_k == 0 ? 63 : shift_of(job.activation_group_k / job.step_k);
  t.x_stride = job.codes_stride;
  t.subs = subs;
  t.sub_panel = panel_stride(block_subs * panel_cols);
  t.sub_quads = w.group_k / quad_k;
  t.step_subs = two_level ? job.step_k / w.group_k : 0;
  t.sub_pairs = sub_pairs;
  t.zero_pairs = has_zero_pairs ? zero_pairs : nullptr;
  t.pair_panel = panel_stride(block_pairs * panel_cols);

  std::int32_t* i_state = reinterpret_cast<std::int32_t*>(state);
  for (std::int64_t token = 0; token <= n_tokens; ++token) {
    const std::int64_t global = first_token + least_of(token, n_tokens - 1);
    const i32x16 start = splat(is_row ? job.starts[global * job.n_sums] : 0);
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) store(i_state + token * token_state + p * panel_cols, start);
  }

  const std::int64_t n_blocks = (padded_k + block_k - 1) / block_k;
  const std::int64_t n_tiles = n_blocks * ((n_tokens + tile_tokens - 1) / tile_tokens);
  const std::int64_t group_bytes = n_real * w.panel_bytes;
  const std::byte* next = w.panels + (first_panel + n_real) * w.panel_bytes;
  const std::int64_t last_panel = (w.rows + panel_cols - 1) / panel_cols;
  Ahead ahead{
      .next = next,
      .end = next + least_of(group_bytes, (last_panel - first_panel - n_real) * w.panel_bytes),
      .n_bytes = n_tiles > 1 ? group_bytes / n_tiles + row_bytes : 0};

  for (std::int64_t k = 0; k < w.cols; k += block_k) {
    const std::int64_t last_k = least_of(k + block_k, padded_k);
    const std::int64_t n_k = least_of(k + block_k, w.cols) - k;
    t.n_quads = (last_k - k) / quad_k;
    t.n_steps = (n_k + job.step_k - 1) / job.step_k;
    t.first_step = k / job.step_k;
    if (two_level) t.n_subs = (n_k + w.group_k - 1) / w.group_k;
    for (int p = 0; p < n_real; ++p) {
      const std::int64_t panel = first_panel + p, at = p * block_steps * panel_cols;
      unpack_codes(w, panel, k, last_k, codes + p * panel_cols * block_k);
      if (two_level) {
        const std::int64_t pair_at = p * block_pairs * panel_cols;
        unpack_coarse(w, w.scale, panel, k, t.n_steps, w.scale.unit * w.unit, ws + at);
        unpack_subs(w, w.scale, panel, k, t.n_subs, form != Form::super_any,
                    subs + p * block_subs * panel_cols);
        if (is_centred) unpack_sub_pairs(w, w.scale, panel, k, t.n_subs, sub_pairs + pair_at);
        if (has_zero_pairs) {
          unpack_coarse(w, w.zero, panel, k, t.n_steps, w.zero.unit, wz + at);
          unpack_sub_pairs(w, w.zero, panel, k, t.n_subs, zero_pairs + pair_at);
        }
      } else if (varies) {
        unpack_step_factors(w, panel, k, t.n_steps, job.step_k, w.unit, ws + at,
                            form == Form::real_zero ? wz + at : nullptr,
                            form == Form::integer_zero ? zeros + at : nullptr);
      }
    }
    const std::int64_t first_sum = two_level ? k / w.group_k : t.first_step;
    for (std::int64_t token = 0; token < n_tokens;) {
      const std::int64_t left = n_tokens - token;
      const std::int64_t n =
          is_row ? tile_size<row_tile_tokens>(left) : tile_size<tile_tokens>(left);
      const std::int64_t global = first_token + token;
      const bool twice = n == 1;  // where a tile of two runs, both its tokens are this one
      t.x = job.codes + global * job.codes_stride + k;
      t.x_stride = twice ? 0 : job.codes_stride;
      t.as = job.activation_group_k == 0 ? ones : job.scales + global * job.scales_stride;
      t.as_stride = job.activation_group_k == 0 || twice ? 0 : job.scales_stride;
      t.start = job.starts + global * job.n_sums + first_sum;
      t.asum = job.sums + global * job.n_sums + first_sum;
      t.start_stride = t.sums_stride = twice ? 0 : job.n_sums;
      if (is_centred || has_zero_pairs) {
        fill_token_sums(t.asum, job.n_sums, n, t.n_subs, centre.centre, w.least, sums);
        t.pair_stride = twice ? 0 : sums.stride;
        t.asum_pairs = sums.asum;
        if (is_centred) {
          t.centre_sums = sums.centre;
          t.start = sums.start;
          t.start_stride = t.pair_stride;
        }
      }
      t.state = state + token * token_state;
      t.i_state = i_state + token * token_state;
      if (is_row) {
        int8_row_kernel<row_tile_tokens>(n, reach)(t);
      } else {
        int8_kernel<tile_tokens>(n, form, reach, job.step_k < tile_k)(t);
      }
      ahead.fetch();
      token += n;
    }
  }
  for (std::int64_t token = 0; token < n_tokens; ++token) {
    const std::int64_t global = first_token + token;
    const float as = job.activation_group_k == 0 ? job.scales[global * job.scales_stride] : 1.0f;
    const float h = w.row_add == nullptr ? 0.0f : row_sum_of(job, global);
    for (int p = 0; p < n_real; ++p) {
      const std::int64_t at = token * token_state + p * panel_cols;
      f32x16 f;
      if (is_row) {
        i32x16 acc = load(i_state + at);
        if (w.zero_kind == ZeroKind::integer) {
          const i32x16 zero = load(w.row_zero_code + (first_panel + p) * panel_cols);
          acc = sub(acc, times_sum(zero, job.sums[global * job.n_sums], t.is_short));
        }
        f = to_f32(acc);
      } else {
        f = load(state + at);
      }
      finish(job, first_panel + p, global, f, h, as);
    }
  }
}

#include "lowbit/kernels/gemv_body.h"

/// Few tokens through gemv_body.h, where the instruction set wants it: one at n_panels panels a
/// time (0: never), up to 4 and up to 8 at one panel where has_batch.
template <int n_panels, bool has_batch>
bool int8_gemv_of(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel,
                  Scratch scratch) {
  if constexpr (n_panels > 0) {
    if (job.n_tokens == 1) {
      int8_gemv<1, n_panels>(job, first_panel, last_panel, scratch);
      return true;
    }
  }
  if constexpr (has_batch) {
    constexpr int small = 4, large = 8;
    if (job.n_tokens <= large) {
      const auto batch = job.n_tokens <= small ? int8_gemv<small, 1> : int8_gemv<large, 1>;
      batch(job, first_panel, last_panel, scratch);
      return true;
    }
  }
  return false;
}

inline void int8_panels(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel,
                        std::int64_t first_token, std::int64_t last_token, std::byte* memory) {
  const Scratch scratch{memory};
  if (int8_gemv_of<int8_gemv_panels, has_batch_gemv>(job, first_panel, last_panel, scratch)) return;
  for (std::int64_t panel = first_panel; panel < last_panel; panel += tile_panels) {
    const int n_real = static_cast<int>(least_of(tile_panels, last_panel - panel));
    int8_group(job, panel, n_real, first_token, last_token, scratch);
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

/// Batches of this many and fewer are decoding: reading the weights takes as long as multiplying.
constexpr int few_tokens = tile_tokens > 8 ? tile_tokens : 8;

constexpr MatmulKernels matmul_kernels{.tile_tokens = tile_tokens,
                                       .tile_panels = tile_panels,
                                       .gemv_panels = gemv_panels,
                                       .few_tokens = few_tokens,
                                       .wide_bias = wide_bias,
                                       .quantize_row = quantize_row,
                                       .int8_panels = int8_panels,
                                       .f32_panels = f32_panels};
