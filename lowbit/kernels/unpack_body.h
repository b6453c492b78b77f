// SPDX-License-Identifier: Apache-2.0
// From a panel to what the tiles read: stored codes to bytes (code - least) or to f32 numbers,
// stored factors to f32. Instantiated by the width of a code and the way it decodes, never by
// format. Included inside an anonymous namespace by matmul_body.h, nowhere else.

LOWBIT_PRIMITIVE const std::byte* chunk_at(const PanelView& v, std::int64_t panel, std::int64_t k) {
  const std::int64_t chunk_bytes = v.header_bytes + v.chunk_k / tile_k * v.tile_bytes;
  return v.panels + panel * v.panel_bytes + k / v.chunk_k * chunk_bytes;
}

/// Calls rule(tile, k) for the tiles of inputs [first_k, last_k).
template <class Rule>
LOWBIT_PRIMITIVE void for_tiles(const PanelView& v, std::int64_t panel, std::int64_t first_k,
                                std::int64_t last_k, const Rule& rule) {
  std::int64_t k = first_k;
  while (k < last_k) {
    const std::byte* chunk = chunk_at(v, panel, k);
    const std::int64_t in_chunk = k % v.chunk_k;
    std::int64_t end = k - in_chunk + v.chunk_k;
    end = end < last_k ? end : last_k;
    const std::byte* tile = chunk + v.header_bytes + in_chunk / tile_k * v.tile_bytes;
    for (; k < end; k += tile_k, tile += v.tile_bytes) {
      rule(reinterpret_cast<const std::uint8_t*>(tile), k);
    }
  }
}

/// Bits [field * width, (field + 1) * width) of every byte, moved up to bit `to`.
template <int width, int field, int to>
LOWBIT_PRIMITIVE u8x64 field_of(u8x64 row) {
  constexpr int from = field * width;
  constexpr unsigned char mask = ((1u << width) - 1u) << to;
  if constexpr (from > to) row = shift_right16<from - to>(row);
  if constexpr (from < to) row = shift_left16<to - from>(row);
  return bit_and(row, splat_u8(mask));
}

/// The stored codes of one quad of a tile, a byte each.
template <int bits, int quad>
LOWBIT_PRIMITIVE u8x64 quad_code(const std::uint8_t* tile) {
  constexpr int row = 64;
  if constexpr (bits == 8) {
    return load(tile + quad * row);
  } else {
    constexpr int plane_2 = (bits & 4) != 0 ? 4 * row : 0;
    constexpr int plane_1 = plane_2 + ((bits & 2) != 0 ? 2 * row : 0);
    u8x64 code = splat_u8(0);
    if constexpr ((bits & 4) != 0) code = field_of<4, quad % 2, 0>(load(tile + quad / 2 * row));
    if constexpr ((bits & 2) != 0) {
      const u8x64 part = field_of<2, quad % 4, bits & 4>(load(tile + plane_2 + quad / 4 * row));
      code = (bits & 4) != 0 ? bit_or(code, part) : part;
    }
    if constexpr ((bits & 1) != 0) {
      const u8x64 part = field_of<1, quad % 8, bits & 6>(load(tile + plane_1));
      code = (bits & 6) != 0 ? bit_or(code, part) : part;
    }
    return code;
  }
}

/// lut[code] of a table of 2^bits bytes, bits <= 6: one shuffle per 16 entries.
template <int bits>
struct Lut {
  u8x64 parts[bits > 4 ? 1 << (bits - 4) : 1];
  LOWBIT_PRIMITIVE explicit Lut(const std::uint8_t* table) {
#pragma GCC unroll 4
    for (int i = 0; i < static_cast<int>(sizeof parts / sizeof parts[0]); ++i) {
      parts[i] = load_lut16(table + 16 * i);
    }
  }
  LOWBIT_PRIMITIVE u8x64 operator()(u8x64 code) const {
    if constexpr (bits <= 4) return lookup16(parts[0], code);
    if constexpr (bits == 5) {
      return select_bit<4>(code, lookup16(parts[1], code), lookup16(parts[0], code));
    }
    if constexpr (bits == 6) {
      const u8x64 low = select_bit<4>(code, lookup16(parts[1], code), lookup16(parts[0], code));
      const u8x64 high = select_bit<4>(code, lookup16(parts[3], code), lookup16(parts[2], code));
      return select_bit<5>(code, high, low);
    }
  }
};
struct NoLut {
  LOWBIT_PRIMITIVE explicit NoLut(const std::uint8_t*) {}
  LOWBIT_PRIMITIVE u8x64 operator()(u8x64 code) const { return code; }
};

