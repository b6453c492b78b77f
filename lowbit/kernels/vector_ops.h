// SPDX-License-Identifier: Apache-2.0
// Operations on rows of f32 outside matrix products. Every instruction set gives the same bits, so
// the order of each operation is part of its definition (docs/design.md, idea C):
// - a reduction has 16 partial lanes that start at its neutral number; number i goes to lane i % 16
//   in index order; then lane j takes lane j + 8, j + 4, j + 2, j + 1 (the tree);
// - max(a, b) is a > b ? a : b, so a NaN in a is passed over;
// - exp is math::exp, sqrt and division are the rounded ones, fma only where it is named.
// vector_ops_reference.cc holds the scalar reference, vector_ops_body.h the body for SIMD.
#pragma once

#include <cstdint>

#include "lowbit/formats/basis.h"

namespace lowbit {

inline constexpr int reduction_lanes = 16;

/// All arrays hold n numbers unless said otherwise, any alignment; out may be an input.
struct VectorKernels {
  /// s = lanes of fma(x, x, lane); r = 1 / sqrt(s / n + epsilon); out = (x * r) * weight.
  void (*rms_norm)(const float* x, const float* weight, float epsilon, std::int64_t n, float* out);

  /// out = x + y: residuals and biases.
  void (*add)(const float* x, const float* y, std::int64_t n, float* out);

  /// out = x * factor.
  void (*scale)(const float* x, float factor, std::int64_t n, float* out);

  /// out = (gate / (1 + exp(-gate))) * up.
  void (*silu_mul)(const float* gate, const float* up, std::int64_t n, float* out);

  /// Rotates one head in place, halves layout: x (2 n_pairs), cos and sin (n_pairs) of its
  /// position. a = x[i], b = x[i + n_pairs]: x[i] = fma(-b, sin, a * cos), x[i + n_pairs] = fma(a,
  /// sin, b * cos). A partial rotation passes fewer pairs than half the head; the rest stays.
  void (*rope_rotate)(float* x, const float* cos, const float* sin, std::int64_t n_pairs);

  /// Lanes start at -infinity.
  float (*max)(const float* x, std::int64_t n);

  /// m = max(x); p = exp(x - m); l = lanes of lane + p; out = p / l.
  void (*softmax)(const float* x, std::int64_t n, float* out);

  /// p = exp((max(x, -infinity) - top) / divisor), so that a NaN weighs nothing; out = p; gives the
  /// sum: lanes of lane + p. No x is above top, which is finite; divisor > 0.
  float (*weigh)(const float* x, float top, float divisor, std::int64_t n, float* out);

  /// out = every block of x times the orthonormal Hadamard matrix: the additions of
  /// formats/basis.h in their order. n: whole blocks; block: a power of two. out may be x.
  void (*hadamard)(const float* x, std::int64_t block, std::int64_t n, float* out);

  /// binary16 bits, ties to even.
  void (*to_half)(const float* x, std::int64_t n, std::uint16_t* out);
};

/// Plain loops in the order of the definitions, for tests.
extern const VectorKernels reference_vector_kernels;

}  // namespace lowbit
