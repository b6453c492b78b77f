// SPDX-License-Identifier: Apache-2.0
// The primitives on 256-bit registers (AVX2, FMA, F16C): 16 lanes are two ymm. Included inside the
// target region and the anonymous namespace of the instruction sets of that width, nowhere else;
// primitives_scalar.h says what each one means. What they differ in, the product of bytes and the
// register tile, stands in dot_<isa>.h.

struct f32x16 {
  __m256 low, high;
};
struct i32x16 {
  __m256i low, high;
};
struct u8x64 {
  __m256i low, high;
};
struct Mask16 {
  __m256 low, high;
};

constexpr int attention_rows = 2, attention_vectors = 2;
/// A gather costs more than the arithmetic of small floats, even where that spills constants.
constexpr bool has_minifloats = true;
/// lookup16 of floats takes two shuffles and a blend: arithmetic is shorter where it does.
constexpr bool has_fast_lookup16 = false;

LOWBIT_PRIMITIVE f32x16 splat(float a) {
  return {_mm256_set1_ps(a), _mm256_set1_ps(a)};
}
LOWBIT_PRIMITIVE i32x16 splat(int a) {
  return {_mm256_set1_epi32(a), _mm256_set1_epi32(a)};
}
LOWBIT_PRIMITIVE u8x64 splat_u8(unsigned char a) {
  const __m256i bytes = _mm256_set1_epi8(static_cast<char>(a));
  return {bytes, bytes};
}

LOWBIT_PRIMITIVE const __m256i* lanes_at(const void* p) {
  return static_cast<const __m256i*>(p);
}
LOWBIT_PRIMITIVE __m256i* lanes_at(void* p) {
  return static_cast<__m256i*>(p);
}
LOWBIT_PRIMITIVE f32x16 load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
LOWBIT_PRIMITIVE i32x16 load(const std::int32_t* p) {
  return {_mm256_loadu_si256(lanes_at(p)), _mm256_loadu_si256(lanes_at(p) + 1)};
}
LOWBIT_PRIMITIVE u8x64 load(const std::uint8_t* p) {
  return {_mm256_loadu_si256(lanes_at(p)), _mm256_loadu_si256(lanes_at(p) + 1)};
}
LOWBIT_PRIMITIVE void store(float* p, f32x16 a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
LOWBIT_PRIMITIVE void store(std::int32_t* p, i32x16 a) {
  _mm256_storeu_si256(lanes_at(p), a.low);
  _mm256_storeu_si256(lanes_at(p) + 1, a.high);
}
LOWBIT_PRIMITIVE void store(std::uint8_t* p, u8x64 a) {
  _mm256_storeu_si256(lanes_at(p), a.low);
  _mm256_storeu_si256(lanes_at(p) + 1, a.high);
}
LOWBIT_PRIMITIVE f32x16 load_first(const float* p, int n_lanes) {
  alignas(32) float lanes[16] = {};
  for (int i = 0; i < n_lanes; ++i) lanes[i] = p[i];
  return load(lanes);
}
LOWBIT_PRIMITIVE void store_first(float* p, f32x16 a, int n_lanes) {
  alignas(32) float lanes[16];
  store(lanes, a);
  for (int i = 0; i < n_lanes; ++i) p[i] = lanes[i];
}

LOWBIT_PRIMITIVE f32x16 add(f32x16 a, f32x16 b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
LOWBIT_PRIMITIVE f32x16 sub(f32x16 a, f32x16 b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
LOWBIT_PRIMITIVE f32x16 mul(f32x16 a, f32x16 b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
LOWBIT_PRIMITIVE f32x16 div(f32x16 a, f32x16 b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
LOWBIT_PRIMITIVE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
LOWBIT_PRIMITIVE f32x16 max(f32x16 a, f32x16 b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
LOWBIT_PRIMITIVE f32x16 min(f32x16 a, f32x16 b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
LOWBIT_PRIMITIVE f32x16 sqrt(f32x16 a) {
  return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)};
}

LOWBIT_PRIMITIVE i32x16 add(i32x16 a, i32x16 b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
LOWBIT_PRIMITIVE i32x16 sub(i32x16 a, i32x16 b) {
  return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
LOWBIT_PRIMITIVE i32x16 mul(i32x16 a, i32x16 b) {
  return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)};
}
LOWBIT_PRIMITIVE i32x16 bit_and(i32x16 a, i32x16 b) {
  return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
}
LOWBIT_PRIMITIVE i32x16 bit_or(i32x16 a, i32x16 b) {
  return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
}
LOWBIT_PRIMITIVE i32x16 max(i32x16 a, i32x16 b) {
  return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)};
}
template <int count>
LOWBIT_PRIMITIVE i32x16 shift_left(i32x16 a) {
  return {_mm256_slli_epi32(a.low, count), _mm256_slli_epi32(a.high, count)};
}
template <int count>
LOWBIT_PRIMITIVE i32x16 shift_right(i32x16 a) {
  return {_mm256_srli_epi32(a.low, count), _mm256_srli_epi32(a.high, count)};
}
LOWBIT_PRIMITIVE i32x16 shift_left_by(i32x16 a, int count) {
  const __m128i bits = _mm_cvtsi32_si128(count);
  return {_mm256_sll_epi32(a.low, bits), _mm256_sll_epi32(a.high, bits)};
}
LOWBIT_PRIMITIVE i32x16 broadcast2(const std::int16_t* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return splat(pair);
}
LOWBIT_PRIMITIVE i32x16 mul_i16(i32x16 a, i32x16 b) {
  const __m256i low = _mm256_set1_epi32(0xffff);
  return {_mm256_madd_epi16(_mm256_and_si256(a.low, low), b.low),
          _mm256_madd_epi16(_mm256_and_si256(a.high, low), b.high)};
}

LOWBIT_PRIMITIVE f32x16 to_f32(i32x16 a) {
  return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)};
}
LOWBIT_PRIMITIVE i32x16 to_i32(f32x16 a) {
  return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)};
}
LOWBIT_PRIMITIVE i32x16 as_bits(f32x16 a) {
  return {_mm256_castps_si256(a.low), _mm256_castps_si256(a.high)};
}
LOWBIT_PRIMITIVE f32x16 as_floats(i32x16 a) {
  return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)};
}