/// Calls rule(quad number, bytes) for the 8 quads of a tile.
template <int bits, class Decode, class Rule, int quad = 0>
LOWBIT_PRIMITIVE void for_quads(const std::uint8_t* tile, const Decode& decode, const Rule& rule) {
  if constexpr (quad < tile_k / quad_k) {
    rule(quad, decode(quad_code<bits, quad>(tile)));
    for_quads<bits, Decode, Rule, quad + 1>(tile, decode, rule);
  }
}

template <int bits, class Decode>
void unpack_code_block(const PanelView& v, std::int64_t panel, std::int64_t first_k,
                       std::int64_t last_k, std::uint8_t* out) {
  const Decode decode(v.lut);
  for_tiles(v, panel, first_k, last_k, [&](const std::uint8_t* tile, std::int64_t k) {
    std::uint8_t* to = out + (k - first_k) * panel_cols;
    for_quads<bits>(tile, decode,
                    [&](int quad, const u8x64& code) { store(to + quad * 64, code); });
  });
}

/// Codes of inputs [first_k, last_k), both multiples of tile_k, as bytes (quad, 64).
inline void unpack_codes(const PanelView& v, std::int64_t panel, std::int64_t first_k,
                         std::int64_t last_k, std::uint8_t* out) {
  using Unpack =
      void (*)(const PanelView&, std::int64_t, std::int64_t, std::int64_t, std::uint8_t*);
  static constexpr Unpack linear[] = {unpack_code_block<1, NoLut>, unpack_code_block<2, NoLut>,
                                      unpack_code_block<3, NoLut>, unpack_code_block<4, NoLut>,
                                      unpack_code_block<5, NoLut>, unpack_code_block<6, NoLut>,
                                      unpack_code_block<7, NoLut>, unpack_code_block<8, NoLut>};
  static constexpr Unpack lut[] = {unpack_code_block<1, Lut<1>>, unpack_code_block<2, Lut<2>>,
                                   unpack_code_block<3, Lut<3>>, unpack_code_block<4, Lut<4>>,
                                   unpack_code_block<5, Lut<5>>, unpack_code_block<6, Lut<6>>};
  (v.code == CodeKind::lut ? lut : linear)[v.bits - 1](v, panel, first_k, last_k, out);
}

// ---- numbers

/// offsets: what is added to every byte before it becomes a float, per half of a tile.
template <int bits, class Decode>
void unpack_integer_block(const PanelView& v, std::int64_t panel, std::int64_t first_k,
                          std::int64_t last_k, const std::int32_t* zeros, float* out) {
  const Decode decode(v.lut);
  const f32x16 unit = splat(v.unit);
  for_tiles(v, panel, first_k, last_k, [&](const std::uint8_t* tile, std::int64_t k) {
    float* to = out + (k - first_k) * panel_cols;
    i32x16 offset[2] = {splat(v.least), splat(v.least)};
    if (zeros != nullptr) {
      for (int half = 0; half < 2; ++half) {
        const std::int64_t at = v.group_k == 0 ? 0 : (k - first_k + half * tile_k / 2) / v.group_k;
        offset[half] = sub(offset[half], load(zeros + at * panel_cols));
      }
    }
    for_quads<bits>(tile, decode, [&](int quad, const u8x64& code) {
      const i32x16 more = offset[quad / 4];
      float* p = to + quad * quad_k * panel_cols;
      store(p, mul(to_f32(add(byte_of<0>(code), more)), unit));
      store(p + panel_cols, mul(to_f32(add(byte_of<1>(code), more)), unit));
      store(p + 2 * panel_cols, mul(to_f32(add(byte_of<2>(code), more)), unit));
      store(p + 3 * panel_cols, mul(to_f32(add(byte_of<3>(code), more)), unit));
    });
  });
}

