// SPDX-License-Identifier: Apache-2.0
// A few tokens times int8 panels, straight from the bit planes: codes are unpacked, multiplied and
// forgotten in registers, so that reading the weights is what takes the time. The same steps and
// the same operations as int8_tile, hence the same bits. Included inside an anonymous namespace by
// matmul_body.h, nowhere else.

/// What the tokens bring to a product.
template <int n_tokens>
struct GemvTokens {
  const std::int8_t* x[n_tokens];
  const float* as[n_tokens];  // per activation group; step s reads as[s >> as_shift]
  int as_shift;
  const std::int32_t *start[n_tokens], *asum[n_tokens];  // per step, or group of two-level scales
  // Several tokens, two-level: as in TokenSums; null where nothing is owed.
  const std::int16_t *pairs[n_tokens], *centre[n_tokens];
  bool is_short = false;  // the dot of a group fits int16
};

/// Bytes read ahead of the multiplication: far enough to hide memory, near enough to stay cached.
constexpr std::int64_t prefetch_bytes = 4096;

/// acc += quads [first, first + n_quads) of a tile, compile-time numbers, times x from input k on.
template <int bits, class Decode, bool wide, int n_tokens, int n_panels, int first, int n_quads,
          int done = 0>
LOWBIT_PRIMITIVE void dot_planes(const std::uint8_t* const (&tiles)[n_panels], const Decode& decode,
                                 const std::int8_t* const (&x)[n_tokens], std::int64_t k,
                                 i32x16 (&acc)[n_tokens][n_panels]) {
  if constexpr (done < n_quads) {
    constexpr int quad = first + done;
    u8x64 code[n_panels];
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) code[p] = decode(quad_code<bits, quad>(tiles[p]));
#pragma GCC unroll 8
    for (int i = 0; i < n_tokens; ++i) {
      const u8x64 four = broadcast4(x[i] + k + quad * quad_k);
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) acc[i][p] = dot4<wide>(acc[i][p], code[p], four);
    }
    dot_planes<bits, Decode, wide, n_tokens, n_panels, first, n_quads, done + 1>(tiles, decode, x,
                                                                                 k, acc);
  }
}

template <int n_tokens, int n_panels>
LOWBIT_PRIMITIVE void start_gemv(const GemvTokens<n_tokens>& tokens, std::int64_t step,
                                 i32x16 (&acc)[n_tokens][n_panels]) {
#pragma GCC unroll 8
  for (int i = 0; i < n_tokens; ++i) {
    const i32x16 start = splat(tokens.start[i][step]);
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) acc[i][p] = start;
  }
}

/// The end of a step: f += scale * acc, and its zeros. `group` counts in the chunk.
template <int n_tokens, int n_panels>
LOWBIT_PRIMITIVE void end_step(const PanelView& v, std::int64_t first_panel,
                               std::int64_t last_panel, const GemvTokens<n_tokens>& tokens,
                               const std::byte* const (&chunks)[n_panels], std::int64_t group,
                               std::int64_t step, bool is_short, i32x16 (&acc)[n_tokens][n_panels],
                               f32x16 (&f)[n_tokens][n_panels]) {
  const bool varies = v.group_k != 0;
  const std::int64_t as_at = step >> tokens.as_shift;
#pragma GCC unroll 4
  for (int p = 0; p < n_panels; ++p) {
    if (v.zero_kind == ZeroKind::integer) {
      i32x16 zero;
      if (varies) {
        const std::byte* zeros = chunks[p] + v.zero_offset + group * panel_cols;
        zero = add(load_u8(reinterpret_cast<const std::uint8_t*>(zeros)), splat(v.zero_least));
      } else {
        zero = load(v.row_zero_code + least_of(first_panel + p, last_panel - 1) * panel_cols);
      }
#pragma GCC unroll 8
      for (int i = 0; i < n_tokens; ++i) {
        acc[i][p] = sub(acc[i][p], times_sum(zero, tokens.asum[i][step], is_short));
      }
    }
    if (!varies) {
#pragma GCC unroll 8
      for (int i = 0; i < n_tokens; ++i) {
        f[i][p] = fma(to_f32(acc[i][p]), splat(tokens.as[i][as_at]), f[i][p]);
      }
      continue;
    }
    const f32x16 scale = v.has_scale ? factor_of(v.scale, chunks[p], group) : splat(1.0f);
    const f32x16 unit_scale = mul(scale, splat(v.unit));
#pragma GCC unroll 8
    for (int i = 0; i < n_tokens; ++i) {
      const f32x16 as = splat(tokens.as[i][as_at]);
      f[i][p] = fma(to_f32(acc[i][p]), mul(unit_scale, as), f[i][p]);
    }
    if (v.zero_kind == ZeroKind::real || v.zero_kind == ZeroKind::product) {
      f32x16 zero = factor_of(v.zero, chunks[p], group);
      if (v.zero_kind == ZeroKind::product) zero = mul(splat(-1.0f), mul(scale, zero));
#pragma GCC unroll 8
      for (int i = 0; i < n_tokens; ++i) {
        const f32x16 asum = splat(static_cast<float>(tokens.asum[i][step]));
        f[i][p] = fma(asum, mul(zero, splat(tokens.as[i][as_at])), f[i][p]);
      }
    }
  }
}

