// SPDX-License-Identifier: Apache-2.0
// The primitives on 512-bit registers (AVX-512 F, BW, DQ, VL): 16 lanes are one zmm. Included
// inside the target region and the anonymous namespace of the instruction sets of that width,
// nowhere else; primitives_scalar.h says what each one means. What they differ in, the product of
// bytes and the register tile, stands in dot_<isa>.h.
//
// The vectors are typed (int, float, unsigned char), not __m512i: g++ 12 spills the accumulators of
// _mm512_dpbusd_epi32 around every product (47 % of peak instead of 95 %).

typedef float f32x16 __attribute__((vector_size(64)));
typedef int i32x16 __attribute__((vector_size(64)));
typedef unsigned u32x16 __attribute__((vector_size(64)));  // int32 arithmetic wraps
typedef unsigned char u8x64 __attribute__((vector_size(64)));
struct Mask16 {
  __mmask16 bits;
};

constexpr int attention_rows = 6, attention_vectors = 4;
/// A gather costs more than the arithmetic of small floats.
constexpr bool has_minifloats = true;
/// lookup16 of floats is one shuffle.
constexpr bool has_fast_lookup16 = true;

LOWBIT_PRIMITIVE f32x16 splat(float a) {
  return (f32x16)_mm512_set1_ps(a);
}
LOWBIT_PRIMITIVE i32x16 splat(int a) {
  return (i32x16)_mm512_set1_epi32(a);
}
LOWBIT_PRIMITIVE u8x64 splat_u8(unsigned char a) {
  return (u8x64)_mm512_set1_epi8(static_cast<char>(a));
}

LOWBIT_PRIMITIVE f32x16 load(const float* p) {
  return (f32x16)_mm512_loadu_ps(p);
}
LOWBIT_PRIMITIVE i32x16 load(const std::int32_t* p) {
  return (i32x16)_mm512_loadu_si512(p);
}
LOWBIT_PRIMITIVE u8x64 load(const std::uint8_t* p) {
  return (u8x64)_mm512_loadu_si512(p);
}
LOWBIT_PRIMITIVE void store(float* p, f32x16 a) {
  _mm512_storeu_ps(p, (__m512)a);
}
LOWBIT_PRIMITIVE void store(std::int32_t* p, i32x16 a) {
  _mm512_storeu_si512(p, (__m512i)a);
}
LOWBIT_PRIMITIVE void store(std::uint8_t* p, u8x64 a) {
  _mm512_storeu_si512(p, (__m512i)a);
}
LOWBIT_PRIMITIVE __mmask16 first_lanes(int n_lanes) {
  return static_cast<__mmask16>((1u << n_lanes) - 1u);
}
LOWBIT_PRIMITIVE f32x16 load_first(const float* p, int n_lanes) {
  return (f32x16)_mm512_maskz_loadu_ps(first_lanes(n_lanes), p);
}
LOWBIT_PRIMITIVE void store_first(float* p, f32x16 a, int n_lanes) {
  _mm512_mask_storeu_ps(p, first_lanes(n_lanes), (__m512)a);
}

LOWBIT_PRIMITIVE f32x16 add(f32x16 a, f32x16 b) {
  return a + b;
}
LOWBIT_PRIMITIVE f32x16 sub(f32x16 a, f32x16 b) {
  return a - b;
}
LOWBIT_PRIMITIVE f32x16 mul(f32x16 a, f32x16 b) {
  return a * b;
}
LOWBIT_PRIMITIVE f32x16 div(f32x16 a, f32x16 b) {
  return a / b;
}
LOWBIT_PRIMITIVE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
LOWBIT_PRIMITIVE f32x16 max(f32x16 a, f32x16 b) {
  return (f32x16)_mm512_max_ps((__m512)a, (__m512)b);
}
LOWBIT_PRIMITIVE f32x16 min(f32x16 a, f32x16 b) {
  return (f32x16)_mm512_min_ps((__m512)a, (__m512)b);
}
LOWBIT_PRIMITIVE f32x16 sqrt(f32x16 a) {
  return (f32x16)_mm512_sqrt_ps((__m512)a);
}

LOWBIT_PRIMITIVE i32x16 add(i32x16 a, i32x16 b) {
  return (i32x16)((u32x16)a + (u32x16)b);
}
LOWBIT_PRIMITIVE i32x16 sub(i32x16 a, i32x16 b) {
  return (i32x16)((u32x16)a - (u32x16)b);
}
LOWBIT_PRIMITIVE i32x16 mul(i32x16 a, i32x16 b) {
  return (i32x16)((u32x16)a * (u32x16)b);
}
LOWBIT_PRIMITIVE i32x16 bit_and(i32x16 a, i32x16 b) {
  return a & b;
}
LOWBIT_PRIMITIVE i32x16 bit_or(i32x16 a, i32x16 b) {
  return a | b;
}
LOWBIT_PRIMITIVE i32x16 max(i32x16 a, i32x16 b) {
  return (i32x16)_mm512_max_epi32((__m512i)a, (__m512i)b);
}
template <int count>
LOWBIT_PRIMITIVE i32x16 shift_left(i32x16 a) {
  return (i32x16)_mm512_slli_epi32((__m512i)a, count);
}
template <int count>
LOWBIT_PRIMITIVE i32x16 shift_right(i32x16 a) {
  return (i32x16)_mm512_srli_epi32((__m512i)a, count);
}
LOWBIT_PRIMITIVE i32x16 shift_left_by(i32x16 a, int count) {
  return (i32x16)_mm512_sll_epi32((__m512i)a, _mm_cvtsi32_si128(count));
}
LOWBIT_PRIMITIVE i32x16 broadcast2(const std::int16_t* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return splat(pair);
}
LOWBIT_PRIMITIVE i32x16 mul_i16(i32x16 a, i32x16 b) {
  const __m512i low = _mm512_set1_epi32(0xffff);
  return (i32x16)_mm512_madd_epi16(_mm512_and_si512((__m512i)a, low), (__m512i)b);
}