/// Tables of up to 16 numbers: one shuffle.
template <int bits>
void unpack_small_table_block(const PanelView& v, std::int64_t panel, std::int64_t first_k,
                              std::int64_t last_k, const std::int32_t*, float* out) {
  const f32x16 lut = load(v.values);
  for_tiles(v, panel, first_k, last_k, [&](const std::uint8_t* tile, std::int64_t k) {
    float* to = out + (k - first_k) * panel_cols;
    for_quads<bits>(tile, NoLut(nullptr), [&](int quad, const u8x64& code) {
      float* p = to + quad * quad_k * panel_cols;
      store(p, lookup16(lut, byte_of<0>(code)));
      store(p + panel_cols, lookup16(lut, byte_of<1>(code)));
      store(p + 2 * panel_cols, lookup16(lut, byte_of<2>(code)));
      store(p + 3 * panel_cols, lookup16(lut, byte_of<3>(code)));
    });
  });
}

/// Small floats by arithmetic: a gather costs more than the product.
template <int bits>
struct MinifloatDecoder {
  i32x16 magnitude, offset, first_normal, special, infinity, sign;
  f32x16 least;
  int shift;
  bool has_special;
  LOWBIT_PRIMITIVE explicit MinifloatDecoder(const Minifloat& m)
      : magnitude(splat((1 << (bits - 1)) - 1)),
        offset(splat(m.offset)),
        first_normal(splat(1 << m.mantissa_bits)),
        special(splat(m.special_from)),
        infinity(splat(0x7f800000)),
        sign(splat(1 << (bits - 1))),
        least(splat(m.least)),
        shift(23 - m.mantissa_bits),
        has_special(m.special_from < 1 << (bits - 1)) {}
  LOWBIT_PRIMITIVE f32x16 operator()(const i32x16& code) const {
    const i32x16 m = bit_and(code, magnitude);
    const i32x16 normal = add(shift_left_by(m, shift), offset);
    f32x16 value = select(less(m, first_normal), mul(to_f32(m), least), as_floats(normal));
    if (has_special) value = select(less(m, special), value, as_floats(bit_or(normal, infinity)));
    return as_floats(bit_or(as_bits(value), shift_left<32 - bits>(bit_and(code, sign))));
  }
};
template <int bits>
void unpack_minifloat_block(const PanelView& v, std::int64_t panel, std::int64_t first_k,
                            std::int64_t last_k, const std::int32_t*, float* out) {
  const MinifloatDecoder<bits> decode(v.minifloat);
  for_tiles(v, panel, first_k, last_k, [&](const std::uint8_t* tile, std::int64_t k) {
    float* to = out + (k - first_k) * panel_cols;
    for_quads<bits>(tile, NoLut(nullptr), [&](int quad, const u8x64& code) {
      float* p = to + quad * quad_k * panel_cols;
      store(p, decode(byte_of<0>(code)));
      store(p + panel_cols, decode(byte_of<1>(code)));
      store(p + 2 * panel_cols, decode(byte_of<2>(code)));
      store(p + 3 * panel_cols, decode(byte_of<3>(code)));
    });
  });
}

/// Any other table.
template <int bits>
void unpack_table_block(const PanelView& v, std::int64_t panel, std::int64_t first_k,
                        std::int64_t last_k, const std::int32_t*, float* out) {
  for_tiles(v, panel, first_k, last_k, [&](const std::uint8_t* tile, std::int64_t k) {
    float* to = out + (k - first_k) * panel_cols;
    for_quads<bits>(tile, NoLut(nullptr), [&](int quad, const u8x64& code) {
      float* p = to + quad * quad_k * panel_cols;
      store(p, gather(v.values, byte_of<0>(code)));
      store(p + panel_cols, gather(v.values, byte_of<1>(code)));
      store(p + 2 * panel_cols, gather(v.values, byte_of<2>(code)));
      store(p + 3 * panel_cols, gather(v.values, byte_of<3>(code)));
    });
  });
}

LOWBIT_PRIMITIVE f32x16 load_floats(FactorKind kind, const std::byte* p, std::int64_t at,
                                    const float* values) {
  switch (kind) {
    case FactorKind::f16:
      return load_f16(reinterpret_cast<const std::uint16_t*>(p) + at);
    case FactorKind::bf16:
      return load_bf16(reinterpret_cast<const std::uint16_t*>(p) + at);
    case FactorKind::f32:
      return load(reinterpret_cast<const float*>(p) + at);
    default:
      return gather(values, load_u8(reinterpret_cast<const std::uint8_t*>(p) + at));
  }
}

