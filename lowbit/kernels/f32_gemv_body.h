// SPDX-License-Identifier: Apache-2.0
// One token of f32 times panels of codes, straight from the bit planes: codes become numbers in
// registers and enter the fma chain of their panel, in the order of f32_tile, hence the same bits.
// Included inside an anonymous namespace by matmul_f32_body.h, nowhere else.

/// Codes of up to 4 bits: a table of 16 numbers in a register.
template <int bits>
struct TableNumbers {
  static constexpr bool is_one_plane = bits != 3;
  static constexpr int row_quads = 8 / bits;
  f32x16 lut;
  LOWBIT_PRIMITIVE explicit TableNumbers(const PanelView& v) {
    constexpr int last_code = (1 << bits) - 1;
    alignas(64) float numbers[panel_cols];
    for (int i = 0; i < panel_cols;
         ++i) {  // again and again: higher bits of an index count nothing
      const int index = i & last_code;
      if (v.code == CodeKind::table) {
        numbers[i] = v.values[index];
      } else {
        const int code = v.code == CodeKind::lut ? v.lut[index] : index;
        numbers[i] = static_cast<float>(code + v.least) * v.unit;
      }
    }
    lut = load(numbers);
  }
  template <int quad>
  LOWBIT_PRIMITIVE u8x64 codes(const std::uint8_t* tile) const {
    if constexpr (is_one_plane) return load(tile + quad / row_quads * row_bytes);
    if constexpr (!is_one_plane) return quad_code<bits, quad>(tile);
  }
  template <int quad, int byte>
  LOWBIT_PRIMITIVE f32x16 number(const u8x64& codes) const {
    if constexpr (is_one_plane) return lookup_at<8 * byte + bits*(quad % row_quads)>(lut, codes);
    if constexpr (!is_one_plane) return lookup16(lut, byte_of<byte>(codes));
  }
};

/// Integers: linear codes of unit 1, or Lut.
template <int bits, class Decode, bool has_unit>
struct IntegerNumbers {
  Decode decode;
  i32x16 least;
  f32x16 unit;
  LOWBIT_PRIMITIVE explicit IntegerNumbers(const PanelView& v)
      : decode(v.lut), least(splat(v.least)), unit(splat(v.unit)) {}
  template <int quad>
  LOWBIT_PRIMITIVE u8x64 codes(const std::uint8_t* tile) const {
    return decode(quad_code<bits, quad>(tile));
  }
  template <int, int byte>
  LOWBIT_PRIMITIVE f32x16 number(const u8x64& codes) const {
    const f32x16 integer = to_f32(add(byte_of<byte>(codes), least));
    if constexpr (has_unit) return mul(integer, unit);
    return integer;
  }
};

template <int bits>
struct MinifloatNumbers {
  MinifloatDecoder<bits> decode;
  LOWBIT_PRIMITIVE explicit MinifloatNumbers(const PanelView& v) : decode(v.minifloat) {}
  template <int quad>
  LOWBIT_PRIMITIVE u8x64 codes(const std::uint8_t* tile) const {
    return quad_code<bits, quad>(tile);
  }
  template <int, int byte>
  LOWBIT_PRIMITIVE f32x16 number(const u8x64& codes) const {
    return decode(byte_of<byte>(codes));
  }
};

/// acc += quads [first, last) of a tile times x, which is where the tile begins.
template <int first, int last, class Numbers, int n_panels>
LOWBIT_PRIMITIVE void fma_planes(const std::uint8_t* const (&tiles)[n_panels],
                                 const Numbers& numbers, const float* x, f32x16 (&acc)[n_panels]) {
  if constexpr (first < last) {
    u8x64 codes[n_panels];
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) codes[p] = numbers.template codes<first>(tiles[p]);
    const auto one = [&]<int byte>() __attribute__((always_inline)) {
      const f32x16 token = splat(x[first * quad_k + byte]);
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        acc[p] = fma(token, numbers.template number<first, byte>(codes[p]), acc[p]);
      }
    };
    one.template operator()<0>();
    one.template operator()<1>();
    one.template operator()<2>();
    one.template operator()<3>();
    fma_planes<first + 1, last>(tiles, numbers, x, acc);
  }
}

