// SPDX-License-Identifier: Apache-2.0
// The additions of a fast Walsh-Hadamard transform, for numbers of any kind.
#pragma once

#include <cstddef>
#include <span>

namespace lowbit {

/// In THE order of basis.h, without the factor: for h = 1, 2, 4 .. block / 2, a = x[i] and b =
/// x[i + h], where i has the bit h clear, become a + b and a - b. x: whole blocks.
template <typename Number>
void add_and_subtract(std::size_t block, std::span<Number> x) {
  for (std::size_t h = 1; h < block; h *= 2) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      if ((i % block & h) != 0) continue;
      const Number a = x[i], b = x[i + h];
      x[i] = a + b;
      x[i + h] = a - b;
    }
  }
}

}  // namespace lowbit