LOWBIT_PRIMITIVE Mask16 less(f32x16 a, f32x16 b) {
  return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)};
}
LOWBIT_PRIMITIVE Mask16 less(i32x16 a, i32x16 b) {
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(b.low, a.low)),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(b.high, a.high))};
}
LOWBIT_PRIMITIVE f32x16 select(Mask16 mask, f32x16 a, f32x16 b) {
  return {_mm256_blendv_ps(b.low, a.low, mask.low), _mm256_blendv_ps(b.high, a.high, mask.high)};
}

LOWBIT_PRIMITIVE const __m128i* half_lanes_at(const void* p) {
  return static_cast<const __m128i*>(p);
}
LOWBIT_PRIMITIVE f32x16 load_f16(const std::uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(half_lanes_at(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(half_lanes_at(p) + 1))};
}
LOWBIT_PRIMITIVE void store_f16(std::uint16_t* p, f32x16 a) {
  __m128i* to = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(to, _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(to + 1, _mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT));
}
LOWBIT_PRIMITIVE f32x16 load_bf16(const std::uint16_t* p) {
  const __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128(half_lanes_at(p)));
  const __m256i high = _mm256_cvtepu16_epi32(_mm_loadu_si128(half_lanes_at(p) + 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
}
LOWBIT_PRIMITIVE i32x16 load_i8(const std::int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(half_lanes_at(p));
  return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
}
LOWBIT_PRIMITIVE i32x16 load_u8(const std::uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(half_lanes_at(p));
  return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}
LOWBIT_PRIMITIVE void store_i8(std::int8_t* p, i32x16 a) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.low, a.high), 0xd8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
LOWBIT_PRIMITIVE void store_u8(std::uint8_t* p, i32x16 a) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.low, a.high), 0xd8);
  const __m128i bytes =
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

