// SPDX-License-Identifier: Apache-2.0
// What the tests of this folder round, and how they judge it.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "lowbit/quant/rounder.h"

namespace lowbit {

inline constexpr std::uint32_t gaussian_seed = 20261121;

inline std::vector<float> gaussian(std::size_t n, float deviation = 1.0f,
                                   std::uint32_t seed = gaussian_seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(n);
  for (float& value : values) value = normal(engine);
  return values;
}

/// Sum of squares.
inline double power_of(std::span<const float> w) {
  double power = 0;
  for (const float value : w) power += static_cast<double>(value) * static_cast<double>(value);
  return power;
}

/// The squared error of a matrix in parts of its power.
inline double relative_error(std::span<const float> w, const QuantizedTensor& tensor) {
  return weighted_error(MatrixView(w.data(), tensor.rows, tensor.cols), {}, tensor) / power_of(w);
}

}  // namespace lowbit