/// The integers of one group of a two-level chunk.
LOWBIT_PRIMITIVE i32x16 sub_at(const FactorPlane& plane, const std::byte* chunk,
                               std::int64_t group) {
  const std::byte* subs = chunk + plane.offset + group * panel_cols;
  return load_i8(reinterpret_cast<const std::int8_t*>(subs));
}

/// One group of a two-level chunk: total += sub * acc. Several tokens: zeros wait for
/// add_chunk_pairs.
template <int n_tokens, int n_panels>
LOWBIT_PRIMITIVE void end_group(const PanelView& v, const GemvTokens<n_tokens>& tokens,
                                const std::byte* const (&chunks)[n_panels], std::int64_t group,
                                std::int64_t step, const i32x16 (&acc)[n_tokens][n_panels],
                                i32x16 (&total)[n_tokens][n_panels],
                                i32x16 (&zeros)[n_tokens][n_panels]) {
#pragma GCC unroll 4
  for (int p = 0; p < n_panels; ++p) {
    const i32x16 scale = sub_at(v.scale, chunks[p], group);
    if constexpr (n_tokens > 1) {
      if (!tokens.is_short) {
#pragma GCC unroll 8
        for (int i = 0; i < n_tokens; ++i) total[i][p] = add(total[i][p], mul(acc[i][p], scale));
        continue;
      }
      const i32x16 half = bit_and(scale, splat(0xffff));
#pragma GCC unroll 8
      for (int i = 0; i < n_tokens; ++i) total[i][p] = dot2(total[i][p], acc[i][p], half);
    } else {
      total[0][p] = add(total[0][p], mul(acc[0][p], scale));
      if (v.zero_kind == ZeroKind::none) continue;
      const i32x16 zero = sub_at(v.zero, chunks[p], group);
      zeros[0][p] = add(zeros[0][p], mul_i16(zero, splat(tokens.asum[0][step])));
    }
  }
}

/// Several tokens: sums += factors x token sums, by pairs of the groups of a chunk; the first is
/// `step` of the row.
template <int n_tokens, int n_panels>
LOWBIT_PRIMITIVE void add_chunk_pairs(const FactorPlane& plane,
                                      const std::byte* const (&chunks)[n_panels],
                                      const std::int16_t* const (&token_sums)[n_tokens],
                                      std::int64_t step, std::int64_t n_groups,
                                      i32x16 (&sums)[n_tokens][n_panels]) {
  constexpr int half = 16;
  for (std::int64_t group = 0; group < n_groups; group += 2) {
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      const i32x16 low = bit_and(sub_at(plane, chunks[p], group), splat(0xffff));
      const i32x16 pair = bit_or(low, shift_left<half>(sub_at(plane, chunks[p], group + 1)));
#pragma GCC unroll 8
      for (int i = 0; i < n_tokens; ++i) {
        sums[i][p] = dot2(sums[i][p], broadcast2(token_sums[i] + step + group), pair);
      }
    }
  }
}

/// The end of a two-level chunk: f += coarse * total.
template <int n_tokens, int n_panels>
LOWBIT_PRIMITIVE void end_chunk(const PanelView& v, const GemvTokens<n_tokens>& tokens,
                                const std::byte* const (&chunks)[n_panels], std::int64_t chunk,
                                const i32x16 (&total)[n_tokens][n_panels],
                                const i32x16 (&zeros)[n_tokens][n_panels],
                                f32x16 (&f)[n_tokens][n_panels]) {
  const std::int64_t as_at = chunk >> tokens.as_shift;
#pragma GCC unroll 4
  for (int p = 0; p < n_panels; ++p) {
    const auto coarse_of = [&](const FactorPlane& plane) {
      return load_floats(plane.coarse_kind, chunks[p] + plane.coarse_offset, 0, nullptr);
    };
    const f32x16 scale = mul(coarse_of(v.scale), splat(v.scale.unit * v.unit));
#pragma GCC unroll 8
    for (int i = 0; i < n_tokens; ++i) {
      const f32x16 as = splat(tokens.as[i][as_at]);
      f[i][p] = fma(to_f32(total[i][p]), mul(scale, as), f[i][p]);
    }
    if (v.zero_kind == ZeroKind::none) continue;
    const f32x16 zero = mul(coarse_of(v.zero), splat(v.zero.unit));
#pragma GCC unroll 8
    for (int i = 0; i < n_tokens; ++i) {
      const f32x16 as = splat(tokens.as[i][as_at]);
      f[i][p] = fma(to_f32(zeros[i][p]), mul(zero, as), f[i][p]);
    }
  }
}

