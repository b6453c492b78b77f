// SPDX-License-Identifier: Apache-2.0
// The primitives on NEON (Armv8.2): 16 lanes are four q registers. Included inside the target
// region and the anonymous namespace of the Arm instruction sets, nowhere else; primitives_scalar.h
// says what each one means. What they differ in, the product of bytes and the register tile, stands
// in dot_<isa>.h.

struct f32x16 {
  float32x4_t a, b, c, d;
};
struct i32x16 {
  int32x4_t a, b, c, d;
};
struct u8x64 {
  uint8x16_t a, b, c, d;
};
struct Mask16 {
  uint32x4_t a, b, c, d;
};

constexpr int attention_rows = 4, attention_vectors = 1;
/// A gather is a load and a move per lane: small floats are cheaper by arithmetic.
constexpr bool has_minifloats = true;
/// lookup16 of floats takes a table of bytes: arithmetic is shorter where it does.
constexpr bool has_fast_lookup16 = false;

/// The same quarter four times.
template <class Vector, class Quarter>
LOWBIT_PRIMITIVE Vector all_quarters(Quarter q) {
  return {q, q, q, q};
}

LOWBIT_PRIMITIVE f32x16 splat(float a) {
  return all_quarters<f32x16>(vdupq_n_f32(a));
}
LOWBIT_PRIMITIVE i32x16 splat(int a) {
  return all_quarters<i32x16>(vdupq_n_s32(a));
}
LOWBIT_PRIMITIVE u8x64 splat_u8(unsigned char a) {
  return all_quarters<u8x64>(vdupq_n_u8(a));
}

LOWBIT_PRIMITIVE f32x16 load(const float* p) {
  return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
LOWBIT_PRIMITIVE i32x16 load(const std::int32_t* p) {
  return {vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)};
}
LOWBIT_PRIMITIVE u8x64 load(const std::uint8_t* p) {
  return {vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)};
}
LOWBIT_PRIMITIVE void store(float* p, f32x16 x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
  vst1q_f32(p + 8, x.c);
  vst1q_f32(p + 12, x.d);
}
LOWBIT_PRIMITIVE void store(std::int32_t* p, i32x16 x) {
  vst1q_s32(p, x.a);
  vst1q_s32(p + 4, x.b);
  vst1q_s32(p + 8, x.c);
  vst1q_s32(p + 12, x.d);
}
LOWBIT_PRIMITIVE void store(std::uint8_t* p, u8x64 x) {
  vst1q_u8(p, x.a);
  vst1q_u8(p + 16, x.b);
  vst1q_u8(p + 32, x.c);
  vst1q_u8(p + 48, x.d);
}
LOWBIT_PRIMITIVE f32x16 load_first(const float* p, int n_lanes) {
  alignas(16) float lanes[16] = {};
  for (int i = 0; i < n_lanes; ++i) lanes[i] = p[i];
  return load(lanes);
}
LOWBIT_PRIMITIVE void store_first(float* p, f32x16 x, int n_lanes) {
  alignas(16) float lanes[16];
  store(lanes, x);
  for (int i = 0; i < n_lanes; ++i) p[i] = lanes[i];
}

LOWBIT_PRIMITIVE f32x16 add(f32x16 x, f32x16 y) {
  return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
}
LOWBIT_PRIMITIVE f32x16 sub(f32x16 x, f32x16 y) {
  return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
}
LOWBIT_PRIMITIVE f32x16 mul(f32x16 x, f32x16 y) {
  return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
}
LOWBIT_PRIMITIVE f32x16 div(f32x16 x, f32x16 y) {
  return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
}
LOWBIT_PRIMITIVE f32x16 fma(f32x16 x, f32x16 y, f32x16 z) {
  return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c),
          vfmaq_f32(z.d, x.d, y.d)};
}
/// Not fmax: that one returns a NaN where the definition takes the second argument.
LOWBIT_PRIMITIVE float32x4_t larger(float32x4_t x, float32x4_t y) {
  return vbslq_f32(vcgtq_f32(x, y), x, y);
}
LOWBIT_PRIMITIVE float32x4_t smaller(float32x4_t x, float32x4_t y) {
  return vbslq_f32(vcltq_f32(x, y), x, y);
}
LOWBIT_PRIMITIVE f32x16 max(f32x16 x, f32x16 y) {
  return {larger(x.a, y.a), larger(x.b, y.b), larger(x.c, y.c), larger(x.d, y.d)};
}
LOWBIT_PRIMITIVE f32x16 min(f32x16 x, f32x16 y) {
  return {smaller(x.a, y.a), smaller(x.b, y.b), smaller(x.c, y.c), smaller(x.d, y.d)};
}
LOWBIT_PRIMITIVE f32x16 sqrt(f32x16 x) {
  return {vsqrtq_f32(x.a), vsqrtq_f32(x.b), vsqrtq_f32(x.c), vsqrtq_f32(x.d)};
}

