// SPDX-License-Identifier: Apache-2.0
// The nearest code of a number, fast: the same codes as nearest_code, prepared once per code.
// Evenly spaced tables (the integers) are a multiplication, a rounding and a clamp; the others
// count the thresholds below a number without a branch, starting from a table indexed by its sign,
// exponent and top mantissa bits (a binary search of 256 values mispredicts half of its 8
// branches).
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "lowbit/formats/code.h"

namespace lowbit {

class CodeSearch {
 public:
  /// code.dim == 1; the code must outlive the search.
  explicit CodeSearch(const Code& code);

  std::uint32_t nearest(float value) const {
    if (uniform_) return nearest_uniform(value);
    if (thresholds_.empty()) return nearest_code(*code_, value);  // plain floats: a formula
    if (value != value) return nan_code_;
    const std::uint32_t key = ordered(value);
    std::size_t i = first_[key >> key_shift];
    for (int step = 0; step < most_steps_; ++step) i += key >= thresholds_[i] ? 1u : 0u;
    return codes_[i];
  }
  float value(std::uint32_t code) const {
    float number = 0;
    code_->look_up(code, &number);
    return number;
  }

  /// out: (values.size())
  void nearest(std::span<const float> values, std::uint32_t* out) const;

 private:
  /// Floats in their order as unsigned integers: -infinity .. -0, +0 .. infinity.
  static constexpr std::uint32_t ordered(float value) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  }
  static constexpr float from_ordered(std::uint32_t key) {
    return std::bit_cast<float>((key >> 31) != 0 ? key & 0x7fffffffu : ~key);
  }

  /// Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits of the float.
  std::uint32_t nearest_uniform(float value) const {
    constexpr float magic = 0x1.8p23f;
    float k = value * inverse_step_;
    k = k == k ? k : 0.0f;
    k = k > low_ ? k : low_;
    k = k < high_ ? k : high_;
    return std::bit_cast<std::uint32_t>(k + magic) - zero_bits_;
  }

  static constexpr int key_shift = 20;  // 1 sign, 8 exponent and 3 mantissa bits index first_
  const Code* code_;
  bool uniform_ = false;
  float inverse_step_ = 0, low_ = 0, high_ = 0;  // in steps
  std::uint32_t zero_bits_ = 0;                  // bits of magic, less the code of the number 0
  std::uint32_t nan_code_ = 0;
  std::vector<std::uint32_t> codes_;  // in the order of their values
  std::vector<std::uint32_t>
      thresholds_;      // ordered() of the least number that rounds to codes_[i + 1]; a sentinel
  int most_steps_ = 0;  // thresholds inside one bucket: 1 for all codes of the list
  std::vector<std::uint8_t> first_;  // thresholds below a bucket of ordered numbers
};

}  // namespace lowbit
