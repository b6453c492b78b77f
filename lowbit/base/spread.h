// SPDX-License-Identifier: Apache-2.0
// Eight neighbouring fields of a word become its eight bytes, in three steps instead of eight.
#pragma once

#include <cstdint>

namespace lowbit {

/// 8 * kWidth bits -> eight bytes of kWidth bits each, lowest first.
template <int kWidth>
constexpr std::uint64_t spread(std::uint64_t x) {
  constexpr auto low = [](int n_bits) { return (std::uint64_t{1} << n_bits) - 1; };
  x = (x & low(4 * kWidth)) | (x >> 4 * kWidth & low(4 * kWidth)) << 32;
  constexpr std::uint64_t pair = low(2 * kWidth) | low(2 * kWidth) << 32;
  x = (x & pair) | (x >> 2 * kWidth & pair) << 16;
  constexpr std::uint64_t one = low(kWidth) * 0x0001000100010001;
  return (x & one) | (x >> kWidth & one) << 8;
}

}  // namespace lowbit