/// n_panels panels from first_panel on, whole rows. out: (n_tokens, n_panels, 16), everything but
/// what finish() does.
template <int bits, class Decode, bool wide, int n_tokens, int n_panels>
void gemv_planes(const MatmulJob& job, const GemvTokens<n_tokens>& tokens, std::int64_t first_panel,
                 std::int64_t last_panel, float* out) {
  const PanelView& v = job.w;
  const Decode decode(v.lut);
  const bool two_level = is_two_level(v);
  const std::int64_t step_k = two_level ? v.group_k : job.step_k;
  const std::int64_t n_steps = (v.cols + step_k - 1) / step_k;
  const std::int64_t padded_k = (v.cols + tile_k - 1) / tile_k * tile_k;
  const std::int64_t chunk_bytes = v.header_bytes + v.chunk_k / tile_k * v.tile_bytes;
  // What is fetched after the end of a panel is the start of the panel that these registers read
  // next.
  const std::int64_t n_ahead = prefetch_bytes / (v.panel_bytes / (padded_k / tile_k));
  const std::int64_t last_near_k = padded_k - n_ahead * tile_k;
  const std::int64_t to_next_panel = (n_panels - 1) * v.panel_bytes;
  const bool is_short = step_k <= 256;
  const std::int64_t steps_per_group = v.group_k == 0 ? n_steps : v.group_k / step_k;
  const std::int8_t* x[n_tokens];
  f32x16 f[n_tokens][n_panels];
  const std::byte* chunks[n_panels];
#pragma GCC unroll 8
  for (int i = 0; i < n_tokens; ++i) {
    x[i] = tokens.x[i];
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) f[i][p] = splat(0.0f);
  }
#pragma GCC unroll 4
  for (int p = 0; p < n_panels; ++p) {
    chunks[p] = v.panels + least_of(first_panel + p, last_panel - 1) * v.panel_bytes;
  }
  std::int64_t step = 0, chunk = 0;
  for (std::int64_t k = 0; k < padded_k; ++chunk) {
    const std::int64_t end = least_of(k + v.chunk_k, padded_k);
    const std::uint8_t* tiles[n_panels];
    i32x16 total[n_tokens][n_panels], zeros[n_tokens][n_panels];
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      tiles[p] = reinterpret_cast<const std::uint8_t*>(chunks[p]) + v.header_bytes;
#pragma GCC unroll 8
      for (int i = 0; i < n_tokens; ++i) total[i][p] = zeros[i][p] = splat(0);
    }
    std::int64_t group = 0, left = steps_per_group;
    [[maybe_unused]] const std::int64_t chunk_step = step;
    if constexpr (n_tokens > 1) {
      if (two_level && tokens.centre[0] != nullptr) {
        const std::int64_t n_groups = least_of(v.chunk_k / v.group_k, n_steps - step);
        add_chunk_pairs<n_tokens, n_panels>(v.scale, chunks, tokens.centre, step, n_groups, total);
      }
    }
    const auto end_of_step = [&](i32x16(&acc)[n_tokens][n_panels]) __attribute__((always_inline)) {
      if (two_level) {
        end_group<n_tokens, n_panels>(v, tokens, chunks, group, step, acc, total, zeros);
      } else {
        end_step<n_tokens, n_panels>(v, first_panel, last_panel, tokens, chunks, group, step,
                                     is_short, acc, f);
      }
      ++step;
      if (--left == 0) {
        ++group;
        left = steps_per_group;
      }
    };
    const auto next_tile = [&]() __attribute__((always_inline)) {
      const std::int64_t ahead = prefetch_bytes + (k < last_near_k ? 0 : to_next_panel);
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        for (int line = 0; line < bits; ++line) prefetch(tiles[p] + ahead + line * row_bytes);
        tiles[p] += v.tile_bytes;
      }
      k += tile_k;
    };
    constexpr int quads = tile_k / quad_k, half = quads / 2;
    while (k < end) {
      i32x16 acc[n_tokens][n_panels];
      start_gemv<n_tokens, n_panels>(tokens, step, acc);
      if (step_k < tile_k) {
        dot_planes<bits, Decode, wide, n_tokens, n_panels, 0, half>(tiles, decode, x, k, acc);
        end_of_step(acc);
        if (step < n_steps) {
          start_gemv<n_tokens, n_panels>(tokens, step, acc);
          dot_planes<bits, Decode, wide, n_tokens, n_panels, half, half>(tiles, decode, x, k, acc);
          end_of_step(acc);
        }
        next_tile();
      } else {
        const std::int64_t step_end = least_of(k + step_k, end);
        while (k < step_end) {
          dot_planes<bits, Decode, wide, n_tokens, n_panels, 0, quads>(tiles, decode, x, k, acc);
          next_tile();
        }
        end_of_step(acc);
      }
    }
    if (two_level) {
      if constexpr (n_tokens > 1) {
        if (v.zero_kind != ZeroKind::none) {
          add_chunk_pairs<n_tokens, n_panels>(v.zero, chunks, tokens.pairs, chunk_step,
                                              step - chunk_step, zeros);
        }
      }
      end_chunk<n_tokens, n_panels>(v, tokens, chunks, chunk, total, zeros, f);
    }
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) chunks[p] += chunk_bytes;
  }
