// SPDX-License-Identifier: Apache-2.0
// How keys and values become codes (attention.h) and where they go in a block (kv_block.h), on the
// primitives. Positions of a block are stored in parallel, so a byte is only ever written by the
// position it belongs to. Included by attention_body.h.

constexpr int quad = 4;                        // bytes that are multiplied together
constexpr int int8_bias = 128, int4_bias = 8;  // what stored codes of keys are above their value
constexpr float largest_query_code = 127;

LOWBIT_PRIMITIVE float absmax(const float* x, std::int64_t n) {
  f32x16 lanes = splat(0.0f);
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        const i32x16 magnitude = bit_and(as_bits(load_some(x + i, count)), splat(0x7fffffff));
        lanes = max(as_floats(magnitude), lanes);
      });
  return max_lane(lanes);
}

LOWBIT_PRIMITIVE float reciprocal_of_scale(float scale) {
  constexpr float smallest_normal = 0x1p-126f;
  return scale >= smallest_normal ? 1.0f / scale : 0.0f;
}

/// x * reciprocal inside [lowest, highest]; a NaN becomes the lower one.
LOWBIT_PRIMITIVE f32x16 clamped(f32x16 x, float reciprocal, float lowest, float highest) {
  return min(max(mul(x, splat(reciprocal)), splat(lowest)), splat(highest));
}

/// Returns 1 / the scale as it was stored, or 0.
LOWBIT_PRIMITIVE float store_scale(std::byte* scales, int position, float scale) {
  constexpr float largest_half = 65504;
  const std::uint16_t stored = float_to_half(scale < largest_half ? scale : largest_half);
  reinterpret_cast<std::uint16_t*>(scales)[position] = stored;
  return reciprocal_of_scale(half_to_float(stored));
}

/// Bits of e4m3 and of f32: both have the sign on top, then the exponent.
constexpr int e4m3_shift = 23 - 3, e4m3_sign = 0x80, e4m3_magnitude = 0x7f;
constexpr int e4m3_exponents = (127 - 7) << 3;  // what f32's exponent is above, in e4m3's place
constexpr float e4m3_largest = 448, e4m3_least_normal = 0x1p-6f, e4m3_least = 0x1p-9f;

/// The nearest code, ties to even, of numbers inside +-448.
LOWBIT_PRIMITIVE i32x16 e4m3_codes(f32x16 y) {
  const i32x16 magnitude = bit_and(as_bits(y), splat(0x7fffffff));
  const i32x16 odd = bit_and(shift_right<e4m3_shift>(magnitude), splat(1));
  const i32x16 half_less_one = splat((1 << (e4m3_shift - 1)) - 1);
  const i32x16 rounded = shift_right<e4m3_shift>(add(add(magnitude, half_less_one), odd));
  const i32x16 normal = sub(rounded, splat(e4m3_exponents));
  const f32x16 size = as_floats(magnitude);
  const i32x16 subnormal = to_i32(mul(min(size, splat(e4m3_least_normal)), splat(1 / e4m3_least)));
  const i32x16 code = as_bits(
      select(less(size, splat(e4m3_least_normal)), as_floats(subnormal), as_floats(normal)));
  return bit_or(code, bit_and(shift_right<24>(as_bits(y)), splat(e4m3_sign)));
}

LOWBIT_PRIMITIVE f32x16 load_e4m3(const std::uint8_t* p) {
  const i32x16 code = load_u8(p);
  const i32x16 magnitude = bit_and(code, splat(e4m3_magnitude));
  const i32x16 normal = shift_left<e4m3_shift>(add(magnitude, splat(e4m3_exponents)));
  const f32x16 subnormal = mul(to_f32(magnitude), splat(e4m3_least));
  const f32x16 size = select(less(magnitude, splat(1 << 3)), subnormal, as_floats(normal));
  const i32x16 sign = shift_left<24>(bit_and(code, splat(e4m3_sign)));
  return as_floats(bit_or(as_bits(size), sign));
}

/// Stores one f32 or f16 vector: numbers of K `stride` apart.
void store_numbers(const KvLayout& layout, std::byte* block, int position, const float* k,
                   const float* v) {
  const std::int64_t n = layout.head_dim, v_row = position * layout.padded_dim();
  std::byte* v_part = block + layout.v_offset();
  if (layout.kind == KvKind::f32) {
    float* k_to = reinterpret_cast<float*>(block) + position;
    for (std::int64_t i = 0; i < n; ++i) k_to[i * kv_block_positions] = k[i];
    __builtin_memcpy(reinterpret_cast<float*>(v_part) + v_row, v,
                     static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  std::uint16_t* k_to = reinterpret_cast<std::uint16_t*>(block) + position;
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        std::uint16_t halves[n_lanes];
        store_f16(halves, load_some(k + i, count));
        for (int j = 0; j < count; ++j) k_to[(i + j) * kv_block_positions] = halves[j];
      });
  row_to_half(v, n, reinterpret_cast<std::uint16_t*>(v_part) + v_row);
}

