// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers, Philox 4x32 with 10 rounds (Salmon, Moraes, Dror, Shaw, "Parallel
// random numbers: as easy as 1, 2, 3", 2011): a pure function of key and counter, so a draw depends
// on nothing that happened before it.
#pragma once

#include <array>
#include <cstdint>

namespace lowbit {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

constexpr PhiloxCounter philox(PhiloxCounter counter, PhiloxKey key) {
  constexpr std::uint64_t multiplier_0 = 0xd2511f53, multiplier_1 = 0xcd9e8d57;
  constexpr std::uint32_t golden_ratio = 0x9e3779b9, sqrt3_minus_1 = 0xbb67ae85;
  constexpr int n_rounds = 10;
  for (int round = 0; round < n_rounds; ++round) {
    const std::uint64_t product_0 = multiplier_0 * counter[0];
    const std::uint64_t product_1 = multiplier_1 * counter[2];
    counter = {static_cast<std::uint32_t>(product_1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product_1),
               static_cast<std::uint32_t>(product_0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product_0)};
    key = {key[0] + golden_ratio, key[1] + sqrt3_minus_1};
  }
  return counter;
}

/// Uniform in [0, 1), a multiple of 2^-53.
constexpr double uniform_draw(std::uint64_t seed, std::uint64_t position) {
  const auto low = [](std::uint64_t word) { return static_cast<std::uint32_t>(word); };
  const auto high = [](std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); };
  const PhiloxCounter bits = philox({low(position), high(position), 0, 0}, {low(seed), high(seed)});
  const std::uint64_t word = std::uint64_t{bits[1]} << 32 | bits[0];
  constexpr int n_dropped = 64 - 53;
  return static_cast<double>(word >> n_dropped) * 0x1p-53;
}

}  // namespace lowbit
