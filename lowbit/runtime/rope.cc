// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/rope.h"

#include "lowbit/base/math.h"

namespace lowbit {

std::vector<double> rope_frequencies(const ModelConfig& config) {
  const auto n_pairs = static_cast<std::size_t>(config.head_dim / 2);
  std::vector<double> frequencies(n_pairs);
  for (std::size_t j = 0; j < n_pairs; ++j) {
    const double exponent = -static_cast<double>(j) / static_cast<double>(n_pairs);
    double divisor = static_cast<double>(config.rope_linear_factor);
    if (!config.rope_divisors.empty()) divisor *= static_cast<double>(config.rope_divisors[j]);
    frequencies[j] = math::pow(static_cast<double>(config.rope_base), exponent) / divisor;
  }
  return frequencies;
}

void rope_angles(std::span<const double> frequencies, std::span<const std::int64_t> positions,
                 std::span<float> cos, std::span<float> sin) {
  std::size_t next = 0;
  for (const std::int64_t position : positions) {
    for (const double frequency : frequencies) {
      const double angle = static_cast<double>(position) * frequency;
      cos[next] = static_cast<float>(math::cos(angle));
      sin[next] = static_cast<float>(math::sin(angle));
      ++next;
    }
  }
}

}  // namespace lowbit