LOWBIT_PRIMITIVE u8x64 bit_and(u8x64 a, u8x64 b) {
  return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
}
LOWBIT_PRIMITIVE u8x64 bit_or(u8x64 a, u8x64 b) {
  return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
}
template <int count>
LOWBIT_PRIMITIVE u8x64 shift_left16(u8x64 a) {
  return {_mm256_slli_epi16(a.low, count), _mm256_slli_epi16(a.high, count)};
}
template <int count>
LOWBIT_PRIMITIVE u8x64 shift_right16(u8x64 a) {
  return {_mm256_srli_epi16(a.low, count), _mm256_srli_epi16(a.high, count)};
}
LOWBIT_PRIMITIVE u8x64 load_lut16(const std::uint8_t* p) {
  const __m256i lut = _mm256_broadcastsi128_si256(_mm_loadu_si128(half_lanes_at(p)));
  return {lut, lut};
}
LOWBIT_PRIMITIVE u8x64 lookup16(u8x64 lut, u8x64 index) {
  return {_mm256_shuffle_epi8(lut.low, index.low), _mm256_shuffle_epi8(lut.low, index.high)};
}
template <int bit>
LOWBIT_PRIMITIVE u8x64 select_bit(u8x64 index, u8x64 set, u8x64 clear) {
  constexpr int top = 7;  // the blend looks at the top bit of every byte
  return {_mm256_blendv_epi8(clear.low, set.low, _mm256_slli_epi16(index.low, top - bit)),
          _mm256_blendv_epi8(clear.high, set.high, _mm256_slli_epi16(index.high, top - bit))};
}
template <int byte>
LOWBIT_PRIMITIVE i32x16 byte_of(u8x64 a) {
  const __m256i mask = _mm256_set1_epi32(0xff);
  return {_mm256_and_si256(_mm256_srli_epi32(a.low, 8 * byte), mask),
          _mm256_and_si256(_mm256_srli_epi32(a.high, 8 * byte), mask)};
}

LOWBIT_PRIMITIVE u8x64 broadcast4(const std::int8_t* p) {
  int four;
  __builtin_memcpy(&four, p, sizeof four);
  const __m256i bytes = _mm256_set1_epi32(four);
  return {bytes, bytes};
}
LOWBIT_PRIMITIVE f32x16 gather(const float* table, i32x16 index) {
  return {_mm256_i32gather_ps(table, index.low, 4), _mm256_i32gather_ps(table, index.high, 4)};
}
LOWBIT_PRIMITIVE __m256 lookup_half(f32x16 lut, __m256i index) {
  constexpr int bit_to_top = 28;  // bit 3 of the index chooses the half of the table
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(lut.low, index),
                          _mm256_permutevar8x32_ps(lut.high, index),
                          _mm256_castsi256_ps(_mm256_slli_epi32(index, bit_to_top)));
}
LOWBIT_PRIMITIVE f32x16 lookup16(f32x16 lut, i32x16 index) {
  return {lookup_half(lut, index.low), lookup_half(lut, index.high)};
}
/// lut[bits shift..shift + 3 of every lane]; those of a next byte are undefined.
template <int shift>
LOWBIT_PRIMITIVE f32x16 lookup_at(f32x16 lut, u8x64 a) {  // lookup_half looks at 4 bits
  return {lookup_half(lut, _mm256_srli_epi32(a.low, shift)),
          lookup_half(lut, _mm256_srli_epi32(a.high, shift))};
}
LOWBIT_PRIMITIVE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
LOWBIT_PRIMITIVE float sum(f32x16 a) {
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
LOWBIT_PRIMITIVE float max_lane(f32x16 a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
LOWBIT_PRIMITIVE int max_lane(i32x16 a) {
  const __m256i eight = _mm256_max_epi32(a.low, a.high);
  const __m128i four =
      _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
LOWBIT_PRIMITIVE int sum(i32x16 a) {
  const __m256i eight = _mm256_add_epi32(a.low, a.high);
  const __m128i four =
      _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