LOWBIT_PRIMITIVE f32x16 to_f32(i32x16 a) {
  return (f32x16)_mm512_cvtepi32_ps((__m512i)a);
}
LOWBIT_PRIMITIVE i32x16 to_i32(f32x16 a) {
  return (i32x16)_mm512_cvtps_epi32((__m512)a);
}
LOWBIT_PRIMITIVE i32x16 as_bits(f32x16 a) {
  return (i32x16)a;
}
LOWBIT_PRIMITIVE f32x16 as_floats(i32x16 a) {
  return (f32x16)a;
}

LOWBIT_PRIMITIVE Mask16 less(f32x16 a, f32x16 b) {
  return {_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ)};
}
LOWBIT_PRIMITIVE Mask16 less(i32x16 a, i32x16 b) {
  return {_mm512_cmplt_epi32_mask((__m512i)a, (__m512i)b)};
}
LOWBIT_PRIMITIVE f32x16 select(Mask16 mask, f32x16 a, f32x16 b) {
  return (f32x16)_mm512_mask_blend_ps(mask.bits, (__m512)b, (__m512)a);
}

LOWBIT_PRIMITIVE f32x16 load_f16(const std::uint16_t* p) {
  return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
LOWBIT_PRIMITIVE void store_f16(std::uint16_t* p, f32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT));
}
LOWBIT_PRIMITIVE f32x16 load_bf16(const std::uint16_t* p) {
  const __m512i wide =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return (f32x16)_mm512_slli_epi32(wide, 16);
}
LOWBIT_PRIMITIVE i32x16 load_i8(const std::int8_t* p) {
  return (i32x16)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
LOWBIT_PRIMITIVE i32x16 load_u8(const std::uint8_t* p) {
  return (i32x16)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
LOWBIT_PRIMITIVE void store_i8(std::int8_t* p, i32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)a));
}
LOWBIT_PRIMITIVE void store_u8(std::uint8_t* p, i32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)a));
}

LOWBIT_PRIMITIVE u8x64 bit_and(u8x64 a, u8x64 b) {
  return a & b;
}
LOWBIT_PRIMITIVE u8x64 bit_or(u8x64 a, u8x64 b) {
  return a | b;
}
template <int count>
LOWBIT_PRIMITIVE u8x64 shift_left16(u8x64 a) {
  return (u8x64)_mm512_slli_epi16((__m512i)a, count);
}
template <int count>
LOWBIT_PRIMITIVE u8x64 shift_right16(u8x64 a) {
  return (u8x64)_mm512_srli_epi16((__m512i)a, count);
}
LOWBIT_PRIMITIVE u8x64 load_lut16(const std::uint8_t* p) {
  return (u8x64)_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
LOWBIT_PRIMITIVE u8x64 lookup16(u8x64 lut, u8x64 index) {
  return (u8x64)_mm512_shuffle_epi8((__m512i)lut, (__m512i)index);
}
template <int bit>
LOWBIT_PRIMITIVE u8x64 select_bit(u8x64 index, u8x64 set, u8x64 clear) {
  const __mmask64 mask =
      _mm512_test_epi8_mask((__m512i)index, _mm512_set1_epi8(static_cast<char>(1 << bit)));
  return (u8x64)_mm512_mask_blend_epi8(mask, (__m512i)clear, (__m512i)set);
}
template <int byte>
LOWBIT_PRIMITIVE i32x16 byte_of(u8x64 a) {
  const __m512i moved = _mm512_srli_epi32((__m512i)a, 8 * byte);
  return (i32x16)(byte == 3 ? moved : _mm512_and_si512(moved, _mm512_set1_epi32(0xff)));
}

LOWBIT_PRIMITIVE u8x64 broadcast4(const std::int8_t* p) {
  int four;
  __builtin_memcpy(&four, p, sizeof four);
  return (u8x64)_mm512_set1_epi32(four);
}
LOWBIT_PRIMITIVE f32x16 gather(const float* table, i32x16 index) {
  return (f32x16)_mm512_i32gather_ps((__m512i)index, table, 4);
}
LOWBIT_PRIMITIVE f32x16 lookup16(f32x16 lut, i32x16 index) {
  return (f32x16)_mm512_permutexvar_ps((__m512i)index, (__m512)lut);
}
/// lut[bits shift..shift + 3 of every lane]; those of a next byte are undefined.
template <int shift>
LOWBIT_PRIMITIVE f32x16 lookup_at(f32x16 lut, u8x64 a) {
  return lookup16(lut, shift_right<shift>((i32x16)a));  // the shuffle looks at 4 bits
}
LOWBIT_PRIMITIVE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
LOWBIT_PRIMITIVE float sum(f32x16 a) {
  const __m256 eight =
      _mm256_add_ps(_mm512_castps512_ps256((__m512)a), _mm512_extractf32x8_ps((__m512)a, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
LOWBIT_PRIMITIVE float max_lane(f32x16 a) {
  const __m256 eight =
      _mm256_max_ps(_mm512_castps512_ps256((__m512)a), _mm512_extractf32x8_ps((__m512)a, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
LOWBIT_PRIMITIVE int max_lane(i32x16 a) {
  return _mm512_reduce_max_epi32((__m512i)a);
}
LOWBIT_PRIMITIVE int sum(i32x16 a) {
  return _mm512_reduce_add_epi32((__m512i)a);
}