template <FactorKind kind>
void unpack_float_block(const PanelView& v, std::int64_t panel, std::int64_t first_k,
                        std::int64_t last_k, const std::int32_t*, float* out) {
  for_tiles(v, panel, first_k, last_k, [&](const std::uint8_t* tile, std::int64_t k) {
    float* to = out + (k - first_k) * panel_cols;
    const std::byte* from = reinterpret_cast<const std::byte*>(tile);
#pragma GCC unroll 4
    for (int i = 0; i < tile_k; ++i) {
      store(to + i * panel_cols, load_floats(kind, from, i * panel_cols, nullptr));
    }
  });
}

/// Numbers (code values, less their integer zeros; no scale) of inputs [first_k, last_k): (k, 16).
/// zeros: (group of the block, 16), one vector for the row where group_k is 0, null without.
inline void unpack_values(const PanelView& v, std::int64_t panel, std::int64_t first_k,
                          std::int64_t last_k, const std::int32_t* zeros, float* out) {
  using Unpack = void (*)(const PanelView&, std::int64_t, std::int64_t, std::int64_t,
                          const std::int32_t*, float*);
  static constexpr Unpack linear[] = {
      unpack_integer_block<1, NoLut>, unpack_integer_block<2, NoLut>,
      unpack_integer_block<3, NoLut>, unpack_integer_block<4, NoLut>,
      unpack_integer_block<5, NoLut>, unpack_integer_block<6, NoLut>,
      unpack_integer_block<7, NoLut>, unpack_integer_block<8, NoLut>};
  static constexpr Unpack lut[] = {
      unpack_integer_block<1, Lut<1>>, unpack_integer_block<2, Lut<2>>,
      unpack_integer_block<3, Lut<3>>, unpack_integer_block<4, Lut<4>>,
      unpack_integer_block<5, Lut<5>>, unpack_integer_block<6, Lut<6>>};
  static constexpr Unpack table[] = {unpack_small_table_block<1>, unpack_small_table_block<2>,
                                     unpack_small_table_block<3>, unpack_small_table_block<4>,
                                     unpack_table_block<5>,       unpack_table_block<6>,
                                     unpack_table_block<7>,       unpack_table_block<8>};
  Unpack unpack = nullptr;
  switch (v.code) {
    case CodeKind::linear:
      unpack = linear[v.bits - 1];
      break;
    case CodeKind::lut:
      unpack = lut[v.bits - 1];
      break;
    case CodeKind::table:
      unpack = table[v.bits - 1];
      if constexpr (has_minifloats) {
        constexpr int least_bits = 5;
        static constexpr Unpack minifloat[] = {unpack_minifloat_block<5>, unpack_minifloat_block<6>,
                                               unpack_minifloat_block<7>,
                                               unpack_minifloat_block<8>};
        const bool is_small_float = v.minifloat.mantissa_bits != 0 && v.bits >= least_bits;
        if (is_small_float) unpack = minifloat[v.bits - least_bits];
      }
      break;
    case CodeKind::f16:
      unpack = unpack_float_block<FactorKind::f16>;
      break;
    case CodeKind::bf16:
      unpack = unpack_float_block<FactorKind::bf16>;
      break;
    case CodeKind::f32:
      unpack = unpack_float_block<FactorKind::f32>;
      break;
  }
  unpack(v, panel, first_k, last_k, zeros, out);
}

// ---- factors

/// The factors of one group of a chunk, decoded.
LOWBIT_PRIMITIVE f32x16 factor_of(const FactorPlane& plane, const std::byte* chunk,
                                  std::int64_t group) {
  const std::int64_t at = group * panel_cols;
  if (plane.kind != FactorKind::two_level) {
    return load_floats(plane.kind, chunk + plane.offset, at, plane.values);
  }
  const i32x16 sub = load_i8(reinterpret_cast<const std::int8_t*>(chunk + plane.offset) + at);
  const f32x16 coarse = load_floats(plane.coarse_kind, chunk + plane.coarse_offset, 0, nullptr);
  return mul(coarse, mul(splat(plane.unit), to_f32(sub)));
}

