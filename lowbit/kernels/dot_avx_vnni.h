// SPDX-License-Identifier: Apache-2.0
// Products of bytes on AVX-VNNI: vpdpbusd in its VEX form. Included after primitives_ymm.h.

/// Tile of the products: vpdpbusd takes 5 cycles and two start per cycle, so 12 int32 accumulators
/// (6 tokens x 1 panel) run at once; the 12 f32 sums wait in memory and pass by once a step.
constexpr int f32_tile_tokens = 6, tile_tokens = 6, tile_panels = 1, gemv_panels = 2,
              int8_gemv_panels = 1, row_tile_tokens = 6;
/// Too few registers for that many sums: several tokens read unpacked codes.
constexpr bool has_batch_gemv = false;
constexpr int max_small_code = 0, small_quads = 1;  // no sums of int16
/// dot4 multiplies every byte 0..255 exactly.
constexpr int wide_bias = 0;

/// In assembly: g++ 12 copies the accumulators of _mm256_dpbusd_avx_epi32 from register to register
/// around every loop (the product is v8si, the sum v4di, and each change of mode is a move).
LOWBIT_PRIMITIVE __m256i dot4_half(__m256i sum, __m256i w, __m256i x) {
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(w), "x"(x));
  return sum;
}
template <bool wide>
LOWBIT_PRIMITIVE i32x16 dot4(i32x16 sum, u8x64 w, u8x64 x) {
  return {dot4_half(sum.low, w.low, x.low), dot4_half(sum.high, w.high, x.high)};
}

LOWBIT_PRIMITIVE __m256i dot2_half(__m256i sum, __m256i a, __m256i b) {
  __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
}
LOWBIT_PRIMITIVE i32x16 dot2(i32x16 sum, i32x16 a, i32x16 b) {
  return {dot2_half(sum.low, a.low, b.low), dot2_half(sum.high, a.high, b.high)};
}
