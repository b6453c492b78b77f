// SPDX-License-Identifier: Apache-2.0
// The scale (and zero) of one group of numbers. Every search is the same idea: try scales on a
// grid, round to codes, and solve for the scale that is best for these codes in closed form; with
// sums
//   A = sum w x v,  B = sum w v^2
// the best scale is A / B and leaves the error sum w x^2 - A^2 / B (llama.cpp's make_qx_quants;
// docs/design.md). Stored precision is respected: the value returned is one that the scale's code
// has.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lowbit/formats/code.h"
#include "lowbit/formats/code_search.h"

namespace lowbit {

/// The finite numbers that a scalar code can be made to store, ascending; empty for floats that a
/// formula decodes. (Bits that are read but never written, such as the fourth value of a trit, are
/// left out.)
std::vector<float> writable_values(const Code& code);

/// The code of the numbers in the form that the searches loop over.
class Levels {
 public:
  explicit Levels(const Code& code);

  const CodeSearch& search() const { return search_; }
  float low() const { return low_; }    // smallest value
  float high() const { return high_; }  // largest value
  int n_levels() const { return n_levels_; }
  /// Values are the integers low..high: rounding is arithmetic.
  bool uniform() const { return uniform_; }
  float nearest(float value) const {
    return uniform_ ? nearest_uniform(value) : search_.value(search_.nearest(value));
  }
  float nearest_uniform(float value) const {
    const float clamped = value < low_ ? low_ : value > high_ ? high_ : value;
    return (clamped + round_magic) - round_magic;
  }

 private:
  // Adding and subtracting 1.5 * 2^23 rounds |x| < 2^22 to the nearest integer, ties to even.
  static constexpr float round_magic = 12582912.0f;
  CodeSearch search_;
  float low_ = 0, high_ = 0;
  int n_levels_ = 0;
  bool uniform_ = false;
};

/// What a scale or a zero may be: unit * (a value of the code). With two-level scales the unit is
/// the scale of the scales.
class StoredNumber {
 public:
  explicit StoredNumber(const Code& code, float unit = 1.0f);

  float nearest(float value) const;
  /// The stored numbers around the nearest one: `reach` on either side where the code is a table,
  /// the nearest alone where it is a float of 16 or 32 bits. None is 0 unless it is the only one.
  std::vector<float> around(float value, int reach) const;
  bool is_signed() const { return is_signed_; }
  bool is_power_of_two() const { return is_power_of_two_; }
  float unit() const { return unit_; }
  float largest() const { return largest_ * unit_; }

 private:
  CodeSearch search_;
  std::vector<float> sorted_;  // of a table code: its finite values
  float unit_ = 1, largest_ = 0;
  bool is_signed_ = false, is_power_of_two_ = false;
};

/// One group: its numbers and the weights of their squared errors (same length; empty: all 1).
struct GroupData {
  std::span<const float> x, weights;
};

/// scale and zero in the unit of the scheme; error is the weighted squared error with both as
/// stored.
struct GroupFit {
  float scale = 0, zero = 0;
  double error = 0;
};

/// x ~ scale * v.
GroupFit fit_scale(const GroupData& group, const Levels& levels, const StoredNumber& scale);
/// x ~ scale * v + zero. With `nonpositive` the zero is at most 0 and the scale at least 0, as the
/// K types store them.
GroupFit fit_offset(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                    const StoredNumber& zero, bool nonpositive);
/// x ~ scale * (v - zero), zero an integer of the code's range or a real number.
GroupFit fit_code_zero(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                       const StoredNumber& zero);

/// The same three from the extremes of the group instead of a search.
GroupFit absmax_scale(const GroupData& group, const Levels& levels, const StoredNumber& scale);
GroupFit minmax_offset(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                       const StoredNumber& zero, bool nonpositive);
GroupFit minmax_code_zero(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                          const StoredNumber& zero);

/// Weighted squared error of x ~ scale * (v - code_zero) + offset with nearest codes.
double group_error(const GroupData& group, const Levels& levels, float scale, float code_zero,
                   float offset);

}  // namespace lowbit