/// Factors per step from input first_k (the start of a chunk) on, a group's repeated where steps
/// are finer: scales times `unit`, what real zeros add, integer zeros. Null where not wanted.
inline void unpack_step_factors(const PanelView& v, std::int64_t panel, std::int64_t first_k,
                                std::int64_t n_steps, std::int64_t step_k, float unit, float* ws,
                                float* wz, std::int32_t* zeros) {
  const f32x16 units = splat(unit);
  const bool is_product = v.zero_kind == ZeroKind::product;
  const std::int64_t chunk_bytes = v.header_bytes + v.chunk_k / tile_k * v.tile_bytes;
  const std::byte* chunk = chunk_at(v, panel, first_k);
  std::int64_t k = 0;  // in the chunk
  std::int64_t group = 0, group_end = v.group_k;
  for (std::int64_t step = 0; step < n_steps; ++step) {
    const std::int64_t at = step * panel_cols;
    const f32x16 scale = v.has_scale ? factor_of(v.scale, chunk, group) : splat(1.0f);
    store(ws + at, mul(scale, units));
    if (wz != nullptr) {
      const f32x16 zero = factor_of(v.zero, chunk, group);
      store(wz + at, is_product ? mul(splat(-1.0f), mul(scale, zero)) : zero);
    }
    if (zeros != nullptr) {
      const std::uint8_t* bytes = reinterpret_cast<const std::uint8_t*>(chunk + v.zero_offset);
      store(zeros + at, add(load_u8(bytes + group * panel_cols), splat(v.zero_least)));
    }
    k += step_k;
    if (k == group_end) {
      ++group;
      group_end += v.group_k;
    }
    if (k == v.chunk_k) {
      chunk += chunk_bytes;
      k = group = 0;
      group_end = v.group_k;
    }
  }
}

/// Two-level factors: the coarse ones times `unit`, one per chunk; the integers, one per group.
inline void unpack_coarse(const PanelView& v, const FactorPlane& plane, std::int64_t panel,
                          std::int64_t first_k, std::int64_t n_steps, float unit, float* out) {
  const std::int64_t chunk_bytes = v.header_bytes + v.chunk_k / tile_k * v.tile_bytes;
  const std::byte* chunk = chunk_at(v, panel, first_k);
  for (std::int64_t step = 0; step < n_steps; ++step, chunk += chunk_bytes) {
    const f32x16 coarse = load_floats(plane.coarse_kind, chunk + plane.coarse_offset, 0, nullptr);
    store(out + step * panel_cols, mul(coarse, splat(unit)));
  }
}

/// Calls rule(group, its integers) from input first_k, the start of a chunk, on.
template <class Rule>
LOWBIT_PRIMITIVE void for_subs(const PanelView& v, const FactorPlane& plane, std::int64_t panel,
                               std::int64_t first_k, std::int64_t n_groups, const Rule& rule) {
  const std::int64_t chunk_bytes = v.header_bytes + v.chunk_k / tile_k * v.tile_bytes;
  const std::int64_t chunk_groups = v.chunk_k / v.group_k;
  const std::byte* chunk = chunk_at(v, panel, first_k) + plane.offset;
  for (std::int64_t first = 0; first < n_groups; first += chunk_groups, chunk += chunk_bytes) {
    const auto* subs = reinterpret_cast<const std::int8_t*>(chunk);
    for (std::int64_t group = first; group < n_groups && group < first + chunk_groups; ++group) {
      rule(group, load_i8(subs));
      subs += panel_cols;
    }
  }
}
/// As int32; as_halves: in the low half of a lane whose high half is 0, as dot2 wants them.
inline void unpack_subs(const PanelView& v, const FactorPlane& plane, std::int64_t panel,
                        std::int64_t first_k, std::int64_t n_groups, bool as_halves,
                        std::int32_t* out) {
  const i32x16 mask = splat(as_halves ? 0xffff : -1);
  for_subs(v, plane, panel, first_k, n_groups, [&](std::int64_t group, const i32x16& sub) {
    store(out + group * panel_cols, bit_and(sub, mask));
  });
}
/// Two groups in a lane; the last may stand alone.
inline void unpack_sub_pairs(const PanelView& v, const FactorPlane& plane, std::int64_t panel,
                             std::int64_t first_k, std::int64_t n_groups, std::int32_t* out) {
  constexpr int half = 16;
  const i32x16 mask = splat(0xffff);
  for_subs(v, plane, panel, first_k, n_groups, [&](std::int64_t group, const i32x16& sub) {
    std::int32_t* pair = out + group / 2 * panel_cols;
    store(pair, group % 2 == 0 ? bit_and(sub, mask) : bit_or(load(pair), shift_left<half>(sub)));
  });
}
