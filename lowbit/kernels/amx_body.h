// SPDX-License-Identifier: Apache-2.0
// Int8 products on matrix tiles (AMX-INT8), written on a policy `Tiles` so that an emulation runs
// the same body everywhere: 8 tiles of up to 16 rows x 64 bytes. Up to 32 tokens x 2 panels: tiles
// 0-3 are the sums, 4-5 the tokens (a row each), 6-7 the codes: 16 rows of an unpacked panel, a
// quad of inputs each, are a tile as they stand. Sums of a step (of a group, with two-level scales)
// go through memory to be scaled by vectors. Included after matmul_body.h, whose operations these
// are, inside an anonymous namespace.

constexpr int amx_rows = 16, amx_row_bytes = 64, amx_n_tiles = 8;
constexpr int amx_blocks = 2;  // of 16 tokens
constexpr std::int64_t amx_tokens = amx_blocks * amx_rows;

/// What LDTILECFG reads.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

constexpr int sum_tile(int block, int panel) {
  return 2 * block + panel;
}
constexpr int token_tile(int block) {
  return 4 + block;
}
constexpr int code_tile(int panel) {
  return 6 + panel;
}

/// The widest tile that divides every run of inputs: steps, groups and the whole row.
LOWBIT_PRIMITIVE int tile_bytes_for(std::int64_t run_k, std::int64_t padded_k) {
  int n_bytes = amx_row_bytes;
  while (run_k % n_bytes != 0 || padded_k % n_bytes != 0) n_bytes /= 2;
  return n_bytes;
}

inline TileConfig tile_config(std::int64_t n_tokens, int n_bytes) {
  TileConfig config;
  for (int block = 0; block < amx_blocks; ++block) {
    const std::int64_t left = n_tokens - block * amx_rows;
    const auto rows = static_cast<std::uint8_t>(left < 0 ? 0 : least_of(left, amx_rows));
    if (rows == 0) continue;
    config.rows[token_tile(block)] = rows;
    config.row_bytes[token_tile(block)] = static_cast<std::uint16_t>(n_bytes);
    for (int panel = 0; panel < 2; ++panel) {
      config.rows[sum_tile(block, panel)] = rows;
      config.row_bytes[sum_tile(block, panel)] = amx_row_bytes;
    }
  }
  for (int panel = 0; panel < 2; ++panel) {
    config.rows[code_tile(panel)] = static_cast<std::uint8_t>(n_bytes / quad_k);
    config.row_bytes[code_tile(panel)] = amx_row_bytes;
  }
  return config;
}

/// A block of tokens against an unpacked block of inputs. Strides in items.
struct AmxTile {
  const std::uint8_t* codes;  // (panel, quad, 64)
  std::int64_t codes_stride;
  const std::int8_t* x;  // (token, inputs of the block)
  std::int64_t x_stride, n_tokens, n_k;
  int tile_bytes;
  std::int32_t* sums;  // (panel, token, 16)
};

/// sums = codes times x over inputs [first, last).
template <class Tiles, int n_panels, int n_blocks>
LOWBIT_PRIMITIVE void amx_products(const AmxTile& t, std::int64_t first, std::int64_t last) {
  Tiles::template zero<sum_tile(0, 0)>();
  if constexpr (n_panels > 1) Tiles::template zero<sum_tile(0, 1)>();
  if constexpr (n_blocks > 1) {
    Tiles::template zero<sum_tile(1, 0)>();
    if constexpr (n_panels > 1) Tiles::template zero<sum_tile(1, 1)>();
  }
  for (std::int64_t k = first; k < last; k += t.tile_bytes) {
    const std::uint8_t* codes = t.codes + k * panel_cols;
    Tiles::template load<code_tile(0)>(codes, row_bytes);
    Tiles::template load<token_tile(0)>(t.x + k, t.x_stride);
    Tiles::template dot_signed_unsigned<sum_tile(0, 0), token_tile(0), code_tile(0)>();
    if constexpr (n_panels > 1) {
      Tiles::template load<code_tile(1)>(codes + t.codes_stride, row_bytes);
      Tiles::template dot_signed_unsigned<sum_tile(0, 1), token_tile(0), code_tile(1)>();
    }
    if constexpr (n_blocks > 1) {
      Tiles::template load<token_tile(1)>(t.x + amx_rows * t.x_stride + k, t.x_stride);
      Tiles::template dot_signed_unsigned<sum_tile(1, 0), token_tile(1), code_tile(0)>();
      if constexpr (n_panels > 1) {
        Tiles::template dot_signed_unsigned<sum_tile(1, 1), token_tile(1), code_tile(1)>();
      }
    }
  }
  constexpr std::int64_t stride = panel_cols * sizeof(std::int32_t);
  constexpr std::int64_t block = amx_rows * panel_cols, panel = amx_tokens * panel_cols;
  Tiles::template store<sum_tile(0, 0)>(t.sums, stride);
  if constexpr (n_panels > 1) Tiles::template store<sum_tile(0, 1)>(t.sums + panel, stride);
  if constexpr (n_blocks > 1) {
    Tiles::template store<sum_tile(1, 0)>(t.sums + block, stride);
    if constexpr (n_panels > 1) {
      Tiles::template store<sum_tile(1, 1)>(t.sums + panel + block, stride);
    }
  }
}

