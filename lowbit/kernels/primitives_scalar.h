// SPDX-License-Identifier: Apache-2.0
// The primitives in plain C++, for any CPU, and the place that says what each one means. A
// primitive works on 16 lanes (f32x16, i32x16) or 64 bytes (u8x64: 4 bytes per lane), whatever
// registers an instruction set has; the bodies (*_body.h) are written in nothing else, so they are
// the same arithmetic everywhere. Included inside the anonymous namespace of scalar.cc.

struct f32x16 {
  float lane[16];
};
struct i32x16 {
  std::int32_t lane[16];
};
struct u8x64 {
  std::uint8_t byte[64];
};
struct Mask16 {
  bool lane[16];
};

/// Tile of the products in tokens x panels of 16 columns; panels of a product with few tokens;
/// tokens of a tile of int32 sums alone, where no scale varies along the row.
constexpr int f32_tile_tokens = 1, tile_tokens = 1, tile_panels = 1, gemv_panels = 1,
              int8_gemv_panels = 0, row_tile_tokens = 1;
/// Whether up to 8 tokens are multiplied straight from the bit planes.
constexpr bool has_batch_gemv = false;
constexpr int max_small_code = 0, small_quads = 1;  // no sums of int16
/// Attention: tasks x vectors of keys (or of numbers of the head) in registers at a time.
constexpr int attention_rows = 1, attention_vectors = 1;
/// Codes that need 8 bits ("wide") are multiplied as byte - wide_bias.
constexpr int wide_bias = 0;
/// A table in memory is the cheaper way to small floats.
constexpr bool has_minifloats = false;
/// Whether a table of 16 floats beats arithmetic.
constexpr bool has_fast_lookup16 = false;

template <class Vector, class Rule>
LOWBIT_PRIMITIVE Vector each_lane(const Rule& rule) {
  Vector r;
  for (int i = 0; i < 16; ++i) r.lane[i] = rule(i);
  return r;
}
template <class Rule>
LOWBIT_PRIMITIVE u8x64 each_byte(const Rule& rule) {
  u8x64 r;
  for (int i = 0; i < 64; ++i) r.byte[i] = static_cast<std::uint8_t>(rule(i));
  return r;
}

/// Called, not inlined: the bodies repeat primitives hundreds of times, and 16 or 64 lanes of plain
/// C++ in each place would cost minutes of compilation.
#define LOWBIT_SCALAR_PRIMITIVE [[gnu::noinline]] inline

LOWBIT_SCALAR_PRIMITIVE f32x16 splat(float a) {
  return each_lane<f32x16>([&](int) { return a; });
}
LOWBIT_SCALAR_PRIMITIVE i32x16 splat(int a) {
  return each_lane<i32x16>([&](int) { return a; });
}
LOWBIT_SCALAR_PRIMITIVE u8x64 splat_u8(unsigned char a) {
  return each_byte([&](int) { return a; });
}

LOWBIT_SCALAR_PRIMITIVE f32x16 load(const float* p) {
  return each_lane<f32x16>([&](int i) { return p[i]; });
}
LOWBIT_SCALAR_PRIMITIVE i32x16 load(const std::int32_t* p) {
  return each_lane<i32x16>([&](int i) { return p[i]; });
}
LOWBIT_SCALAR_PRIMITIVE u8x64 load(const std::uint8_t* p) {
  return each_byte([&](int i) { return p[i]; });
}
LOWBIT_SCALAR_PRIMITIVE void store(float* p, const f32x16& a) {
  for (int i = 0; i < 16; ++i) p[i] = a.lane[i];
}
LOWBIT_SCALAR_PRIMITIVE void store(std::int32_t* p, const i32x16& a) {
  for (int i = 0; i < 16; ++i) p[i] = a.lane[i];
}
LOWBIT_SCALAR_PRIMITIVE void store(std::uint8_t* p, const u8x64& a) {
  for (int i = 0; i < 64; ++i) p[i] = a.byte[i];
}
/// The first n_lanes from memory, zeros above; nothing beyond them is read or written.
LOWBIT_SCALAR_PRIMITIVE f32x16 load_first(const float* p, int n_lanes) {
  return each_lane<f32x16>([&](int i) { return i < n_lanes ? p[i] : 0.0f; });
}
LOWBIT_SCALAR_PRIMITIVE void store_first(float* p, const f32x16& a, int n_lanes) {
  for (int i = 0; i < n_lanes; ++i) p[i] = a.lane[i];
}

