// SPDX-License-Identifier: Apache-2.0
// Arithmetic on sizes that come from a file: overflow is an answer, not undefined behaviour.
#pragma once

#include <cstdint>
#include <optional>

namespace lowbit {

/// a * b for sizes; nothing when an operand is negative or the product overflows.
inline std::optional<std::int64_t> checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

/// a + b for sizes; nothing when an operand is negative or the sum overflows.
inline std::optional<std::int64_t> checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t sum = 0;
  if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

}  // namespace lowbit
