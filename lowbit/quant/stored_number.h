// SPDX-License-Identifier: Apache-2.0
// What a scale or a zero may be: stored precision is respected by trying only numbers that its
// code has.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "lowbit/formats/code_search.h"

namespace lowbit {

/// The numbers of a code of scales or zeros, prepared once for a tensor.
class StoredCode {
 public:
  explicit StoredCode(const Code& code);

  float nearest(float value) const { return search_.value(code_of(value)); }
  std::uint32_t code_of(float value) const { return search_.nearest(value); }
  /// Ascending; empty where the code is a float of 16 or 32 bits.
  const std::vector<float>& values() const { return values_; }
  float largest() const { return largest_; }
  float smallest() const { return smallest_; }  // above 0
  /// The end of the range that is farther from 0, with its sign.
  float far_end() const { return far_end_; }
  bool is_signed() const { return is_signed_; }
  bool is_power_of_two() const { return is_power_of_two_; }

 private:
  CodeSearch search_;
  std::vector<float> values_;
  float largest_ = 0, smallest_ = 0, far_end_ = 0;
  bool is_signed_ = false, is_power_of_two_ = false;
};

/// unit * (a value of the code). With two-level scales the unit is the scale of the scales.
class StoredNumber {
 public:
  /// The code must outlive the number.
  explicit StoredNumber(const StoredCode& code, float unit = 1.0f) : code_(&code), unit_(unit) {}

  float nearest(float value) const {
    return unit_ == 0 ? 0 : unit_ * code_->nearest(value / unit_);
  }
  /// The code that stores `value`.
  std::uint32_t code_of(float value) const {
    return code_->code_of(unit_ == 0 ? 0.0f : value / unit_);
  }
  bool is_signed() const { return code_->is_signed(); }
  bool is_power_of_two() const { return code_->is_power_of_two(); }
  float largest() const { return unit_ * code_->largest(); }

  /// Calls visit(number) for the stored numbers around the nearest one, which comes first: `reach`
  /// on either side where the code is a table. Of floats only the nearest, and where they are far
  /// apart (halves below 2^-14) the one on the other side of the value: clipping costs more than a
  /// wide step.
  template <class Visit>
  void for_each_around(float value, int reach, Visit&& visit) const {
    const float stored = nearest(value);
    visit(stored);
    if (unit_ == 0) return;
    const std::vector<float>& values = code_->values();
    if (values.empty()) {
      constexpr float far_apart = 0x1p-10f;
      const float rest = value - stored;
      if (std::abs(rest) > far_apart * std::abs(value) && std::abs(value) < largest()) {
        visit(neighbour(stored, rest));
      }
      return;
    }
    const auto n = static_cast<std::ptrdiff_t>(values.size());
    const auto center =
        std::lower_bound(values.begin(), values.end(), code_->nearest(value / unit_)) -
        values.begin();
    for (std::ptrdiff_t i = std::max<std::ptrdiff_t>(center - reach, 0);
         i <= std::min<std::ptrdiff_t>(center + reach, n - 1); ++i) {
      if (i != center) visit(unit_ * values[static_cast<std::size_t>(i)]);
    }
  }

 private:
  /// The next stored number in the direction of `rest`, not 0.
  float neighbour(float stored, float rest) const {
    float other = stored;
    // Doubling stops before the number after next: rest is at most half the distance to the next.
    for (float offset = 2 * rest; other == stored; offset *= 2) other = nearest(stored + offset);
    return other;
  }

  const StoredCode* code_;
  float unit_;
};

}  // namespace lowbit
