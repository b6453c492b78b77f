// SPDX-License-Identifier: Apache-2.0
// The row operations of vector_ops.h on the primitives, lane for lane what their definitions say.
// A tail is loaded as a whole vector filled up with a number that changes nothing. Included inside
// the anonymous namespace of an instruction set's file.

constexpr int n_lanes = 16;

/// exp of math.h in every lane, the same operations on the same constants, but for numbers that are
/// not above C::highest.
LOWBIT_PRIMITIVE f32x16 exp_of_low(f32x16 x) {
  using C = math::ExpConstants;
  const f32x16 shifted = fma(x, splat(C::log2_e), splat(C::round_magic));
  const f32x16 n = sub(shifted, splat(C::round_magic));
  const f32x16 f = fma(n, splat(-C::ln2_low), fma(n, splat(-C::ln2_high), x));
  f32x16 p = fma(splat(C::c6), f, splat(C::c5));
  p = fma(p, f, splat(C::c4));
  p = fma(p, f, splat(C::c3));
  p = fma(p, f, splat(C::c2));
  p = fma(p, f, splat(1.0f));
  p = fma(p, f, splat(1.0f));
  const f32x16 scaled = as_floats(add(as_bits(p), shift_left<C::mantissa_bits>(as_bits(shifted))));
  return select(less(x, splat(C::lowest)), splat(0.0f), scaled);
}

LOWBIT_PRIMITIVE f32x16 exp(f32x16 x) {
  const f32x16 highest = splat(math::ExpConstants::highest);
  return select(less(highest, x), splat(__builtin_inff()), exp_of_low(x));
}

/// The first `count` lanes from memory, `fill` above.
LOWBIT_PRIMITIVE f32x16 load_filled(const float* p, std::int64_t count, float fill) {
  float lanes[n_lanes];
  for (int i = 0; i < n_lanes; ++i) lanes[i] = i < count ? p[i] : fill;
  return load(lanes);
}

/// Calls rule(i, count) for every vector of a row: count is 16, in the last one maybe less. The
/// constant lets the compiler drop the masks of whole vectors.
template <class Rule>
LOWBIT_PRIMITIVE void for_vectors(std::int64_t n, const Rule& rule) {
  std::int64_t i = 0;
  for (; i + n_lanes <= n; i += n_lanes) rule(i, n_lanes);
  if (i < n) rule(i, static_cast<int>(n - i));
}
LOWBIT_PRIMITIVE f32x16 load_some(const float* p, int count) {
  return count == n_lanes ? load(p) : load_first(p, count);
}
LOWBIT_PRIMITIVE void store_some(float* p, f32x16 a, int count) {
  if (count == n_lanes) {
    store(p, a);
  } else {
    store_first(p, a, count);
  }
}

void row_rms_norm(const float* x, const float* weight, float epsilon, std::int64_t n, float* out) {
  f32x16 squares = splat(0.0f);
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        const f32x16 a = load_some(x + i, count);
        squares = fma(a, a, squares);
      });
  const float mean = sum(squares) / static_cast<float>(n);
  const f32x16 r = div(splat(1.0f), sqrt(splat(mean + epsilon)));
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        const f32x16 a = mul(load_some(x + i, count), r);
        store_some(out + i, mul(a, load_some(weight + i, count)), count);
      });
}

void row_add(const float* x, const float* y, std::int64_t n, float* out) {
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        store_some(out + i, add(load_some(x + i, count), load_some(y + i, count)), count);
      });
}

void row_scale(const float* x, float factor, std::int64_t n, float* out) {
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        store_some(out + i, mul(load_some(x + i, count), splat(factor)), count);
      });
}

void row_silu_mul(const float* gate, const float* up, std::int64_t n, float* out) {
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        const f32x16 g = load_some(gate + i, count);
        const f32x16 minus_g = mul(g, splat(-1.0f));
        const f32x16 activated = div(g, add(splat(1.0f), exp(minus_g)));
        store_some(out + i, mul(activated, load_some(up + i, count)), count);
      });
}

void row_rope_rotate(float* x, const float* cos, const float* sin, std::int64_t n_pairs) {
  float* y = x + n_pairs;
  for_vectors(
      n_pairs, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        const f32x16 a = load_some(x + i, count), b = load_some(y + i, count);
        const f32x16 c = load_some(cos + i, count), s = load_some(sin + i, count);
        const f32x16 minus_b = mul(b, splat(-1.0f));
        store_some(x + i, fma(minus_b, s, mul(a, c)), count);
        store_some(y + i, fma(a, s, mul(b, c)), count);
      });
}

