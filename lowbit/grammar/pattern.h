// SPDX-License-Identifier: Apache-2.0
// Regular expressions of JSON Schema (ECMA 262's, read as code points) as automata. What no finite
// automaton can hold (backreferences, look-around) is refused, and so is ^ or $ anywhere but at the
// ends of an alternative; lazy quantifiers mean the same as greedy ones here.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "lowbit/base/result.h"
#include "lowbit/grammar/automaton.h"

namespace lowbit {

inline constexpr std::uint32_t last_code_point = 0x10FFFF;

/// The texts in which the pattern is found somewhere, as an automaton over code points.
Result<Dfa> compile_pattern(std::string_view pattern, std::size_t* n_work_left = nullptr);

/// Texts of min to max code points. Needs max + 1 states, or min + 1 without a maximum.
Result<Dfa> texts_of_length(std::uint64_t min, std::optional<std::uint64_t> max);

/// Whether the whole of a valid UTF-8 text is accepted by an automaton over code points.
bool matches_text(const Dfa& dfa, std::string_view text);

/// The same texts as UTF-8.
Result<Dfa> utf8_of(const Dfa& code_points);

/// Makes an automaton over code points one over the bytes of a JSON string, quotes included. `"`,
/// `\` and the control characters that have a short escape are written by it, other control
/// characters never, everything else as UTF-8.
Result<Dfa> json_string_of(const Dfa& code_points, std::size_t* n_work_left = nullptr);

}  // namespace lowbit