LOWBIT_PRIMITIVE i32x16 add(i32x16 x, i32x16 y) {
  return {vaddq_s32(x.a, y.a), vaddq_s32(x.b, y.b), vaddq_s32(x.c, y.c), vaddq_s32(x.d, y.d)};
}
LOWBIT_PRIMITIVE i32x16 sub(i32x16 x, i32x16 y) {
  return {vsubq_s32(x.a, y.a), vsubq_s32(x.b, y.b), vsubq_s32(x.c, y.c), vsubq_s32(x.d, y.d)};
}
LOWBIT_PRIMITIVE i32x16 mul(i32x16 x, i32x16 y) {
  return {vmulq_s32(x.a, y.a), vmulq_s32(x.b, y.b), vmulq_s32(x.c, y.c), vmulq_s32(x.d, y.d)};
}
LOWBIT_PRIMITIVE i32x16 bit_and(i32x16 x, i32x16 y) {
  return {vandq_s32(x.a, y.a), vandq_s32(x.b, y.b), vandq_s32(x.c, y.c), vandq_s32(x.d, y.d)};
}
LOWBIT_PRIMITIVE i32x16 bit_or(i32x16 x, i32x16 y) {
  return {vorrq_s32(x.a, y.a), vorrq_s32(x.b, y.b), vorrq_s32(x.c, y.c), vorrq_s32(x.d, y.d)};
}
LOWBIT_PRIMITIVE i32x16 max(i32x16 x, i32x16 y) {
  return {vmaxq_s32(x.a, y.a), vmaxq_s32(x.b, y.b), vmaxq_s32(x.c, y.c), vmaxq_s32(x.d, y.d)};
}
template <int count>
LOWBIT_PRIMITIVE i32x16 shift_left(i32x16 x) {
  return {vshlq_n_s32(x.a, count), vshlq_n_s32(x.b, count), vshlq_n_s32(x.c, count),
          vshlq_n_s32(x.d, count)};
}
template <int count>
LOWBIT_PRIMITIVE int32x4_t shift_right_quarter(int32x4_t x) {
  if constexpr (count == 0) return x;  // the instruction counts from 1
  if constexpr (count != 0) {
    return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x), count));
  }
}
template <int count>
LOWBIT_PRIMITIVE i32x16 shift_right(i32x16 x) {
  return {shift_right_quarter<count>(x.a), shift_right_quarter<count>(x.b),
          shift_right_quarter<count>(x.c), shift_right_quarter<count>(x.d)};
}
LOWBIT_PRIMITIVE i32x16 shift_left_by(i32x16 x, int count) {
  const int32x4_t bits = vdupq_n_s32(count);
  return {vshlq_s32(x.a, bits), vshlq_s32(x.b, bits), vshlq_s32(x.c, bits), vshlq_s32(x.d, bits)};
}
LOWBIT_PRIMITIVE i32x16 mul_i16(i32x16 x, i32x16 y) {
  return mul(x, y);
}

LOWBIT_PRIMITIVE f32x16 to_f32(i32x16 x) {
  return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)};
}
LOWBIT_PRIMITIVE i32x16 to_i32(f32x16 x) {
  return {vcvtnq_s32_f32(x.a), vcvtnq_s32_f32(x.b), vcvtnq_s32_f32(x.c), vcvtnq_s32_f32(x.d)};
}
LOWBIT_PRIMITIVE i32x16 as_bits(f32x16 x) {
  return {vreinterpretq_s32_f32(x.a), vreinterpretq_s32_f32(x.b), vreinterpretq_s32_f32(x.c),
          vreinterpretq_s32_f32(x.d)};
}
LOWBIT_PRIMITIVE f32x16 as_floats(i32x16 x) {
  return {vreinterpretq_f32_s32(x.a), vreinterpretq_f32_s32(x.b), vreinterpretq_f32_s32(x.c),
          vreinterpretq_f32_s32(x.d)};
}

LOWBIT_PRIMITIVE Mask16 less(f32x16 x, f32x16 y) {
  return {vcltq_f32(x.a, y.a), vcltq_f32(x.b, y.b), vcltq_f32(x.c, y.c), vcltq_f32(x.d, y.d)};
}
LOWBIT_PRIMITIVE Mask16 less(i32x16 x, i32x16 y) {
  return {vcltq_s32(x.a, y.a), vcltq_s32(x.b, y.b), vcltq_s32(x.c, y.c), vcltq_s32(x.d, y.d)};
}
LOWBIT_PRIMITIVE f32x16 select(Mask16 mask, f32x16 x, f32x16 y) {
  return {vbslq_f32(mask.a, x.a, y.a), vbslq_f32(mask.b, x.b, y.b), vbslq_f32(mask.c, x.c, y.c),
          vbslq_f32(mask.d, x.d, y.d)};
}