float row_max(const float* x, std::int64_t n) {
  constexpr float lowest = -__builtin_inff();
  f32x16 lanes = splat(lowest);
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        lanes = max(count == n_lanes ? load(x + i) : load_filled(x + i, count, lowest), lanes);
      });
  return max_lane(lanes);
}

void row_softmax(const float* x, std::int64_t n, float* out) {
  constexpr float lowest = -__builtin_inff();
  const f32x16 m = splat(row_max(x, n));
  f32x16 lanes = splat(0.0f);
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        const f32x16 a = count == n_lanes ? load(x + i) : load_filled(x + i, count, lowest);
        const f32x16 p = exp(sub(a, m));
        lanes = add(lanes, p);
        store_some(out + i, p, count);
      });
  const f32x16 l = splat(sum(lanes));
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        store_some(out + i, div(load_some(out + i, count), l), count);
      });
}

float row_weigh(const float* x, float top, float divisor, std::int64_t n, float* out) {
  constexpr float lowest = -__builtin_inff();
  const f32x16 m = splat(top), d = splat(divisor);
  f32x16 lanes = splat(0.0f);
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        const f32x16 a = count == n_lanes ? load(x + i) : load_filled(x + i, count, lowest);
        const f32x16 p = exp_of_low(div(sub(max(a, splat(lowest)), m), d));
        lanes = add(lanes, p);
        store_some(out + i, p, count);
      });
  return sum(lanes);
}

/// a[i] + a[i + h] in lane i, where i has the bit h clear, and a[i] - a[i + h] in lane i + h.
template <int h>
LOWBIT_PRIMITIVE f32x16 butterfly(f32x16 a, const std::int32_t* lanes) {
  std::int32_t partner[n_lanes];
  float sign[n_lanes];
  for (int i = 0; i < n_lanes; ++i) {
    partner[i] = lanes[i] ^ h;
    sign[i] = (i & h) == 0 ? 1.0f : -1.0f;
  }
  // The product with a sign is exact, so this rounds once like an addition.
  return fma(a, load(sign), lookup16(a, load(partner)));
}

/// The stages inside a vector, then those between vectors h apart.
void row_hadamard(const float* x, std::int64_t block, std::int64_t n, float* out) {
  constexpr std::int32_t lanes[n_lanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const f32x16 factor = splat(hadamard_factor(block));
  const bool is_inside = block <= n_lanes;
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        f32x16 a = load_some(x + i, count);
        if (block > 1) a = butterfly<1>(a, lanes);
        if (block > 2) a = butterfly<2>(a, lanes);
        if (block > 4) a = butterfly<4>(a, lanes);
        if (block > 8) a = butterfly<8>(a, lanes);
        store_some(out + i, is_inside ? mul(a, factor) : a, count);
      });
  for (std::int64_t h = n_lanes; h < block; h *= 2) {
    const f32x16 last_factor = 2 * h < block ? splat(1.0f) : factor;
    for (std::int64_t first = 0; first < n; first += 2 * h) {
      for (float* p = out + first; p < out + first + h; p += n_lanes) {
        const f32x16 a = load(p), b = load(p + h);
        store(p, mul(add(a, b), last_factor));
        store(p + h, mul(sub(a, b), last_factor));
      }
    }
  }
}

/// 16 halves to memory, of the last vector the first `count`.
LOWBIT_PRIMITIVE void store_f16_some(std::uint16_t* p, f32x16 a, int count) {
  if (count == n_lanes) return store_f16(p, a);
  std::uint16_t halves[n_lanes];
  store_f16(halves, a);
  for (int i = 0; i < count; ++i) p[i] = halves[i];
}

void row_to_half(const float* x, std::int64_t n, std::uint16_t* out) {
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        store_f16_some(out + i, load_some(x + i, count), count);
      });
}

constexpr VectorKernels vector_kernels{.rms_norm = row_rms_norm,
                                       .add = row_add,
                                       .scale = row_scale,
                                       .silu_mul = row_silu_mul,
                                       .rope_rotate = row_rope_rotate,
                                       .max = row_max,
                                       .softmax = row_softmax,
                                       .weigh = row_weigh,
                                       .hadamard = row_hadamard,
                                       .to_half = row_to_half};
