// SPDX-License-Identifier: Apache-2.0
// Products of bytes on AVX-VNNI: vpdpbusd in its VEX form. Included after primitives_ymm.h.

/// Tile of the products: 3 tokens x 1 panel keep 6 int32 and 6 f32 accumulators in 16 registers;
/// f32 needs 12 chains to hide the latency of fma.
constexpr int f32_tile_tokens = 6, tile_tokens = 3, tile_panels = 1, gemv_panels = 2,
              int8_gemv_panels = 1;
/// dot4 multiplies every byte 0..255 exactly.
constexpr int wide_bias = 0;

template <bool wide>
LOWBIT_PRIMITIVE i32x16 dot4(i32x16 sum, u8x64 w, u8x64 x) {
  return {_mm256_dpbusd_avx_epi32(sum.low, w.low, x.low),
          _mm256_dpbusd_avx_epi32(sum.high, w.high, x.high)};
}