LOWBIT_PRIMITIVE float32x4_t load_half_quarter(const std::uint16_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
LOWBIT_PRIMITIVE f32x16 load_f16(const std::uint16_t* p) {
  return {load_half_quarter(p), load_half_quarter(p + 4), load_half_quarter(p + 8),
          load_half_quarter(p + 12)};
}
LOWBIT_PRIMITIVE void store_f16(std::uint16_t* p, f32x16 x) {
  vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x.a)));
  vst1_u16(p + 4, vreinterpret_u16_f16(vcvt_f16_f32(x.b)));
  vst1_u16(p + 8, vreinterpret_u16_f16(vcvt_f16_f32(x.c)));
  vst1_u16(p + 12, vreinterpret_u16_f16(vcvt_f16_f32(x.d)));
}
LOWBIT_PRIMITIVE float32x4_t load_bfloat_quarter(const std::uint16_t* p) {
  return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16));
}
LOWBIT_PRIMITIVE f32x16 load_bf16(const std::uint16_t* p) {
  return {load_bfloat_quarter(p), load_bfloat_quarter(p + 4), load_bfloat_quarter(p + 8),
          load_bfloat_quarter(p + 12)};
}
LOWBIT_PRIMITIVE i32x16 load_i8(const std::int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
  return {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)),
          vmovl_high_s16(high)};
}
LOWBIT_PRIMITIVE i32x16 load_u8(const std::uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
  const int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
  return {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)),
          vmovl_high_s16(high)};
}
LOWBIT_PRIMITIVE void store_i8(std::int8_t* p, i32x16 x) {
  const int16x8_t low = vmovn_high_s32(vmovn_s32(x.a), x.b);
  const int16x8_t high = vmovn_high_s32(vmovn_s32(x.c), x.d);
  vst1q_s8(p, vmovn_high_s16(vmovn_s16(low), high));
}
LOWBIT_PRIMITIVE void store_u8(std::uint8_t* p, i32x16 x) {
  store_i8(reinterpret_cast<std::int8_t*>(p), x);
}

LOWBIT_PRIMITIVE u8x64 bit_and(u8x64 x, u8x64 y) {
  return {vandq_u8(x.a, y.a), vandq_u8(x.b, y.b), vandq_u8(x.c, y.c), vandq_u8(x.d, y.d)};
}
LOWBIT_PRIMITIVE u8x64 bit_or(u8x64 x, u8x64 y) {
  return {vorrq_u8(x.a, y.a), vorrq_u8(x.b, y.b), vorrq_u8(x.c, y.c), vorrq_u8(x.d, y.d)};
}
template <int count>
LOWBIT_PRIMITIVE u8x64 shift_left16(u8x64 x) {
  return {vshlq_n_u8(x.a, count), vshlq_n_u8(x.b, count), vshlq_n_u8(x.c, count),
          vshlq_n_u8(x.d, count)};
}
template <int count>
LOWBIT_PRIMITIVE u8x64 shift_right16(u8x64 x) {
  return {vshrq_n_u8(x.a, count), vshrq_n_u8(x.b, count), vshrq_n_u8(x.c, count),
          vshrq_n_u8(x.d, count)};
}
LOWBIT_PRIMITIVE u8x64 load_lut16(const std::uint8_t* p) {
  return all_quarters<u8x64>(vld1q_u8(p));
}
/// tbl gives 0 for an index above 15.
LOWBIT_PRIMITIVE u8x64 lookup16(u8x64 lut, u8x64 index) {
  const u8x64 low = bit_and(index, splat_u8(15));
  return {vqtbl1q_u8(lut.a, low.a), vqtbl1q_u8(lut.a, low.b), vqtbl1q_u8(lut.a, low.c),
          vqtbl1q_u8(lut.a, low.d)};
}
template <int bit>
LOWBIT_PRIMITIVE uint8x16_t select_bit_quarter(uint8x16_t index, uint8x16_t set, uint8x16_t clear) {
  return vbslq_u8(vtstq_u8(index, vdupq_n_u8(1u << bit)), set, clear);
}
template <int bit>
LOWBIT_PRIMITIVE u8x64 select_bit(u8x64 index, u8x64 set, u8x64 clear) {
  return {select_bit_quarter<bit>(index.a, set.a, clear.a),
          select_bit_quarter<bit>(index.b, set.b, clear.b),
          select_bit_quarter<bit>(index.c, set.c, clear.c),
          select_bit_quarter<bit>(index.d, set.d, clear.d)};
}
template <int byte>
LOWBIT_PRIMITIVE i32x16 byte_of(u8x64 x) {
  const i32x16 words{vreinterpretq_s32_u8(x.a), vreinterpretq_s32_u8(x.b),
                     vreinterpretq_s32_u8(x.c), vreinterpretq_s32_u8(x.d)};
  if constexpr (byte == 3) return shift_right<24>(words);
  if constexpr (byte != 3) return bit_and(shift_right<8 * byte>(words), splat(0xff));
}