template <class Tiles, int n_panels>
void amx_products_of(const AmxTile& t, std::int64_t first, std::int64_t last) {
  last = least_of(last, t.n_k);
  if (t.n_tokens > amx_rows) return amx_products<Tiles, n_panels, 2>(t, first, last);
  amx_products<Tiles, n_panels, 1>(t, first, last);
}

template <class Tiles, int n_panels>
void amx_group(const MatmulJob& job, std::int64_t first_panel, std::int64_t first_token,
               std::int64_t last_token, Scratch scratch) {
  const PanelView& w = job.w;
  const bool two_level = is_two_level(w);
  const bool two_level_zero = two_level && w.zero_kind != ZeroKind::none;
  const bool integer_zero = !two_level && w.zero_kind == ZeroKind::integer;
  const bool real_zero = form_of(job) == Form::real_zero;
  const bool varies = w.group_k != 0, per_token = job.activation_group_k == 0;
  const std::int64_t padded_k = (w.cols + tile_k - 1) / tile_k * tile_k;
  const std::int64_t n_tokens = last_token - first_token;
  const std::int64_t n_steps = (w.cols + job.step_k - 1) / job.step_k;
  const std::int64_t n_subs = two_level ? (w.cols + w.group_k - 1) / w.group_k : 0;
  const std::int64_t step_subs = two_level ? job.step_k / w.group_k : 0;
  const std::int64_t vectors = n_panels * panel_cols;
  const bool is_short = job.step_k <= 256;
  const int as_shift = per_token ? 63 : shift_of(job.activation_group_k / job.step_k);

  // All of K is unpacked: the driver asks for pieces of K only with few tokens.
  std::uint8_t* codes = scratch.take<std::uint8_t>(vectors * padded_k);
  float* ws = scratch.take<float>(vectors * n_steps);
  float* wz = scratch.take<float>(vectors * n_steps);
  std::int32_t* zeros = scratch.take<std::int32_t>(vectors * n_steps);
  std::int32_t* subs = scratch.take<std::int32_t>(vectors * n_subs);
  std::int32_t* zero_subs = scratch.take<std::int32_t>(vectors * n_subs);
  float* state = scratch.take<float>(n_tokens * vectors);
  for (std::int64_t i = 0; i < n_tokens * n_panels; ++i) store(state + i * panel_cols, splat(0.0f));
  for (int p = 0; p < n_panels; ++p) {
    const std::int64_t panel = first_panel + p, at = p * n_steps * panel_cols;
    unpack_codes(w, panel, 0, padded_k, codes + p * panel_cols * padded_k);
    if (two_level) {
      unpack_coarse(w, w.scale, panel, 0, n_steps, w.scale.unit * w.unit, ws + at);
      unpack_subs(w, w.scale, panel, 0, n_subs, false, subs + p * n_subs * panel_cols);
      if (two_level_zero) {
        unpack_coarse(w, w.zero, panel, 0, n_steps, w.zero.unit, wz + at);
        unpack_subs(w, w.zero, panel, 0, n_subs, false, zero_subs + p * n_subs * panel_cols);
      }
    } else if (varies) {
      unpack_step_factors(w, panel, 0, n_steps, job.step_k, w.unit, ws + at,
                          real_zero ? wz + at : nullptr, integer_zero ? zeros + at : nullptr);
    }
  }

  alignas(64) std::int32_t sums[n_panels * amx_tokens * panel_cols];
  alignas(64) std::int32_t totals[n_panels * amx_tokens * panel_cols];
  AmxTile t{};
  t.codes = codes;
  t.codes_stride = panel_cols * padded_k;
  t.x_stride = job.codes_stride;
  t.n_k = padded_k;
  t.tile_bytes = tile_bytes_for(two_level ? w.group_k : job.step_k, padded_k);
  t.sums = sums;
  for (std::int64_t token = 0; token < n_tokens; token += amx_tokens) {
    const std::int64_t rows = least_of(amx_tokens, n_tokens - token);
    if (rows != t.n_tokens) {
      t.n_tokens = rows;
      Tiles::configure(tile_config(rows, t.tile_bytes));
    }
    const std::int64_t global = first_token + token;
    t.x = job.codes + global * job.codes_stride;
    const std::int32_t* starts = job.starts + global * job.n_sums;
    const std::int32_t* asums = job.sums + global * job.n_sums;
    const float* scales = job.scales + global * job.scales_stride;
    const std::int64_t as_stride = per_token ? 0 : job.scales_stride;
    /// body(index among the tokens, panel, its 16 sums).
    const auto each = [&](std::int32_t* from, const auto& body) {
      for (std::int64_t i = 0; i < rows; ++i) {
        for (int p = 0; p < n_panels; ++p) body(i, p, from + (p * amx_tokens + i) * panel_cols);
      }
    };
    for (std::int64_t step = 0; step < n_steps; ++step) {
      const std::int64_t first_sub = step * step_subs;
      const std::int64_t last_sub = least_of(first_sub + step_subs, n_subs);
      if (two_level) {
        for (std::int64_t s = first_sub; s < last_sub; ++s) {
          amx_products_of<Tiles, n_panels>(t, s * w.group_k, (s + 1) * w.group_k);
          each(sums, [&](std::int64_t i, int p, const std::int32_t* sum) {
            std::int32_t* total = totals + (sum - sums);
            const i32x16 acc = add(load(sum), splat(starts[i * job.n_sums + s]));
            const i32x16 part = mul(acc, load(subs + (p * n_subs + s) * panel_cols));
            store(total, s == first_sub ? part : add(load(total), part));
          });
        }
      } else {
        amx_products_of<Tiles, n_panels>(t, step * job.step_k, (step + 1) * job.step_k);
      }
      each(two_level ? totals : sums, [&](std::int64_t i, int p, const std::int32_t* sum) {
        const std::int64_t at = (p * n_steps + step) * panel_cols;
        const std::int32_t* asum = asums + i * job.n_sums;
        const f32x16 as = splat(per_token ? 1.0f : scales[i * as_stride + (step >> as_shift)]);
        float* f = state + ((token + i) * n_panels + p) * panel_cols;
        i32x16 acc = load(sum);
        if (!two_level) acc = add(acc, splat(starts[i * job.n_sums + step]));
        if (integer_zero) {
          const i32x16 zero =
              load(varies ? zeros + at : w.row_zero_code + (first_panel + p) * panel_cols);
          acc = sub(acc, times_sum(zero, asum[step], is_short));
        }
        f32x16 sum_f = fma(to_f32(acc), mul(load(varies ? ws + at : ones), as), load(f));
        if (real_zero) {
          sum_f = fma(splat(static_cast<float>(asum[step])), mul(load(wz + at), as), sum_f);
        }
        if (two_level_zero) {
          i32x16 zero_sum = splat(0);
          for (std::int64_t s = first_sub; s < last_sub; ++s) {
            const i32x16 zero = load(zero_subs + (p * n_subs + s) * panel_cols);
            zero_sum = add(zero_sum, mul_i16(zero, splat(asum[s])));
          }
          sum_f = fma(to_f32(zero_sum), mul(load(wz + at), as), sum_f);
        }
        store(f, sum_f);
      });
    }
  }
  for (std::int64_t token = 0; token < n_tokens; ++token) {
    const std::int64_t global = first_token + token;
    const float as = per_token ? job.scales[global * job.scales_stride] : 1.0f;
    const float h = w.row_add == nullptr ? 0.0f : row_sum_of(job, global);
    for (int p = 0; p < n_panels; ++p) {
      finish(job, first_panel + p, global, load(state + (token * n_panels + p) * panel_cols), h,
             as);
    }
  }
}

/// few: the table whose kernels multiply fewer tokens than are worth a tile, and which this one is
/// in all else.
template <class Tiles, const KernelTable* (*few)()>
void amx_int8_panels(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel,
                     std::int64_t first_token, std::int64_t last_token, std::byte* memory) {
  if (job.n_tokens <= few()->matmul.few_tokens) {
    few()->matmul.int8_panels(job, first_panel, last_panel, first_token, last_token, memory);
    return;
  }
  std::int64_t panel = first_panel;
  for (; panel + 2 <= last_panel; panel += 2) {
    amx_group<Tiles, 2>(job, panel, first_token, last_token, Scratch{memory});
  }
  if (panel < last_panel) {
    amx_group<Tiles, 1>(job, panel, first_token, last_token, Scratch{memory});
  }
  Tiles::release();
}

/// The table of this set: that of `few`, but for the int8 products of many tokens.
template <class Tiles, const KernelTable* (*few)()>
KernelTable amx_table() {
  KernelTable table = *few();
  table.isa = Isa::amx_int8;
  table.matmul.tile_panels = 2;
  table.matmul.int8_panels = amx_int8_panels<Tiles, few>;
  return table;
}
