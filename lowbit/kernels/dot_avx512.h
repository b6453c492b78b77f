// SPDX-License-Identifier: Apache-2.0
// Products of bytes on AVX-512 without VNNI: vpmaddubsw and vpmaddwd, as on AVX2. Included after
// primitives_zmm.h.

/// Tile of the products: 6 tokens x 2 panels keep 12 int32 and 12 f32 accumulators in registers.
constexpr int f32_tile_tokens = 6, tile_tokens = 6, tile_panels = 2, gemv_panels = 4,
              int8_gemv_panels = 2, row_tile_tokens = 12;
/// 8 int32 and 8 f32 sums of a panel stay in registers: up to 8 tokens read the bit planes.
constexpr bool has_batch_gemv = true;
/// 4 quads: 4 x 2 products of 0..32 x -127..127 fit int16.
constexpr int max_small_code = 32, small_quads = 4;
/// Bytes above 127 overflow vpmaddubsw, so wide codes are multiplied as byte - wide_bias.
constexpr int wide_bias = 128;

/// Narrow: two products of 0..127 x -127..127 fit the int16 of vpmaddubsw. Wide: |w - 128| <= 128
/// is the unsigned factor and x takes the sign: 2 x 128 x 127 fits too. There is no vpsignb at this
/// width, so x is negated under a mask.
template <bool wide>
LOWBIT_PRIMITIVE i32x16 dot4(i32x16 sum, u8x64 w, u8x64 x) {
  __m512i factor = (__m512i)w, signed_x = (__m512i)x;
  if constexpr (wide) {
    const __m512i centred = (__m512i)(w ^ static_cast<unsigned char>(wide_bias));
    factor = _mm512_abs_epi8(centred);
    signed_x = _mm512_mask_sub_epi8(signed_x, _mm512_movepi8_mask(centred), _mm512_setzero_si512(),
                                    signed_x);
  }
  const __m512i pairs = _mm512_maddubs_epi16(factor, signed_x);
  return add(sum, (i32x16)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

/// sum + 4 quads of codes up to max_small_code times x: widened to int32 once, not 4 times.
LOWBIT_PRIMITIVE i32x16 dot16(i32x16 sum, const std::uint8_t* codes, const std::int8_t* x) {
  __m512i pairs = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int quad = 0; quad < small_quads; ++quad) {
    const __m512i part =
        _mm512_maddubs_epi16((__m512i)load(codes + quad * 64), (__m512i)broadcast4(x + quad * 4));
    pairs = quad == 0 ? part : _mm512_add_epi16(pairs, part);
  }
  return add(sum, (i32x16)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

LOWBIT_PRIMITIVE i32x16 dot2(i32x16 sum, i32x16 a, i32x16 b) {
  return add(sum, (i32x16)_mm512_madd_epi16((__m512i)a, (__m512i)b));
}