LOWBIT_PRIMITIVE u8x64 broadcast4(const std::int8_t* p) {
  std::uint32_t four;
  __builtin_memcpy(&four, p, sizeof four);
  return all_quarters<u8x64>(vreinterpretq_u8_u32(vdupq_n_u32(four)));
}

LOWBIT_PRIMITIVE i32x16 broadcast2(const std::int16_t* p) {
  std::int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return splat(pair);
}
LOWBIT_PRIMITIVE int32x4_t dot2_quarter(int32x4_t sum, int32x4_t x, int32x4_t y) {
  const int16x8_t pairs = vreinterpretq_s16_s32(x), factors = vreinterpretq_s16_s32(y);
  const int32x4_t first_two = vmull_s16(vget_low_s16(pairs), vget_low_s16(factors));
  return vaddq_s32(sum, vpaddq_s32(first_two, vmull_high_s16(pairs, factors)));
}
LOWBIT_PRIMITIVE i32x16 dot2(i32x16 sum, i32x16 x, i32x16 y) {
  return {dot2_quarter(sum.a, x.a, y.a), dot2_quarter(sum.b, x.b, y.b),
          dot2_quarter(sum.c, x.c, y.c), dot2_quarter(sum.d, x.d, y.d)};
}

LOWBIT_PRIMITIVE float32x4_t gather_quarter(const float* table, int32x4_t index) {
  float32x4_t r = vdupq_n_f32(table[vgetq_lane_s32(index, 0)]);
  r = vld1q_lane_f32(table + vgetq_lane_s32(index, 1), r, 1);
  r = vld1q_lane_f32(table + vgetq_lane_s32(index, 2), r, 2);
  return vld1q_lane_f32(table + vgetq_lane_s32(index, 3), r, 3);
}
LOWBIT_PRIMITIVE f32x16 gather(const float* table, i32x16 index) {
  return {gather_quarter(table, index.a), gather_quarter(table, index.b),
          gather_quarter(table, index.c), gather_quarter(table, index.d)};
}
/// The table is 64 bytes: the indices of a number's four bytes are 4 i, 4 i + 1, 4 i + 2, 4 i + 3.
LOWBIT_PRIMITIVE float32x4_t lookup_quarter(const uint8x16x4_t& bytes, int32x4_t index) {
  constexpr std::int32_t four_times = 0x04040404, first_four = 0x03020100;
  const int32x4_t at = vmlaq_n_s32(vdupq_n_s32(first_four), index, four_times);
  return vreinterpretq_f32_u8(vqtbl4q_u8(bytes, vreinterpretq_u8_s32(at)));
}
LOWBIT_PRIMITIVE f32x16 lookup16(f32x16 lut, i32x16 index) {
  const uint8x16x4_t bytes{vreinterpretq_u8_f32(lut.a), vreinterpretq_u8_f32(lut.b),
                           vreinterpretq_u8_f32(lut.c), vreinterpretq_u8_f32(lut.d)};
  return {lookup_quarter(bytes, index.a), lookup_quarter(bytes, index.b),
          lookup_quarter(bytes, index.c), lookup_quarter(bytes, index.d)};
}
/// lut[bits shift..shift + 3 of every lane]; those of a next byte are undefined.
template <int shift>
LOWBIT_PRIMITIVE f32x16 lookup_at(f32x16 lut, u8x64 a) {
  if constexpr (shift % 8 == 0) return lookup16(lut, byte_of<shift / 8>(bit_and(a, splat_u8(15))));
  if constexpr (shift % 8 != 0) {
    return lookup16(lut, byte_of<shift / 8>(bit_and(shift_right16<shift % 8>(a), splat_u8(15))));
  }
}
LOWBIT_PRIMITIVE void prefetch(const void* p) {
  __builtin_prefetch(p);
}
LOWBIT_PRIMITIVE float sum(f32x16 x) {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
LOWBIT_PRIMITIVE float max_lane(f32x16 x) {
  const float32x4_t four = larger(larger(x.a, x.c), larger(x.b, x.d));
  const float32x4_t two = larger(four, vextq_f32(four, four, 2));
  const float first = vgetq_lane_f32(two, 0), second = vgetq_lane_f32(two, 1);
  return first > second ? first : second;
}
LOWBIT_PRIMITIVE int max_lane(i32x16 x) {
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.a, x.c), vmaxq_s32(x.b, x.d)));
}
LOWBIT_PRIMITIVE int sum(i32x16 x) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.c), vaddq_s32(x.b, x.d)));
}
