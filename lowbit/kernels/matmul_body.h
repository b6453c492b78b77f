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

#include "lowbit/kernels/int8_tile_body.h"

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

#include "lowbit/kernels/quantize_row_body.h"

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
