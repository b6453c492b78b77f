// SPDX-License-Identifier: Apache-2.0
// Products with f32 activations on pairs of bfloats (vdpbf16ps): half the instructions, not the
// reference's bits. Slower than fma where one costs four times an fma (docs/performance.md), which
// is one more reason to run it only when it is asked for. Numbers and activations are rounded to 8
// significant bits, denormals are zero; products are exact and sums f32, in k order, two to an
// instruction, so that an output still does not depend on tiles, batch or threads. With u = 2^-8
// and e = 2^-24, of
//   S = sum |x| (|scale value| + |zero|) over the row, K inputs, F = 2^-126 (flushed),
//   |y - truth| <= S (2 u + u^2) + S (1 + u)^2 (2 K + 8) e + K F max|scale| (1 + max|x| +
//   max|value|)
// (inputs rounded; every sum rounded; what is flushed on the way). matmul_test.cc holds it to this.
// Included after matmul_body.h, inside an anonymous namespace.

struct Bf16Chain {
  /// Rows k and k + 1 become one row of 16 pairs.
  static void prepare_values(float* values, std::int64_t n_k) {
    for (std::int64_t k = 0; k < n_k; k += 2) {
      const __m256i even = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(values + k * panel_cols));
      const __m256i odd =
          (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(values + (k + 1) * panel_cols));
      const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16);
      const __m512i pairs = _mm512_or_si512(high, _mm512_cvtepu16_epi32(even));
      _mm512_storeu_si512(values + k / 2 * panel_cols, pairs);
    }
  }
  /// Consecutive activations are pairs already; zeros fill the last one up.
  static void prepare_tokens(F32Tile& t, std::int64_t n_tokens, Scratch scratch) {
    constexpr std::int64_t lanes = 16;
    const std::int64_t n_bfloats = (t.n_k + 2 * lanes - 1) / (2 * lanes) * 2 * lanes;
    float* pairs = scratch.take<float>(n_tokens * n_bfloats / 2);
    for (std::int64_t i = 0; i < n_tokens; ++i) {
      const float* x = t.x + i * t.x_stride;
      for (std::int64_t k = 0; k < n_bfloats; k += lanes) {
        const auto n_left = static_cast<int>(least_of(lanes, t.n_k > k ? t.n_k - k : 0));
        const __m256i bfloats = (__m256i)_mm512_cvtneps_pbh((__m512)load_first(x + k, n_left));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs + (i * n_bfloats + k) / 2), bfloats);
      }
    }
    t.x = pairs;
    t.x_stride = n_bfloats / 2;
  }

  template <int n_tokens, int n_panels>
  LOWBIT_PRIMITIVE static void run(const F32Tile& t, std::int64_t first, std::int64_t last,
                                   f32x16 (&acc)[n_tokens][n_panels]) {
    for (std::int64_t pair = first / 2; pair < (last + 1) / 2; ++pair) {
      f32x16 v[n_panels];
#pragma GCC unroll 4
      for (int p = 0; p < n_panels; ++p) {
        v[p] = load(t.values + p * t.values_stride + pair * panel_cols);
      }
#pragma GCC unroll 8
      for (int i = 0; i < n_tokens; ++i) {
        const f32x16 x = splat(t.x[i * t.x_stride + pair]);
#pragma GCC unroll 4
        for (int p = 0; p < n_panels; ++p) {
          acc[i][p] = (f32x16)_mm512_dpbf16_ps((__m512)acc[i][p], (__m512bh)x, (__m512bh)v[p]);
        }
      }
    }
  }
};
