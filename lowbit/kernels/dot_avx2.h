// SPDX-License-Identifier: Apache-2.0
// Products of bytes on AVX2: vpmaddubsw and vpmaddwd. Included after primitives_ymm.h.

/// Tile of the products: 2 tokens x 1 panel of int8 fill the 16 registers; f32 needs 12 chains to
/// hide the latency of fma.
constexpr int f32_tile_tokens = 6, tile_tokens = 2, tile_panels = 1, gemv_panels = 2,
              int8_gemv_panels = 1, row_tile_tokens = 3;
/// Too few registers for that many sums: several tokens read unpacked codes.
constexpr bool has_batch_gemv = false;
/// 4 quads: 4 x 2 products of 0..32 x -127..127 fit int16.
constexpr int max_small_code = 32, small_quads = 4;
/// Bytes above 127 overflow vpmaddubsw, so wide codes are multiplied as byte - wide_bias.
constexpr int wide_bias = 128;

/// g++ reorders integer sums across unrolled quads and keeps all their products on the stack for
/// it; in assembly the sums stay one chain, and in their registers.
LOWBIT_PRIMITIVE __m256i add_in_order(__m256i sum, __m256i more) {
  __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(more));
  return sum;
}

/// Narrow: two products of 0..127 x -127..127 fit the int16 of vpmaddubsw. Wide: w - 128 takes x's
/// place as the signed factor, |w - 128| <= 128 as the unsigned one: 2 x 128 x 127 fits too.
template <bool wide>
LOWBIT_PRIMITIVE __m256i dot4_half(__m256i sum, __m256i w, __m256i x) {
  __m256i pairs;
  if constexpr (wide) {
    const __m256i centred = _mm256_xor_si256(w, _mm256_set1_epi8(static_cast<char>(wide_bias)));
    pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(centred), _mm256_sign_epi8(x, centred));
  } else {
    pairs = _mm256_maddubs_epi16(w, x);
  }
  return add_in_order(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
template <bool wide>
LOWBIT_PRIMITIVE i32x16 dot4(i32x16 sum, u8x64 w, u8x64 x) {
  return {dot4_half<wide>(sum.low, w.low, x.low), dot4_half<wide>(sum.high, w.high, x.high)};
}

/// sum + 4 quads of codes up to max_small_code times x: widened to int32 once, not 4 times.
LOWBIT_PRIMITIVE i32x16 dot16(i32x16 sum, const std::uint8_t* codes, const std::int8_t* x) {
  __m256i low = _mm256_setzero_si256(), high = low;
#pragma GCC unroll 4
  for (int quad = 0; quad < small_quads; ++quad) {
    const u8x64 w = load(codes + quad * 64), four = broadcast4(x + quad * 4);
    const __m256i part_low = _mm256_maddubs_epi16(w.low, four.low);
    const __m256i part_high = _mm256_maddubs_epi16(w.high, four.high);
    low = quad == 0 ? part_low : _mm256_add_epi16(low, part_low);
    high = quad == 0 ? part_high : _mm256_add_epi16(high, part_high);
  }
  const __m256i once = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(sum.low, _mm256_madd_epi16(low, once)),
          _mm256_add_epi32(sum.high, _mm256_madd_epi16(high, once))};
}

LOWBIT_PRIMITIVE i32x16 dot2(i32x16 sum, i32x16 a, i32x16 b) {
  return {add_in_order(sum.low, _mm256_madd_epi16(a.low, b.low)),
          add_in_order(sum.high, _mm256_madd_epi16(a.high, b.high))};
}