/// Panels [first_panel, last_panel) of whole tiles, no integer zeros.
template <class Numbers, int n_panels>
void f32_planes(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel) {
  const PanelView& v = job.w;
  const Numbers numbers(v);
  const bool varies = v.group_k != 0;
  const std::int64_t group_k = varies ? v.group_k : v.cols;
  const std::int64_t chunk_bytes = v.header_bytes + v.chunk_k / tile_k * v.tile_bytes;
  const float h = v.row_add == nullptr ? 0.0f : job.x_sums[0];
  for (std::int64_t panel = first_panel; panel < last_panel; panel += n_panels) {
    const std::byte* chunks[n_panels];  // beyond the last panel: the last one again
    f32x16 f[n_panels];
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      chunks[p] = v.panels + least_of(panel + p, last_panel - 1) * v.panel_bytes;
      f[p] = splat(0.0f);
    }
    std::int64_t sum = 0;
    for (std::int64_t k = 0; k < v.cols;) {
      const std::int64_t end = least_of(k + v.chunk_k, v.cols);
      const std::uint8_t* tiles[n_panels];
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        tiles[p] = reinterpret_cast<const std::uint8_t*>(chunks[p]) + v.header_bytes;
      }
      std::int64_t group = 0;
      f32x16 acc[n_panels];
      const auto begin_group = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int p = 0; p < n_panels; ++p) acc[p] = varies ? splat(0.0f) : f[p];
      };
      const auto end_group = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int p = 0; p < n_panels; ++p) {
          if (!varies) {
            f[p] = acc[p];
            continue;
          }
          const f32x16 scale = v.has_scale ? factor_of(v.scale, chunks[p], group) : splat(1.0f);
          f[p] = fma(acc[p], scale, f[p]);
          if (v.zero_kind == ZeroKind::none) continue;
          f32x16 zero = factor_of(v.zero, chunks[p], group);
          if (v.zero_kind == ZeroKind::product) zero = mul(splat(-1.0f), mul(scale, zero));
          f[p] = fma(splat(job.x_sums[sum]), zero, f[p]);
        }
        ++group;
        ++sum;
      };
      constexpr int quads = tile_k / quad_k, half = quads / 2;
      while (k < end) {
        begin_group();
        const std::int64_t group_end = least_of(k + group_k, end);
        do {
          fma_planes<0, half>(tiles, numbers, job.x + k, acc);
          if (group_k < tile_k) {
            end_group();
            begin_group();
          }
          fma_planes<half, quads>(tiles, numbers, job.x + k, acc);
#pragma GCC unroll 4
          for (int p = 0; p < n_panels; ++p) {
            for (int line = 0; line < v.tile_bytes; line += row_bytes) {
              prefetch(tiles[p] + prefetch_bytes + line);
            }
            tiles[p] += v.tile_bytes;
          }
          k += tile_k;
        } while (k < group_end);
        end_group();
      }
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) chunks[p] += chunk_bytes;
    }
#pragma GCC unroll 4
    for (int p = 0; p < n_panels; ++p) {
      if (panel + p < last_panel) finish(job, panel + p, 0, f[p], h, 1.0f);
    }
  }
}

using F32Planes = void (*)(const MatmulJob&, std::int64_t, std::int64_t);

template <int bits, class Decode, bool has_unit, int n_panels>
F32Planes integer_planes() {
  constexpr int table_bits = 4;
  if constexpr (has_fast_lookup16 && bits <= table_bits) {
    return f32_planes<TableNumbers<bits>, n_panels>;
  } else {
    return f32_planes<IntegerNumbers<bits, Decode, has_unit>, n_panels>;
  }
}

/// Null where numbers pass through scratch.
template <int n_panels>
F32Planes f32_planes_of(const PanelView& v) {
  constexpr int table_bits = 4;
  static constexpr F32Planes table[] = {
      f32_planes<TableNumbers<1>, n_panels>, f32_planes<TableNumbers<2>, n_panels>,
      f32_planes<TableNumbers<3>, n_panels>, f32_planes<TableNumbers<4>, n_panels>};
  const F32Planes linear[] = {
      integer_planes<1, NoLut, false, n_panels>(), integer_planes<2, NoLut, false, n_panels>(),
      integer_planes<3, NoLut, false, n_panels>(), integer_planes<4, NoLut, false, n_panels>(),
      integer_planes<5, NoLut, false, n_panels>(), integer_planes<6, NoLut, false, n_panels>(),
      integer_planes<7, NoLut, false, n_panels>(), integer_planes<8, NoLut, false, n_panels>()};
  const F32Planes lut[] = {
      integer_planes<1, Lut<1>, true, n_panels>(), integer_planes<2, Lut<2>, true, n_panels>(),
      integer_planes<3, Lut<3>, true, n_panels>(), integer_planes<4, Lut<4>, true, n_panels>(),
      integer_planes<5, Lut<5>, true, n_panels>(), integer_planes<6, Lut<6>, true, n_panels>()};
  if (v.cols % tile_k != 0 || v.zero_kind == ZeroKind::integer) return nullptr;
  switch (v.code) {
    case CodeKind::linear:
      return v.unit == 1.0f ? linear[v.bits - 1] : nullptr;
    case CodeKind::lut:
      return lut[v.bits - 1];
    case CodeKind::table:
      if (v.bits <= table_bits) return table[v.bits - 1];
      if constexpr (has_minifloats) {
        if (v.minifloat.mantissa_bits == 0) return nullptr;
        if (v.bits == 6) return f32_planes<MinifloatNumbers<6>, n_panels>;
        if (v.bits == 8) return f32_planes<MinifloatNumbers<8>, n_panels>;
      }
      return nullptr;
    default:
      return nullptr;
  }
}
