// SPDX-License-Identifier: Apache-2.0
// One token times int8 panels, straight from the bit planes: codes are unpacked, multiplied and
// forgotten in registers, so that reading the weights is what takes the time. The same steps and
// the same operations as int8_tile, hence the same bits. Included inside an anonymous namespace by
// matmul_body.h, nowhere else.

/// What one token brings to a product.
struct GemvToken {
  const std::int8_t* x;
  const float* as;  // per activation group; step s reads as[s >> as_shift]
  int as_shift;
  const std::int32_t *start, *asum;  // per step, or per group of two-level scales
};

/// Bytes read ahead of the multiplication: far enough to hide memory, near enough to stay cached.
constexpr std::int64_t prefetch_bytes = 4096;

/// acc += quads [first, first + n_quads) of a tile, compile-time numbers, times x.
template <int bits, class Decode, bool wide, int n_panels, int first, int n_quads, int done = 0>
LOWBIT_PRIMITIVE void dot_planes(const std::uint8_t* const (&tiles)[n_panels], const Decode& decode,
                                 const std::int8_t* x, i32x16 (&acc)[n_panels]) {
  if constexpr (done < n_quads) {
    constexpr int quad = first + done;
    const u8x64 four = broadcast4(x + quad * quad_k);
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      acc[p] = dot4<wide>(acc[p], decode(quad_code<bits, quad>(tiles[p])), four);
    }
    dot_planes<bits, Decode, wide, n_panels, first, n_quads, done + 1>(tiles, decode, x, acc);
  }
}

/// The end of a step: f += scale * acc, and its zeros. `group` counts in the chunk.
template <int n_panels>
LOWBIT_PRIMITIVE void end_step(const PanelView& v, std::int64_t first_panel,
                               std::int64_t last_panel, const GemvToken& token,
                               const std::byte* const (&chunks)[n_panels], std::int64_t group,
                               std::int64_t step, bool is_short, const i32x16 (&acc)[n_panels],
                               f32x16 (&f)[n_panels]) {
  const f32x16 as = splat(token.as[step >> token.as_shift]);
  const bool varies = v.group_k != 0;
#pragma GCC unroll 4
  for (int p = 0; p < n_panels; ++p) {
    i32x16 a = acc[p];
    if (v.zero_kind == ZeroKind::integer) {
      i32x16 zero;
      if (varies) {
        const std::byte* zeros = chunks[p] + v.zero_offset + group * panel_cols;
        zero = add(load_u8(reinterpret_cast<const std::uint8_t*>(zeros)), splat(v.zero_least));
      } else {
        zero = load(v.row_zero_code + least_of(first_panel + p, last_panel - 1) * panel_cols);
      }
      a = sub(a, times_sum(zero, token.asum[step], is_short));
    }
    if (!varies) {
      f[p] = fma(to_f32(a), as, f[p]);
      continue;
    }
    const f32x16 scale = v.has_scale ? factor_of(v.scale, chunks[p], group) : splat(1.0f);
    f[p] = fma(to_f32(a), mul(mul(scale, splat(v.unit)), as), f[p]);
    if (v.zero_kind == ZeroKind::real || v.zero_kind == ZeroKind::product) {
      f32x16 zero = factor_of(v.zero, chunks[p], group);
      if (v.zero_kind == ZeroKind::product) zero = mul(splat(-1.0f), mul(scale, zero));
      f[p] = fma(splat(static_cast<float>(token.asum[step])), mul(zero, as), f[p]);
    }
  }
}

/// One group of a two-level chunk: total += sub * acc.
template <int n_panels>
LOWBIT_PRIMITIVE void end_group(const PanelView& v, const std::byte* const (&chunks)[n_panels],
                                std::int64_t group, std::int32_t asum,
                                const i32x16 (&acc)[n_panels], i32x16 (&total)[n_panels],
                                i32x16 (&zeros)[n_panels]) {
#pragma GCC unroll 4
  for (int p = 0; p < n_panels; ++p) {
    const auto sub_at = [&](const FactorPlane& plane) {
      const std::byte* subs = chunks[p] + plane.offset + group * panel_cols;
      return load_i8(reinterpret_cast<const std::int8_t*>(subs));
    };
    total[p] = add(total[p], mul(acc[p], sub_at(v.scale)));
    if (v.zero_kind != ZeroKind::none) {
      zeros[p] = add(zeros[p], mul_i16(sub_at(v.zero), splat(asum)));
    }
  }
}

/// The end of a two-level chunk: f += coarse * total.
template <int n_panels>
LOWBIT_PRIMITIVE void end_chunk(const PanelView& v, const GemvToken& token,
                                const std::byte* const (&chunks)[n_panels], std::int64_t chunk,
                                const i32x16 (&total)[n_panels], const i32x16 (&zeros)[n_panels],
                                f32x16 (&f)[n_panels]) {
  const f32x16 as = splat(token.as[chunk >> token.as_shift]);
#pragma GCC unroll 4
  for (int p = 0; p < n_panels; ++p) {
    const auto coarse_of = [&](const FactorPlane& plane) {
      return load_floats(plane.coarse_kind, chunks[p] + plane.coarse_offset, 0, nullptr);
    };
    const f32x16 scale = mul(coarse_of(v.scale), splat(v.scale.unit * v.unit));
    f[p] = fma(to_f32(total[p]), mul(scale, as), f[p]);
    if (v.zero_kind != ZeroKind::none) {
      const f32x16 zero = mul(coarse_of(v.zero), splat(v.zero.unit));
      f[p] = fma(to_f32(zeros[p]), mul(zero, as), f[p]);
    }
  }
}

