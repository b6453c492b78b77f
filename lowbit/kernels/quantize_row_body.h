// SPDX-License-Identifier: Apache-2.0
// One token's activations to int8, as reference.h defines it. Included inside an anonymous
// namespace by matmul_body.h, nowhere else.

/// reference.h defines every operation of this.
inline void quantize_row(const float* x, std::int64_t cols, std::int64_t group_k,
                         std::int8_t* codes, float* scales, std::int32_t* sums) {
  constexpr std::int64_t lanes = panel_cols;
  constexpr float max_code = 127, smallest = 0x1p-100f;
  constexpr std::int32_t magnitude = 0x7fffffff, infinity = 0x7f800000;
  const std::int64_t step = group_k == 0 ? cols : group_k;
  const std::int64_t padded_k = (cols + tile_k - 1) / tile_k * tile_k;
  for (std::int64_t first = 0; first < cols; first += step) {
    const std::int64_t last = least_of(first + step, cols);
    // Magnitudes are compared as integers: the same order, and a NaN is above everything.
    i32x16 most_bits = splat(0);
    for (std::int64_t k = first; k < last; k += lanes) {
      const f32x16 part = load_first(x + k, static_cast<int>(least_of(lanes, last - k)));
      most_bits = max(most_bits, bit_and(as_bits(part), splat(magnitude)));
    }
    const std::int32_t bits = max_lane(most_bits);
    float most;
    __builtin_memcpy(&most, &bits, sizeof most);
    const bool is_finite = bits < infinity, is_zero = is_finite && most < smallest;
    *scales++ = !is_finite ? __builtin_nanf("") : is_zero ? 0.0f : most / max_code;
    const f32x16 inverse = splat(is_finite && !is_zero ? max_code / most : 0.0f);
    for (std::int64_t k = first; k < last; k += lanes) {
      i32x16 code = splat(0);
      if (is_finite && !is_zero) {
        const f32x16 part = load_first(x + k, static_cast<int>(least_of(lanes, last - k)));
        const f32x16 scaled = mul(part, inverse);
        code = to_i32(max(min(scaled, splat(max_code)), splat(-max_code)));
      }
      store_i8(codes + k, code);
      sums[k / lanes] = sum(code);
    }
  }
  for (std::int64_t k = (cols + lanes - 1) / lanes * lanes; k < padded_k; k += lanes) {
    store_i8(codes + k, splat(0));
    sums[k / lanes] = 0;
  }
}
