// SPDX-License-Identifier: Apache-2.0
// Products of bytes on AVX-512 VNNI: vpdpbusd. Included after primitives_zmm.h.

/// Tile of the products: 6 tokens x 2 panels keep 12 int32 and 12 f32 accumulators in registers.
constexpr int f32_tile_tokens = 6, tile_tokens = 6, tile_panels = 2, gemv_panels = 4,
              int8_gemv_panels = 2, row_tile_tokens = 12;
/// 8 int32 and 8 f32 sums of a panel stay in registers: up to 8 tokens read the bit planes.
constexpr bool has_batch_gemv = true;
constexpr int max_small_code = 0, small_quads = 1;  // no sums of int16
/// dot4 multiplies every byte 0..255 exactly.
constexpr int wide_bias = 0;

template <bool wide>
LOWBIT_PRIMITIVE i32x16 dot4(i32x16 sum, u8x64 w, u8x64 x) {
#if defined(__clang__)
  return (i32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#else
  return __builtin_ia32_vpdpbusd_v16si(sum, (i32x16)w, (i32x16)x);
#endif
}

LOWBIT_PRIMITIVE i32x16 dot2(i32x16 sum, i32x16 a, i32x16 b) {
#if defined(__clang__)
  return (i32x16)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#else
  return __builtin_ia32_vpdpwssd_v16si(sum, a, b);
#endif
}
