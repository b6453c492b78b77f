// SPDX-License-Identifier: Apache-2.0
// Numbers between bounds as automata over their decimal digits. Digits are limited, so that no
// number is longer than what every JSON reader keeps apart.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "lowbit/base/result.h"
#include "lowbit/grammar/automaton.h"

namespace lowbit {

/// A bound as it was written: digits before and after the point, without zeros that say nothing.
struct Decimal {
  bool is_negative = false;
  std::string whole = "0", fraction = {};

  bool is_zero() const { return whole == "0" && fraction.empty(); }
};

/// An Error for what has more than 15 digits before or after the point.
Result<Decimal> decimal_of(const nlohmann::ordered_json& number);

struct NumberBound {
  Decimal value;
  bool is_exclusive = false;
};

struct NumberRange {
  bool is_integer = false;
  std::optional<NumberBound> min = std::nullopt, max = std::nullopt;
  std::optional<std::uint32_t> multiple_of = std::nullopt;  // then only integers are written
};

inline constexpr std::uint32_t max_multiple_of = 10'000;

/// Numbers without bounds may have an exponent of two digits, numbers with bounds none.
Result<Dfa> numbers_in(const NumberRange& range, std::size_t* n_work_left = nullptr);

}  // namespace lowbit