/// n_panels panels from first_panel on, whole rows. f: (n_panels), everything but what finish()
/// does.
template <int bits, class Decode, bool wide, int n_panels>
void gemv_planes(const MatmulJob& job, const GemvToken& token, std::int64_t first_panel,
                 std::int64_t last_panel, float* out) {
  const PanelView& v = job.w;
  const Decode decode(v.lut);
  const bool two_level = v.group_k != 0 && v.scale.kind == FactorKind::two_level;
  const std::int64_t step_k = two_level ? v.group_k : job.step_k;
  const std::int64_t n_steps = (v.cols + step_k - 1) / step_k;
  const std::int64_t padded_k = (v.cols + tile_k - 1) / tile_k * tile_k;
  const std::int64_t chunk_bytes = v.header_bytes + v.chunk_k / tile_k * v.tile_bytes;
  const bool is_short = step_k <= 256;
  const std::int64_t steps_per_group = v.group_k == 0 ? n_steps : v.group_k / step_k;
  f32x16 f[n_panels];
  const std::byte* chunks[n_panels];
#pragma GCC unroll 4
  for (int p = 0; p < n_panels; ++p) {
    f[p] = splat(0.0f);
    chunks[p] = v.panels + least_of(first_panel + p, last_panel - 1) * v.panel_bytes;
  }
  std::int64_t step = 0, chunk = 0;
  for (std::int64_t k = 0; k < padded_k; ++chunk) {
    const std::int64_t end = least_of(k + v.chunk_k, padded_k);
    const std::uint8_t* tiles[n_panels];
    i32x16 total[n_panels], zeros[n_panels];
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      tiles[p] = reinterpret_cast<const std::uint8_t*>(chunks[p]) + v.header_bytes;
      total[p] = zeros[p] = splat(0);
    }
    std::int64_t group = 0, left = steps_per_group;
    const auto end_of_step = [&](const i32x16(&acc)[n_panels]) __attribute__((always_inline)) {
      if (two_level) {
        end_group<n_panels>(v, chunks, group, token.asum[step], acc, total, zeros);
      } else {
        end_step<n_panels>(v, first_panel, last_panel, token, chunks, group, step, is_short, acc,
                           f);
      }
      ++step;
      if (--left == 0) {
        ++group;
        left = steps_per_group;
      }
    };
    const auto next_tile = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        for (int line = 0; line < bits; ++line) {
          prefetch(tiles[p] + prefetch_bytes + line * row_bytes);
        }
        tiles[p] += v.tile_bytes;
      }
      k += tile_k;
    };
    constexpr int quads = tile_k / quad_k, half = quads / 2;
    while (k < end) {
      i32x16 acc[n_panels];
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) acc[p] = splat(token.start[step]);
      if (step_k < tile_k) {
        dot_planes<bits, Decode, wide, n_panels, 0, half>(tiles, decode, token.x + k, acc);
        end_of_step(acc);
        if (step < n_steps) {
#pragma GCC unroll 4
          for (int p = 0; p < n_panels; ++p) acc[p] = splat(token.start[step]);
          dot_planes<bits, Decode, wide, n_panels, half, half>(tiles, decode, token.x + k, acc);
          end_of_step(acc);
        }
        next_tile();
      } else {
        const std::int64_t step_end = least_of(k + step_k, end);
        while (k < step_end) {
          dot_planes<bits, Decode, wide, n_panels, 0, quads>(tiles, decode, token.x + k, acc);
          next_tile();
        }
        end_of_step(acc);
      }
    }
    if (two_level) end_chunk<n_panels>(v, token, chunks, chunk, total, zeros, f);
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) chunks[p] += chunk_bytes;
  }
#pragma GCC unroll 4
  for (int p = 0; p < n_panels; ++p) store(out + p * panel_cols, f[p]);
}

using GemvKernel = void (*)(const MatmulJob&, const GemvToken&, std::int64_t, std::int64_t, float*);

template <template <int> class DecodeOf, int bits, int n_panels>
GemvKernel gemv_kernel_of(const PanelView& v) {
  if (v.bits < bits) {
    if constexpr (bits > 1) return gemv_kernel_of<DecodeOf, bits - 1, n_panels>(v);
  }
  if constexpr (wide_bias != 0) {
    if (v.wide) return gemv_planes<bits, DecodeOf<bits>, true, n_panels>;
  }
  return gemv_planes<bits, DecodeOf<bits>, false, n_panels>;
}

template <int>
using Linear = NoLut;

/// Widths up to 6 have tables, all have linear codes.
template <int n_panels>
GemvKernel gemv_kernel(const PanelView& v) {
  constexpr int max_lut_bits = 6, max_bits = 8;
  return v.code == CodeKind::lut ? gemv_kernel_of<Lut, max_lut_bits, n_panels>(v)
                                 : gemv_kernel_of<Linear, max_bits, n_panels>(v);
}

template <int n_panels>
void int8_gemv(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel) {
  const PanelView& w = job.w;
  const bool per_token = job.activation_group_k == 0;
  const GemvToken token{.x = job.codes,
                        .as = per_token ? ones : job.scales,
                        .as_shift = per_token ? 63 : shift_of(job.activation_group_k / job.step_k),
                        .start = job.starts,
                        .asum = job.sums};
  const float h = w.row_add == nullptr ? 0.0f : row_sum_of(job, 0);
  const float as = per_token ? job.scales[0] : 1.0f;
  alignas(64) float f[n_panels * panel_cols];
  const GemvKernel kernel = gemv_kernel<n_panels>(w);
  for (std::int64_t panel = first_panel; panel < last_panel; panel += n_panels) {
    kernel(job, token, panel, last_panel, f);
    for (int p = 0; p < n_panels && panel + p < last_panel; ++p) {
      finish(job, panel + p, 0, load(f + p * panel_cols), h, as);
    }
  }
}