LOWBIT_SCALAR_PRIMITIVE f32x16 add(const f32x16& a, const f32x16& b) {
  return each_lane<f32x16>([&](int i) { return a.lane[i] + b.lane[i]; });
}
LOWBIT_SCALAR_PRIMITIVE f32x16 sub(const f32x16& a, const f32x16& b) {
  return each_lane<f32x16>([&](int i) { return a.lane[i] - b.lane[i]; });
}
LOWBIT_SCALAR_PRIMITIVE f32x16 mul(const f32x16& a, const f32x16& b) {
  return each_lane<f32x16>([&](int i) { return a.lane[i] * b.lane[i]; });
}
LOWBIT_SCALAR_PRIMITIVE f32x16 div(const f32x16& a, const f32x16& b) {
  return each_lane<f32x16>([&](int i) { return a.lane[i] / b.lane[i]; });
}
/// a * b + c, rounded once.
LOWBIT_SCALAR_PRIMITIVE f32x16 fma(const f32x16& a, const f32x16& b, const f32x16& c) {
  return each_lane<f32x16>([&](int i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); });
}
/// a > b ? a : b, so b when either is NaN; min likewise.
LOWBIT_SCALAR_PRIMITIVE f32x16 max(const f32x16& a, const f32x16& b) {
  return each_lane<f32x16>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
LOWBIT_SCALAR_PRIMITIVE f32x16 min(const f32x16& a, const f32x16& b) {
  return each_lane<f32x16>([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
LOWBIT_SCALAR_PRIMITIVE f32x16 sqrt(const f32x16& a) {
  return each_lane<f32x16>([&](int i) { return __builtin_sqrtf(a.lane[i]); });
}

/// int32 arithmetic wraps.
LOWBIT_SCALAR_PRIMITIVE std::int32_t wrap(std::uint32_t a) {
  return static_cast<std::int32_t>(a);
}
LOWBIT_SCALAR_PRIMITIVE std::uint32_t word(std::int32_t a) {
  return static_cast<std::uint32_t>(a);
}
LOWBIT_SCALAR_PRIMITIVE i32x16 add(const i32x16& a, const i32x16& b) {
  return each_lane<i32x16>([&](int i) { return wrap(word(a.lane[i]) + word(b.lane[i])); });
}
LOWBIT_SCALAR_PRIMITIVE i32x16 sub(const i32x16& a, const i32x16& b) {
  return each_lane<i32x16>([&](int i) { return wrap(word(a.lane[i]) - word(b.lane[i])); });
}
LOWBIT_SCALAR_PRIMITIVE i32x16 mul(const i32x16& a, const i32x16& b) {
  return each_lane<i32x16>([&](int i) { return wrap(word(a.lane[i]) * word(b.lane[i])); });
}
LOWBIT_SCALAR_PRIMITIVE i32x16 bit_and(const i32x16& a, const i32x16& b) {
  return each_lane<i32x16>([&](int i) { return a.lane[i] & b.lane[i]; });
}
LOWBIT_SCALAR_PRIMITIVE i32x16 bit_or(const i32x16& a, const i32x16& b) {
  return each_lane<i32x16>([&](int i) { return a.lane[i] | b.lane[i]; });
}
LOWBIT_SCALAR_PRIMITIVE i32x16 max(const i32x16& a, const i32x16& b) {
  return each_lane<i32x16>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
/// Logical shifts of the 32-bit lanes.
template <int count>
LOWBIT_SCALAR_PRIMITIVE i32x16 shift_left(const i32x16& a) {
  return each_lane<i32x16>([&](int i) { return wrap(word(a.lane[i]) << count); });
}
template <int count>
LOWBIT_SCALAR_PRIMITIVE i32x16 shift_right(const i32x16& a) {
  return each_lane<i32x16>([&](int i) { return wrap(word(a.lane[i]) >> count); });
}
LOWBIT_SCALAR_PRIMITIVE i32x16 shift_left_by(const i32x16& a, int count) {
  return each_lane<i32x16>([&](int i) { return wrap(word(a.lane[i]) << count); });
}
/// a * b where both lie in -32768..32767: cheaper than mul on x86.
LOWBIT_SCALAR_PRIMITIVE i32x16 mul_i16(const i32x16& a, const i32x16& b) {
  return mul(a, b);
}
/// A lane as two int16: sum + the product of the low ones + the product of the high ones; exact.
LOWBIT_SCALAR_PRIMITIVE i32x16 dot2(const i32x16& sum, const i32x16& a, const i32x16& b) {
  constexpr int half = 16;
  const auto low = [](std::int32_t pair) { return std::int32_t{static_cast<std::int16_t>(pair)}; };
  return each_lane<i32x16>([&](int i) {
    const std::int32_t high = (a.lane[i] >> half) * (b.lane[i] >> half);
    return wrap(word(sum.lane[i]) + word(low(a.lane[i]) * low(b.lane[i])) + word(high));
  });
}
/// The same two int16 of memory in every lane.
LOWBIT_SCALAR_PRIMITIVE i32x16 broadcast2(const std::int16_t* p) {
  std::int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return splat(pair);
}

LOWBIT_SCALAR_PRIMITIVE f32x16 to_f32(const i32x16& a) {
  return each_lane<f32x16>([&](int i) { return static_cast<float>(a.lane[i]); });
}
/// Nearest integer, ties to even; |a| < 2^22 (clamp before).
LOWBIT_SCALAR_PRIMITIVE i32x16 to_i32(const f32x16& a) {
  constexpr float magic = 0x1.8p23f;  // adding it leaves the rounded integer in the mantissa
  return each_lane<i32x16>([&](int i) {
    return wrap(std::bit_cast<std::uint32_t>(a.lane[i] + magic) -
                std::bit_cast<std::uint32_t>(magic));
  });
}
LOWBIT_SCALAR_PRIMITIVE i32x16 as_bits(const f32x16& a) {
  return each_lane<i32x16>([&](int i) { return std::bit_cast<std::int32_t>(a.lane[i]); });
}
LOWBIT_SCALAR_PRIMITIVE f32x16 as_floats(const i32x16& a) {
  return each_lane<f32x16>([&](int i) { return std::bit_cast<float>(a.lane[i]); });
}

/// a < b; false when either is NaN. select takes a where the mask is set, else b.
LOWBIT_SCALAR_PRIMITIVE Mask16 less(const f32x16& a, const f32x16& b) {
  return each_lane<Mask16>([&](int i) { return a.lane[i] < b.lane[i]; });
}
LOWBIT_SCALAR_PRIMITIVE Mask16 less(const i32x16& a, const i32x16& b) {
  return each_lane<Mask16>([&](int i) { return a.lane[i] < b.lane[i]; });
}
LOWBIT_SCALAR_PRIMITIVE f32x16 select(const Mask16& mask, const f32x16& a, const f32x16& b) {
  return each_lane<f32x16>([&](int i) { return mask.lane[i] ? a.lane[i] : b.lane[i]; });
}

/// 16 halves or bfloats from memory, exact; store_f16 rounds to nearest even.
LOWBIT_SCALAR_PRIMITIVE f32x16 load_f16(const std::uint16_t* p) {
  return each_lane<f32x16>([&](int i) { return half_to_float(p[i]); });
}
LOWBIT_SCALAR_PRIMITIVE void store_f16(std::uint16_t* p, const f32x16& a) {
  for (int i = 0; i < 16; ++i) p[i] = float_to_half(a.lane[i]);
}
LOWBIT_SCALAR_PRIMITIVE f32x16 load_bf16(const std::uint16_t* p) {
  return each_lane<f32x16>([&](int i) { return bfloat_to_float(p[i]); });
}
/// 16 bytes from memory as integers; store_i8 writes values that lie in -128..127, store_u8 in
/// 0..255.
LOWBIT_SCALAR_PRIMITIVE i32x16 load_i8(const std::int8_t* p) {
  return each_lane<i32x16>([&](int i) { return std::int32_t{p[i]}; });
}
LOWBIT_SCALAR_PRIMITIVE i32x16 load_u8(const std::uint8_t* p) {
  return each_lane<i32x16>([&](int i) { return std::int32_t{p[i]}; });
}
LOWBIT_SCALAR_PRIMITIVE void store_i8(std::int8_t* p, const i32x16& a) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<std::int8_t>(a.lane[i]);
}
LOWBIT_SCALAR_PRIMITIVE void store_u8(std::uint8_t* p, const i32x16& a) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<std::uint8_t>(a.lane[i]);
}

LOWBIT_SCALAR_PRIMITIVE u8x64 bit_and(const u8x64& a, const u8x64& b) {
  return each_byte([&](int i) { return a.byte[i] & b.byte[i]; });
}
LOWBIT_SCALAR_PRIMITIVE u8x64 bit_or(const u8x64& a, const u8x64& b) {
  return each_byte([&](int i) { return a.byte[i] | b.byte[i]; });
}
/// Shifts that are masked afterwards: bits that cross from one byte to the next are undefined (the
/// wide sets shift 16-bit lanes).
template <int count>
LOWBIT_SCALAR_PRIMITIVE u8x64 shift_left16(const u8x64& a) {
  return each_byte([&](int i) { return a.byte[i] << count; });
}
template <int count>
LOWBIT_SCALAR_PRIMITIVE u8x64 shift_right16(const u8x64& a) {
  return each_byte([&](int i) { return a.byte[i] >> count; });
}
/// lut[index & 15] of a 16-byte table; index < 128.
LOWBIT_SCALAR_PRIMITIVE u8x64 load_lut16(const std::uint8_t* p) {
  return each_byte([&](int i) { return p[i % 16]; });
}
LOWBIT_SCALAR_PRIMITIVE u8x64 lookup16(const u8x64& lut, const u8x64& index) {
  return each_byte([&](int i) { return lut.byte[index.byte[i] % 16]; });
}
/// Per byte: `set` where bit number `bit` of index is 1, else `clear`.
template <int bit>
LOWBIT_SCALAR_PRIMITIVE u8x64 select_bit(const u8x64& index, const u8x64& set, const u8x64& clear) {
  return each_byte(
      [&](int i) { return (index.byte[i] >> bit & 1) != 0 ? set.byte[i] : clear.byte[i]; });
}
/// Byte number `byte` (0..3) of every lane, as an integer.
template <int byte>
LOWBIT_SCALAR_PRIMITIVE i32x16 byte_of(const u8x64& a) {
  return each_lane<i32x16>([&](int i) { return std::int32_t{a.byte[4 * i + byte]}; });
}

/// The same four bytes in every lane: four consecutive activations of one token.
LOWBIT_SCALAR_PRIMITIVE u8x64 broadcast4(const std::int8_t* p) {
  return each_byte([&](int i) { return p[i % 4]; });
}
/// Per lane: sum + the four products of w (unsigned) and x (signed, -127..127); exact. Not wide:
/// w <= 127. Wide: any w, and the products are of w - wide_bias.
template <bool wide>
LOWBIT_SCALAR_PRIMITIVE i32x16 dot4(const i32x16& sum, const u8x64& w, const u8x64& x) {
  return each_lane<i32x16>([&](int i) {
    std::int32_t s = sum.lane[i];
    for (int j = 4 * i; j < 4 * i + 4; ++j) s += w.byte[j] * static_cast<std::int8_t>(x.byte[j]);
    return s;
  });
}

LOWBIT_SCALAR_PRIMITIVE f32x16 gather(const float* table, const i32x16& index) {
  return each_lane<f32x16>([&](int i) { return table[index.lane[i]]; });
}
/// lut[index] of 16 numbers in a register, index 0..15.
LOWBIT_SCALAR_PRIMITIVE f32x16 lookup16(const f32x16& lut, const i32x16& index) {
  return each_lane<f32x16>([&](int i) { return lut.lane[index.lane[i]]; });
}
/// lut[bits shift..shift + 3 of every lane]; those of a next byte are undefined.
template <int shift>
LOWBIT_SCALAR_PRIMITIVE f32x16 lookup_at(const f32x16& lut, const u8x64& a) {
  if constexpr (shift % 8 == 0) return lookup16(lut, byte_of<shift / 8>(bit_and(a, splat_u8(15))));
  if constexpr (shift % 8 != 0) {
    return lookup16(lut, byte_of<shift / 8>(bit_and(shift_right16<shift % 8>(a), splat_u8(15))));
  }
}
LOWBIT_SCALAR_PRIMITIVE void prefetch(const void*) {}

/// The one tree of every horizontal sum: lanes i and i + 8, then i + 4, i + 2, i + 1.
LOWBIT_SCALAR_PRIMITIVE float sum(f32x16 a) {
  for (int half = 8; half >= 1; half /= 2) {
    for (int i = 0; i < half; ++i) a.lane[i] = a.lane[i] + a.lane[i + half];
  }
  return a.lane[0];
}
LOWBIT_SCALAR_PRIMITIVE float max_lane(f32x16 a) {
  for (int half = 8; half >= 1; half /= 2) {
    for (int i = 0; i < half; ++i) {
      a.lane[i] = a.lane[i] > a.lane[i + half] ? a.lane[i] : a.lane[i + half];
    }
  }
  return a.lane[0];
}
LOWBIT_SCALAR_PRIMITIVE int max_lane(const i32x16& a) {
  int most = a.lane[0];
  for (int i = 1; i < 16; ++i) most = a.lane[i] > most ? a.lane[i] : most;
  return most;
}
LOWBIT_SCALAR_PRIMITIVE int sum(const i32x16& a) {
  int total = 0;
  for (int i = 0; i < 16; ++i) total += a.lane[i];
  return total;
}