#pragma GCC unroll 8
  for (int i = 0; i < n_tokens; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) store(out + (i * n_panels + p) * panel_cols, f[i][p]);
  }
}

template <int n_tokens>
using GemvKernel = void (*)(const MatmulJob&, const GemvTokens<n_tokens>&, std::int64_t,
                            std::int64_t, float*);

template <template <int> class DecodeOf, int bits, int n_tokens, int n_panels>
GemvKernel<n_tokens> gemv_kernel_of(const PanelView& v) {
  if (v.bits < bits) {
    if constexpr (bits > 1) return gemv_kernel_of<DecodeOf, bits - 1, n_tokens, n_panels>(v);
  }
  if constexpr (wide_bias != 0) {
    if (v.wide) return gemv_planes<bits, DecodeOf<bits>, true, n_tokens, n_panels>;
  }
  return gemv_planes<bits, DecodeOf<bits>, false, n_tokens, n_panels>;
}

template <int>
using Linear = NoLut;

/// Widths up to 6 have tables, all have linear codes.
template <int n_tokens, int n_panels>
GemvKernel<n_tokens> gemv_kernel(const PanelView& v) {
  constexpr int max_lut_bits = 6, max_bits = 8;
  return v.code == CodeKind::lut ? gemv_kernel_of<Lut, max_lut_bits, n_tokens, n_panels>(v)
                                 : gemv_kernel_of<Linear, max_bits, n_tokens, n_panels>(v);
}

/// All tokens of the job, at most n_tokens: the last one stands in for those that do not exist.
template <int n_tokens, int n_panels>
void int8_gemv(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel,
               Scratch scratch) {
  const PanelView& w = job.w;
  const bool per_token = job.activation_group_k == 0;
  GemvTokens<n_tokens> tokens{};
  tokens.as_shift = per_token ? 63 : shift_of(job.activation_group_k / job.step_k);
  for (int i = 0; i < n_tokens; ++i) {
    const std::int64_t token = least_of(i, job.n_tokens - 1);
    tokens.x[i] = job.codes + token * job.codes_stride;
    tokens.as[i] = per_token ? ones : job.scales + token * job.scales_stride;
    tokens.start[i] = job.starts + token * job.n_sums;
    tokens.asum[i] = job.sums + token * job.n_sums;
  }
  if (n_tokens > 1 && is_two_level(w)) {
    const Centre centre = centre_of(w);
    const std::int64_t n_subs = (w.cols + w.group_k - 1) / w.group_k, stride = n_subs + n_subs % 2;
    const TokenSums sums{scratch.take<std::int32_t>(job.n_tokens * stride),
                         scratch.take<std::int16_t>(job.n_tokens * stride),
                         scratch.take<std::int16_t>(job.n_tokens * stride), stride};
    fill_token_sums(job.sums, job.n_sums, job.n_tokens, n_subs, centre.centre, w.least, sums);
    tokens.is_short = centre.form != Form::super_any;
    for (int i = 0; i < n_tokens; ++i) {
      const std::int64_t at = least_of(i, job.n_tokens - 1) * stride;
      tokens.pairs[i] = sums.asum + at;
      if (!tokens.is_short) continue;
      tokens.start[i] = sums.start + at;
      tokens.centre[i] = centre.centre == -w.least ? nullptr : sums.centre + at;
    }
  }
  alignas(64) float f[n_tokens * n_panels * panel_cols];
  const GemvKernel<n_tokens> kernel = gemv_kernel<n_tokens, n_panels>(w);
  for (std::int64_t panel = first_panel; panel < last_panel; panel += n_panels) {
    kernel(job, tokens, panel, last_panel, f);
    for (int i = 0; i < n_tokens && i < job.n_tokens; ++i) {
      const float h = w.row_add == nullptr ? 0.0f : row_sum_of(job, i);
      const float as = per_token ? job.scales[i * job.scales_stride] : 1.0f;
      for (int p = 0; p < n_panels && panel + p < last_panel; ++p) {
        finish(job, panel + p, i, load(f + (i * n_panels + p) * panel_cols), h, as);
      }
    }
  }
}
