// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/number_range.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

namespace lowbit {
namespace {

constexpr std::size_t max_bound_digits = 15;  // a double keeps decimals of so many digits apart
constexpr std::size_t max_integer_digits = 18, max_fraction_digits = 15;

using State = Nfa::State;

void add_digits(Nfa& nfa, State from, char first, char last, State to) {
  if (first <= last) {
    nfa.add_edge(from, static_cast<unsigned char>(first), static_cast<unsigned char>(last), to);
  }
}

void add_loop(Nfa& nfa, State state) {
  add_digits(nfa, state, '0', '9', state);
}

// At least n_min and at most n_max digits behind `from`; returns the states reached by each count.
State add_up_to(Nfa& nfa, State from, std::size_t n_min, std::size_t n_max) {
  const State end = nfa.add_state();
  for (std::size_t i = 0; i <= n_max; ++i) {
    if (i >= n_min) nfa.add_empty_edge(from, end);
    if (i == n_max) break;
    const State to = nfa.add_state();
    add_digits(nfa, from, '0', '9', to);
    from = to;
  }
  return end;
}

// 0 or digits without a leading zero; perhaps a fraction; perhaps an exponent.
Result<Dfa> unsigned_numbers(std::size_t n_fraction, bool has_exponent) {
  Nfa nfa;
  const State first = nfa.add_state(), whole = nfa.add_state();
  add_digits(nfa, Nfa::start, '0', '0', whole);
  add_digits(nfa, Nfa::start, '1', '9', first);
  nfa.add_empty_edge(add_up_to(nfa, first, 0, max_integer_digits - 1), whole);
  State mantissa = whole;
  if (n_fraction > 0) {
    mantissa = nfa.add_state();
    nfa.add_empty_edge(whole, mantissa);
    nfa.add_empty_edge(add_up_to(nfa, nfa.add_text(whole, "."), 1, n_fraction), mantissa);
  }
  nfa.accept(mantissa);
  if (has_exponent) {
    const State letter = nfa.add_state(), sign = nfa.add_state();
    for (const char c : {'e', 'E'}) add_digits(nfa, mantissa, c, c, letter);
    for (const char c : {'+', '-'}) add_digits(nfa, letter, c, c, sign);
    nfa.add_empty_edge(letter, sign);
    nfa.accept(add_up_to(nfa, sign, 1, 2));
  }
  return nfa.determinize();
}

// Unsigned decimals that are at least (or at most) the bound: as long as the digits are the bound's
// they are compared one by one; the first that differs decides, unless the lengths of the whole
// parts differ, which is guessed at the first digit.
Result<Dfa> beyond(const NumberBound& bound, bool is_at_least) {
  const std::string& whole = bound.value.whole;
  const std::string& fraction = bound.value.fraction;
  Nfa nfa;
  const State free_fraction = nfa.add_state();
  add_loop(nfa, free_fraction);
  nfa.accept(free_fraction);
  const auto accept_free = [&](State state) {  // whatever follows the point
    nfa.accept(state);
    nfa.add_edge(state, '.', '.', free_fraction);
  };
  const auto add_decided = [&](State from, char digit, State to) {
    is_at_least ? add_digits(nfa, from, static_cast<char>(digit + 1), '9', to)
                : add_digits(nfa, from, '0', static_cast<char>(digit - 1), to);
  };

  // Longer or shorter whole parts.
  State state = Nfa::start;
  if (is_at_least) {
    for (std::size_t i = 0; i <= whole.size(); ++i) {
      const State to = nfa.add_state();
      add_digits(nfa, state, '0', '9', to);
      state = to;
    }
    add_loop(nfa, state);
    accept_free(state);
  } else {
    for (std::size_t i = 1; i < whole.size(); ++i) {
      const State to = nfa.add_state();
      add_digits(nfa, state, '0', '9', to);
      state = to;
      accept_free(state);
    }
  }

  // As long as the bound's.
  State equal = Nfa::start, decided = nfa.add_state();
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const State equal_next = nfa.add_state(), decided_next = nfa.add_state();
    add_digits(nfa, equal, whole[i], whole[i], equal_next);
    add_decided(equal, whole[i], decided_next);
    if (i > 0) add_digits(nfa, decided, '0', '9', decided_next);
    equal = equal_next;
    decided = decided_next;
  }
  accept_free(decided);
  const bool has_fraction = !fraction.empty();
  const bool is_whole_enough = has_fraction ? !is_at_least : !bound.is_exclusive;
  if (is_whole_enough) nfa.accept(equal);
  equal = nfa.add_text(equal, ".");
  for (std::size_t i = 0; i < fraction.size(); ++i) {
    if (!is_at_least) nfa.accept(equal);
    const State equal_next = nfa.add_state();
    add_digits(nfa, equal, fraction[i], fraction[i], equal_next);
    add_decided(equal, fraction[i], free_fraction);
    equal = equal_next;
  }
  if (!bound.is_exclusive) nfa.accept(equal);
  add_digits(nfa, equal, '0', '0', equal);
  if (is_at_least) add_digits(nfa, equal, '1', '9', free_fraction);
  return nfa.determinize();
}

// States are remainders. The empty text is accepted too; the product with numbers leaves it out.
Dfa multiples_of(std::uint32_t divisor) {
  Dfa dfa;
  dfa.states.resize(divisor);
  dfa.states[0].is_accepting = true;
  for (std::uint32_t remainder = 0; remainder < divisor; ++remainder) {
    for (std::uint32_t digit = 0; digit < 10; ++digit) {
      dfa.states[remainder].edges.push_back(
          {'0' + digit, '0' + digit, (remainder * 10 + digit) % divisor});
    }
  }
  return dfa;
}

// Magnitudes from min to max, where absent means unbounded.
Result<Dfa> magnitudes(const std::optional<NumberBound>& min, const std::optional<NumberBound>& max,
                       const NumberRange& range, std::size_t* n_work_left) {
  const bool is_bounded = range.min || range.max;
  std::size_t n_whole = 1;
  for (const auto* bound : {&range.min, &range.max}) {
    if (*bound) n_whole = std::max(n_whole, (*bound)->value.whole.size());
  }
  const bool is_whole = range.is_integer || range.multiple_of;
  // Beside a bound no more digits than a double tells apart, or 0.1 + 1e-18 would be above 0.1.
  const std::size_t n_fraction = is_whole     ? 0
                                 : is_bounded ? std::max<std::size_t>(1, max_bound_digits - n_whole)
                                              : max_fraction_digits;
  auto dfa = unsigned_numbers(n_fraction, !is_whole && !is_bounded);
  if (dfa && min) {
    auto part = beyond(*min, true);
    if (!part) return part;
    dfa = intersect(*dfa, *part);
  }
  if (dfa && max) {
    auto part = beyond(*max, false);
    if (!part) return part;
    dfa = intersect(*dfa, *part);
  }
  if (dfa && range.multiple_of) {
    dfa = intersect(*dfa, multiples_of(*range.multiple_of),
                    {.n_states = 400'000, .n_work_left = n_work_left});
  }
  return dfa;
}

}  // namespace

Result<Decimal> decimal_of(const nlohmann::ordered_json& number) {
  std::string text = number.dump();
  Decimal decimal;
  if (text.starts_with('-')) {
    decimal.is_negative = true;
    text.erase(0, 1);
  }
  long exponent = 0;
  if (const std::size_t e = text.find_first_of("eE"); e != std::string::npos) {
    exponent = std::strtol(text.c_str() + e + 1, nullptr, 10);
    text.erase(e);
  }
  const std::size_t point = std::min(text.find('.'), text.size());
  std::string digits = text.substr(0, point);
  long n_whole = static_cast<long>(digits.size()) + exponent;
  if (point < text.size()) digits += text.substr(point + 1);
  const auto out_of_range = [&] {
    return Error("the number " + number.dump() + " has more than " +
                 std::to_string(max_bound_digits) + " digits before or after its point");
  };
  if (std::abs(n_whole) > 400 || digits.find_first_not_of("0123456789") != std::string::npos) {
    return out_of_range();
  }
  while (n_whole < 0) digits.insert(0, 1, '0'), ++n_whole;
  while (digits.size() < static_cast<std::size_t>(n_whole)) digits += '0';
  decimal.whole = digits.substr(0, static_cast<std::size_t>(n_whole));
  decimal.fraction = digits.substr(static_cast<std::size_t>(n_whole));
  decimal.whole.erase(0, std::min(decimal.whole.find_first_not_of('0'), decimal.whole.size()));
  if (decimal.whole.empty()) decimal.whole = "0";
  while (decimal.fraction.ends_with('0')) decimal.fraction.pop_back();
  if (decimal.is_zero()) decimal.is_negative = false;
  const bool is_long = decimal.whole.size() > max_bound_digits ||
                       (!decimal.fraction.empty() &&
                        decimal.fraction.size() + decimal.whole.size() > max_bound_digits);
  if (is_long) return out_of_range();
  return decimal;
}

Result<Dfa> numbers_in(const NumberRange& range, std::size_t* n_work_left) {
  Nfa nfa;
  std::optional<NumberBound> positive_min = range.min, positive_max = range.max;
  const bool has_positive = !range.max || !range.max->value.is_negative;
  const bool has_negative = !range.min || range.min->value.is_negative;
  if (positive_min && positive_min->value.is_negative) positive_min.reset();
  if (has_positive) {
    auto dfa = magnitudes(positive_min, positive_max, range, n_work_left);
    if (!dfa) return dfa;
    nfa.accept(nfa.add_dfa(Nfa::start, *dfa));
  }
  if (has_negative) {
    // -max <= magnitude <= -min; a maximum of exactly 0 that is excluded excludes -0 too.
    std::optional<NumberBound> min, max = range.min;
    if (range.max && (range.max->value.is_negative || range.max->value.is_zero())) min = range.max;
    auto dfa = magnitudes(min, max, range, n_work_left);
    if (!dfa) return dfa;
    nfa.accept(nfa.add_dfa(nfa.add_text(Nfa::start, "-"), *dfa));
  }
  return nfa.determinize({.n_states = 400'000, .n_work_left = n_work_left});
}

}  // namespace lowbit
