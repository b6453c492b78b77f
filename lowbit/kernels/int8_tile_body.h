// SPDX-License-Identifier: Apache-2.0
// The register tiles of int8 products: some tokens times some panels of unpacked codes, one kernel
// for each way a step can end, so that none carries registers or branches it does not need.
// Included inside an anonymous namespace by matmul_body.h, nowhere else.

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
