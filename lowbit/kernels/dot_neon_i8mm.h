// SPDX-License-Identifier: Apache-2.0
// Products of bytes on NEON with the int8 matrix extension (usdot: unsigned x signed).
// Included after primitives_neon.h.

/// Tile of the products: 4 tokens x 1 panel are 16 int32 accumulators of the 32 registers; the f32
/// ones wait in memory while products run.
constexpr int f32_tile_tokens = 5, tile_tokens = 4, tile_panels = 1, gemv_panels = 4,
              int8_gemv_panels = 2, row_tile_tokens = 6;
/// Too few registers for that many sums: several tokens read unpacked codes.
constexpr bool has_batch_gemv = false;
constexpr int max_small_code = 0, small_quads = 1;  // no sums of int16
/// dot4 multiplies every byte 0..255 exactly.
constexpr int wide_bias = 0;

LOWBIT_PRIMITIVE int32x4_t dot4_quarter(int32x4_t sum, uint8x16_t w, uint8x16_t x) {
  return vusdotq_s32(sum, w, vreinterpretq_s8_u8(x));
}
template <bool wide>
LOWBIT_PRIMITIVE i32x16 dot4(i32x16 sum, u8x64 w, u8x64 x) {
  return {dot4_quarter(sum.a, w.a, x.a), dot4_quarter(sum.b, w.b, x.b),
          dot4_quarter(sum.c, w.c, x.c), dot4_quarter(sum.d, w.d, x.d)};
}
