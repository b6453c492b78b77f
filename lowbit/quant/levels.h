// SPDX-License-Identifier: Apache-2.0
// The values of a code in the form that the searches for a scale loop over: rounding to the nearest
// of them, four numbers at a time. Three kinds are told apart by their values and not by name:
// evenly spaced ones and small floats round by arithmetic, other tables by comparing with each
// border. Ties may fall otherwise than in CodeSearch, which writes the codes in the end; they cost
// the same error.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "lowbit/formats/code.h"
#include "lowbit/quant/lanes.h"

namespace lowbit {

/// The finite numbers that a scalar code can be made to store, ascending; empty for floats that a
/// formula decodes. (Bits that are read but never written, such as the fourth value of a trit, are
/// left out.)
std::vector<float> writable_values(const Code& code);
bool is_power_of_two(float value);

/// Multiples of a power of two from low to high. Adding and subtracting 1.5 * 2^23 steps rounds to
/// a whole step.
struct EvenLevels {
  float low, high, magic;

  Lanes nearest(Lanes x) const {
    const Lanes clamped = least(most(x, all_lanes(low)), all_lanes(high));
    return (clamped + all_lanes(magic)) - all_lanes(magic);
  }
};

/// Sign, exponent and mantissa with subnormals: the step of a number is its power of two, at least
/// that of the subnormals, times 2^-mantissa bits.
struct FloatLevels {
  float high, least_power, magic_per_power;

  Lanes nearest(Lanes x) const {
    constexpr std::int32_t sign_mask = INT32_MIN, exponent_mask = 0x7f800000;
    const LaneBits bits = std::bit_cast<LaneBits>(x);
    const Lanes magnitude = least(std::bit_cast<Lanes>(bits & ~sign_mask), all_lanes(high));
    const Lanes power = std::bit_cast<Lanes>(std::bit_cast<LaneBits>(magnitude) & exponent_mask);
    const Lanes magic = most(power, all_lanes(least_power)) * all_lanes(magic_per_power);
    const Lanes rounded = (magnitude + magic) - magic;
    return std::bit_cast<Lanes>(std::bit_cast<LaneBits>(rounded) | (bits & sign_mask));
  }
};

/// Any values: the lowest, and what each border adds.
struct TableLevels {
  float low;
  std::vector<float> borders, rises;

  Lanes nearest(Lanes x) const {
    Lanes value = all_lanes(low);
    for (std::size_t i = 0; i < borders.size(); ++i) {
      value += x >= all_lanes(borders[i]) ? all_lanes(rises[i]) : Lanes{};
    }
    return value;
  }
};

class Levels {
 public:
  /// code.dim == 1, decoded by a table.
  explicit Levels(const Code& code);

  float low() const { return low_; }    // smallest value
  float high() const { return high_; }  // largest value
  int n_levels() const { return n_levels_; }
  /// The values mirrored are the values: the sign of a scale does not matter.
  bool is_symmetric() const { return is_symmetric_; }

  /// Calls visitor(EvenLevels, FloatLevels or TableLevels).
  template <class Visitor>
  auto visit(Visitor&& visitor) const {
    switch (kind_) {
      case Kind::even:
        return visitor(even_);
      case Kind::floats:
        return visitor(floats_);
      case Kind::table:
        break;
    }
    return visitor(table_);
  }

 private:
  enum class Kind : std::uint8_t { even, floats, table };
  Kind kind_ = Kind::table;
  EvenLevels even_{};
  FloatLevels floats_{};
  TableLevels table_{};
  float low_ = 0, high_ = 0;
  int n_levels_ = 0;
  bool is_symmetric_ = false;
};

}  // namespace lowbit
