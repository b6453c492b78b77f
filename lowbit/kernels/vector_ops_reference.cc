// SPDX-License-Identifier: Apache-2.0
// The scalar reference: the definitions of vector_ops.h read aloud, never optimised.
#include "lowbit/kernels/vector_ops.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "lowbit/base/half.h"
#include "lowbit/base/math.h"
#include "lowbit/formats/basis.h"

namespace lowbit {
namespace {

using Lanes = std::array<float, reduction_lanes>;

template <class Fold>
float fold_tree(Lanes lanes, Fold fold) {
  for (std::size_t width = reduction_lanes / 2; width > 0; width /= 2) {
    for (std::size_t j = 0; j < width; ++j) lanes[j] = fold(lanes[j], lanes[j + width]);
  }
  return lanes[0];
}

float sum_tree(const Lanes& lanes) {
  return fold_tree(lanes, [](float a, float b) { return a + b; });
}

constexpr float larger(float a, float b) {
  return a > b ? a : b;
}

std::size_t lane_of(std::int64_t i) {
  return static_cast<std::size_t>(i % reduction_lanes);
}

void rms_norm(const float* x, const float* weight, float epsilon, std::int64_t n, float* out) {
  Lanes lanes{};
  for (std::int64_t i = 0; i < n; ++i) lanes[lane_of(i)] = math::fma(x[i], x[i], lanes[lane_of(i)]);
  const float mean = sum_tree(lanes) / static_cast<float>(n);
  const float r = 1.0f / std::sqrt(mean + epsilon);
  for (std::int64_t i = 0; i < n; ++i) out[i] = (x[i] * r) * weight[i];
}

void add(const float* x, const float* y, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] + y[i];
}

void scale(const float* x, float factor, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] * factor;
}

void silu_mul(const float* gate, const float* up, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = (gate[i] / (1.0f + math::exp(-gate[i]))) * up[i];
  }
}

void rope_rotate(float* x, const float* cos, const float* sin, std::int64_t n_pairs) {
  for (std::int64_t i = 0; i < n_pairs; ++i) {
    const float a = x[i], b = x[i + n_pairs];
    x[i] = math::fma(-b, sin[i], a * cos[i]);
    x[i + n_pairs] = math::fma(a, sin[i], b * cos[i]);
  }
}

float max(const float* x, std::int64_t n) {
  Lanes lanes;
  lanes.fill(-std::numeric_limits<float>::infinity());
  for (std::int64_t i = 0; i < n; ++i) lanes[lane_of(i)] = larger(x[i], lanes[lane_of(i)]);
  return fold_tree(lanes, larger);
}

void softmax(const float* x, std::int64_t n, float* out) {
  const float m = max(x, n);
  Lanes lanes{};
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = math::exp(x[i] - m);
    lanes[lane_of(i)] += out[i];
  }
  const float l = sum_tree(lanes);
  for (std::int64_t i = 0; i < n; ++i) out[i] = out[i] / l;
}

float weigh(const float* x, float top, float divisor, std::int64_t n, float* out) {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  Lanes lanes{};
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = math::exp((larger(x[i], lowest) - top) / divisor);
    lanes[lane_of(i)] += out[i];
  }
  return sum_tree(lanes);
}

void hadamard(const float* x, std::int64_t block, std::int64_t n, float* out) {
  std::copy_n(x, n, out);
  apply_hadamard(block, {out, static_cast<std::size_t>(n)});
}

void to_half(const float* x, std::int64_t n, std::uint16_t* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = float_to_half(x[i]);
}

}  // namespace

const VectorKernels reference_vector_kernels{rms_norm, add,     scale, silu_mul, rope_rotate,
                                             max,      softmax, weigh, hadamard, to_half};

}  // namespace lowbit