void store_e4m3(const KvLayout& layout, std::byte* block, int position, const float* k,
                const float* v) {
  const std::int64_t n = layout.head_dim;
  const float k_reciprocal =
      store_scale(block + layout.k_scales_offset(), position, absmax(k, n) / e4m3_largest);
  const float v_reciprocal =
      store_scale(block + layout.v_scales_offset(), position, absmax(v, n) / e4m3_largest);
  std::byte* k_to = block + position;
  std::byte* v_to = block + layout.v_offset() + position * layout.padded_dim();
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        std::uint8_t codes[n_lanes];
        const f32x16 key = load_some(k + i, count), value = load_some(v + i, count);
        store_u8(codes, e4m3_codes(clamped(key, k_reciprocal, -e4m3_largest, e4m3_largest)));
        for (int j = 0; j < count; ++j) {
          k_to[(i + j) * kv_block_positions] = static_cast<std::byte>(codes[j]);
        }
        store_u8(codes, e4m3_codes(clamped(value, v_reciprocal, -e4m3_largest, e4m3_largest)));
        __builtin_memcpy(v_to + i, codes, static_cast<std::size_t>(count));
      });
}

void store_int8(const KvLayout& layout, std::byte* block, int position, const float* k,
                const float* v) {
  constexpr float largest = 127;
  const std::int64_t n = layout.head_dim;
  const float k_reciprocal =
      store_scale(block + layout.k_scales_offset(), position, absmax(k, n) / largest);
  const float v_reciprocal =
      store_scale(block + layout.v_scales_offset(), position, absmax(v, n) / largest);
  std::byte* k_to = block + position * quad;
  std::byte* v_to =
      block + layout.v_offset() + position / quad * layout.padded_dim() * quad + position % quad;
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        std::uint8_t keys[n_lanes];
        std::int8_t values[n_lanes];
        const i32x16 key =
            to_i32(clamped(load_some(k + i, count), k_reciprocal, -largest, largest));
        store_u8(keys, add(key, splat(int8_bias)));
        store_i8(values, to_i32(clamped(load_some(v + i, count), v_reciprocal, -largest, largest)));
        for (int j = 0; j < count; ++j) {  // i is a multiple of 16, so of 4
          k_to[(i + j) / quad * quad * kv_block_positions + j % quad] =
              static_cast<std::byte>(keys[j]);
          v_to[(i + j) * quad] = static_cast<std::byte>(values[j]);
        }
      });
}

/// Codes + 8 of n numbers, zeros up to n_padded.
LOWBIT_PRIMITIVE void int4_codes(const KvLayout& layout, std::byte* scales, int position,
                                 const float* x, std::int64_t group, std::uint8_t* codes) {
  constexpr float lowest = -8, highest = 7, divisor = 7.5f;
  const std::int64_t first = group * layout.group_dim(), left = layout.head_dim - first;
  const std::int64_t n = left < layout.group_dim() ? left : layout.group_dim();
  const float reciprocal = store_scale(scales + group * kv_block_positions * 2, position,
                                       absmax(x + first, n) / divisor);
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        const f32x16 y = clamped(load_some(x + first + i, count), reciprocal, lowest, highest);
        store_u8(codes + i, add(to_i32(y), splat(int4_bias)));
      });
  const std::int64_t padded = layout.padded_dim() - first;
  for (std::int64_t i = n; i < padded && i < layout.group_dim(); ++i) codes[i] = 0;
}

void store_int4(const KvLayout& layout, std::byte* block, int position, const float* k,
                const float* v) {
  constexpr int group_dim = 64, high = 4;
  const std::int64_t padded_dim = layout.padded_dim();
  std::byte* v_part = block + layout.v_offset() + position / quad * (padded_dim / 2) * quad;
  for (std::int64_t group = 0; group < layout.n_groups(); ++group) {
    std::uint8_t codes[group_dim];
    const std::int64_t first = group * group_dim;
    const std::int64_t left = padded_dim - first, n = left < group_dim ? left : group_dim;
    int4_codes(layout, block + layout.k_scales_offset(), position, k, group, codes);
    for (std::int64_t i = 0; i < n; i += 2 * quad) {
      std::byte* to = block + ((first + i) / (2 * quad) * kv_block_positions + position) * quad;
      for (int j = 0; j < quad; ++j) {
        to[j] = static_cast<std::byte>(codes[i + j] | codes[i + quad + j] << high);
      }
    }
    int4_codes(layout, block + layout.v_scales_offset(), position, v, group, codes);
    for (std::int64_t i = 0; i < n; i += 2 * n_lanes) {
      std::byte* to = v_part + (first + i) / 2 * quad + position % quad;
      for (int j = 0; j < n_lanes; ++j) {
        to[j * quad] = static_cast<std::byte>(codes[i + j] | codes[i + n_lanes + j] << high);
      }
    }
  }
}

void block_store(const KvLayout& layout, std::byte* block, int position, const float* k,
                 const float* v) {
  switch (layout.kind) {
    case KvKind::f32:
    case KvKind::f16:
      return store_numbers(layout, block, position, k, v);
    case KvKind::int8_token:
      return store_int8(layout, block, position, k, v);
    case KvKind::int4_g64:
      return store_int4(layout, block, position, k, v);
    case KvKind::e4m3_token:
      return store_e4m3(layout, block, position, k, v);
  }
}
