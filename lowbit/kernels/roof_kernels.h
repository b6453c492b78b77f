// SPDX-License-Identifier: Apache-2.0
// What this machine can do at most, in the shape in which kernels use it: a register tile of int8
// products, one of f32 products, and a read of memory. Speeds are reported as shares of these.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

struct RoofKernels {
  /// Multiply-adds count as two operations. Returns the operations done in n_rounds rounds; `sink`
  /// (16 numbers) keeps the work from being optimised away.
  std::int64_t (*int8_products)(std::int64_t n_rounds, std::int32_t* sink) = nullptr;
  std::int64_t (*f32_products)(std::int64_t n_rounds, float* sink) = nullptr;
  /// Reads n_bytes (a multiple of roof_read_multiple) at a 64-byte aligned p in several streams at
  /// once.
  void (*read)(const std::byte* p, std::int64_t n_bytes,
               std::uint8_t* sink) = nullptr;  // sink: (64)
};

/// Streams of a read times bytes of a vector.
inline constexpr std::int64_t roof_read_multiple = 8 * 64;

}  // namespace lowbit
