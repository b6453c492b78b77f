// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/pattern.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lowbit/model/utf8.h"

namespace lowbit {
namespace {

constexpr char32_t first_surrogate = 0xD800, last_surrogate = 0xDFFF;
constexpr int max_depth = 50;              // of groups
constexpr std::uint64_t max_count = 1000;  // in {n,m}
constexpr std::size_t max_nfa_states = 20'000;
constexpr AutomatonLimits byte_limits{.n_states = 100'000, .n_work = 40'000'000};

struct Range {
  char32_t first, last;
};
using Ranges = std::vector<Range>;

// Sorted, disjoint, without surrogates (no UTF-8 text has them).
Ranges normalized(Ranges ranges) {
  std::sort(ranges.begin(), ranges.end(), [](Range a, Range b) { return a.first < b.first; });
  Ranges joined;
  for (const Range range : ranges) {
    if (!joined.empty() && range.first <= joined.back().last + 1) {
      joined.back().last = std::max(joined.back().last, range.last);
    } else {
      joined.push_back(range);
    }
  }
  Ranges valid;
  for (const Range range : joined) {
    if (range.first < first_surrogate) {
      valid.push_back({range.first, std::min<char32_t>(range.last, first_surrogate - 1)});
    }
    if (range.last > last_surrogate) {
      valid.push_back({std::max<char32_t>(range.first, last_surrogate + 1), range.last});
    }
  }
  return valid;
}

Ranges complement(const Ranges& ranges) {
  Ranges others;
  char32_t next = 0;
  for (const Range range : normalized(ranges)) {
    if (range.first > next) others.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= last_code_point) others.push_back({next, last_code_point});
  return normalized(others);
}

const Ranges digits{{'0', '9'}};
const Ranges word_characters{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const Ranges spaces{{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680},
                    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                    {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const Ranges line_ends{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

// What a pattern says, before it is spelled out in states.
struct Term {
  enum class Kind { characters, sequence, choice, repeat } kind = Kind::sequence;
  Ranges characters = {};
  std::vector<Term> children = {};
  std::uint64_t min = 0;
  std::optional<std::uint64_t> max = std::nullopt;
};

class PatternParser {
 public:
  explicit PatternParser(std::string_view text) : text_(text) {}

  // Alternatives at the top may be anchored; the others are searched for.
  Result<Term> parse() {
    Term top{.kind = Term::Kind::choice};
    do {
      Term alternative;
      if (!take('^')) alternative.children.push_back(anything());
      auto body = parse_sequence(0);
      if (!body) return std::move(body).error();
      alternative.children.push_back(*std::move(body));
      if (!take('$')) alternative.children.push_back(anything());
      top.children.push_back(std::move(alternative));
    } while (take('|'));
    if (at_ < text_.size()) {
      if (text_[at_] == ')') return failure("has a ')' without a '('");
      return failure("has a '^' or '$' that is not at the end of an alternative");
    }
    return top;
  }

 private:
  static Term anything() {
    return {.kind = Term::Kind::repeat,
            .children = {{.kind = Term::Kind::characters, .characters = complement({})}}};
  }

  Error failure(std::string_view what) const {
    return Error("the pattern \"" + std::string(text_.substr(0, 80)) + "\" " + std::string(what) +
                 " (at byte " + std::to_string(at_) + ")");
  }
  bool is_at(char c) const { return at_ < text_.size() && text_[at_] == c; }
  bool take(char c) {
    if (!is_at(c)) return false;
    ++at_;
    return true;
  }
  char32_t take_code_point() {
    const char32_t code_point = utf8_code_point(text_.substr(at_));
    at_ += utf8_front(text_.substr(at_)).n_bytes;
    return code_point;
  }

  Result<Term> parse_choice(int depth) {
    if (depth > max_depth) return failure("nests its groups too deep");
    Term choice{.kind = Term::Kind::choice};
    do {
      auto sequence = parse_sequence(depth);
      if (!sequence) return sequence;
      choice.children.push_back(*std::move(sequence));
    } while (take('|'));
    return choice;
  }

  Result<Term> parse_sequence(int depth) {
    Term sequence;
    while (at_ < text_.size() && !is_at('|') && !is_at(')') && !is_at('$') && !is_at('^')) {
      auto atom = parse_atom(depth);
      if (!atom) return atom;
      auto quantified = parse_quantifier(*std::move(atom));
      if (!quantified) return quantified;
      sequence.children.push_back(*std::move(quantified));
    }
    return sequence;
  }

  Result<Term> parse_atom(int depth) {
    if (take('(')) {
      if (take('?') && !take(':')) {
        return failure("uses look-around or a named group, which is not supported");
      }
      auto inner = parse_choice(depth + 1);
      if (!inner) return inner;
      if (!take(')')) {
        return failure(is_at('^') || is_at('$') ? "has a '^' or '$' inside a group"
                                                : "has a '(' without a ')'");
      }
      return inner;
    }
    Term term{.kind = Term::Kind::characters};
    if (take('.')) {
      term.characters = complement(line_ends);
    } else if (take('[')) {
      auto set = parse_set();
      if (!set) return std::move(set).error();
      term.characters = *std::move(set);
    } else if (take('\\')) {
      auto escape = parse_escape(false);
      if (!escape) return std::move(escape).error();
      term.characters = *std::move(escape);
    } else if (is_at('*') || is_at('+') || is_at('?') || is_at('{')) {
      return failure("has a quantifier without anything before it");
    } else {
      const char32_t c = take_code_point();
      term.characters = {{c, c}};
    }
    term.characters = normalized(std::move(term.characters));
    return term;
  }

  Result<Term> parse_quantifier(Term atom) {
    Term repeat{.kind = Term::Kind::repeat};
    if (take('?')) {
      repeat.max = 1;
    } else if (take('+')) {
      repeat.min = 1;
    } else if (take('{')) {
      const auto min = take_number();
      if (!min) return failure("has a '{' that is no count; write \\{ for the character");
      repeat.min = *min;
      repeat.max = min;
      if (take(',')) repeat.max = take_number();
      if (!take('}')) return failure("has a count without a '}'");
      if (repeat.max && *repeat.max < repeat.min)
        return failure("has a count whose ends are swapped");
      if (repeat.min > max_count || repeat.max.value_or(0) > max_count) {
        return failure("has a count above " + std::to_string(max_count));
      }
    } else if (!take('*')) {
      return atom;
    }
    take('?');  // lazy: the same texts
    if (is_at('*') || is_at('+') || is_at('?') || is_at('{')) {
      return failure("has two quantifiers in a row");
    }
    repeat.children.push_back(std::move(atom));
    return repeat;
  }

  std::optional<std::uint64_t> take_number() {
    const std::size_t begin = at_;
    std::uint64_t number = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      number = std::min<std::uint64_t>(number * 10 + static_cast<unsigned>(text_[at_++] - '0'),
                                       max_count + 1);
    }
    if (at_ == begin) return std::nullopt;
    return number;
  }

  // After '['. An escape like \d may stand in it, but not as the end of a range.
  Result<Ranges> parse_set() {
    const bool is_negated = take('^');
    Ranges ranges;
    while (!is_at(']')) {
      if (at_ >= text_.size()) return failure("has a '[' without a ']'");
      auto first = parse_set_member();
      if (!first) return first;
      const bool is_range = is_at('-') && at_ + 1 < text_.size() && text_[at_ + 1] != ']';
      if (!is_range) {
        ranges.insert(ranges.end(), first->begin(), first->end());
        continue;
      }
      ++at_;
      auto last = parse_set_member();
      if (!last) return last;
      const bool are_characters = first->size() == 1 && last->size() == 1 &&
                                  first->front().first == first->front().last &&
                                  last->front().first == last->front().last;
      if (!are_characters || first->front().first > last->front().first) {
        return failure("has a range in [] that runs backwards or is none");
      }
      ranges.push_back({first->front().first, last->front().first});
    }
    ++at_;
    return is_negated ? complement(ranges) : normalized(std::move(ranges));
  }

  Result<Ranges> parse_set_member() {
    if (at_ >= text_.size()) return failure("has a '[' without a ']'");
    if (take('\\')) return parse_escape(true);
    const char32_t c = take_code_point();
    return Ranges{{c, c}};
  }

  // After the backslash.
  Result<Ranges> parse_escape(bool is_in_set) {
    if (at_ >= text_.size()) return failure("ends in a backslash");
    const char c = text_[at_];
    constexpr std::string_view names = "tnvfr0", values("\t\n\v\f\r\0", 6);
    if (const std::size_t i = names.find(c); i != std::string_view::npos) {
      ++at_;
      const bool is_octal =
          c == '0' && at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9';
      if (is_octal) return failure("uses an octal escape, which is not supported");
      return Ranges{{static_cast<char32_t>(values[i]), static_cast<char32_t>(values[i])}};
    }
    if (is_in_set && take('b')) return Ranges{{'\b', '\b'}};
    if (take('d')) return digits;
    if (take('D')) return complement(digits);
    if (take('w')) return word_characters;
    if (take('W')) return complement(word_characters);
    if (take('s')) return spaces;
    if (take('S')) return complement(spaces);
    if (take('x')) return parse_hex(2);
    if (take('u')) return parse_hex(4);
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (is_letter || (c >= '1' && c <= '9')) {
      return failure("uses \\" + std::string(1, c) + ", which is not supported");
    }
    const char32_t code_point = take_code_point();
    return Ranges{{code_point, code_point}};
  }

  Result<Ranges> parse_hex(std::size_t n_digits) {
    char32_t value = 0;
    for (std::size_t i = 0; i < n_digits; ++i, ++at_) {
      const char c = at_ < text_.size() ? text_[at_] : ' ';
      const bool is_digit = c >= '0' && c <= '9';
      const char lower = static_cast<char>(c | 0x20);
      if (!is_digit && (lower < 'a' || lower > 'f')) {
        return failure("has a \\x or \\u without its " + std::to_string(n_digits) + " digits");
      }
      value = value * 16 + static_cast<char32_t>(is_digit ? c - '0' : lower - 'a' + 10);
    }
    if (value >= first_surrogate && value <= last_surrogate) {
      return failure("names a surrogate; write the character itself");
    }
    return Ranges{{value, value}};
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

// False if it grows too large.
bool add_term(Nfa& nfa, Nfa::State& at, const Term& term) {
  if (nfa.n_states() > max_nfa_states) return false;
  switch (term.kind) {
    case Term::Kind::characters: {
      const Nfa::State to = nfa.add_state();
      for (const Range range : term.characters) nfa.add_edge(at, range.first, range.last, to);
      at = to;
      return true;
    }
    case Term::Kind::sequence:
      for (const Term& child : term.children) {
        if (!add_term(nfa, at, child)) return false;
      }
      return true;
    case Term::Kind::choice: {
      const Nfa::State end = nfa.add_state();
      for (const Term& child : term.children) {
        Nfa::State state = nfa.add_state();
        nfa.add_empty_edge(at, state);
        if (!add_term(nfa, state, child)) return false;
        nfa.add_empty_edge(state, end);
      }
      at = end;
      return true;
    }
    case Term::Kind::repeat: {
      for (std::uint64_t i = 0; i < term.min; ++i) {
        if (!add_term(nfa, at, term.children[0])) return false;
      }
      if (!term.max) {
        const Nfa::State loop = nfa.add_state();
        nfa.add_empty_edge(at, loop);
        Nfa::State state = loop;
        if (!add_term(nfa, state, term.children[0])) return false;
        nfa.add_empty_edge(state, loop);
        at = loop;
        return true;
      }
      const Nfa::State end = nfa.add_state();
      for (std::uint64_t i = term.min; i < *term.max; ++i) {
        nfa.add_empty_edge(at, end);
        if (!add_term(nfa, at, term.children[0])) return false;
      }
      nfa.add_empty_edge(at, end);
      at = end;
      return true;
    }
  }
  return false;
}

// UTF-8 of a range of code points as chains of byte ranges: each part shares all bytes but a tail
// of full ranges.
class Utf8Ranges {
 public:
  Utf8Ranges(Nfa& nfa, Nfa::State from, Nfa::State to) : nfa_(&nfa), from_(from), to_(to) {}

  void add(char32_t first, char32_t last) {
    for (const char32_t end : {0x7Fu, 0x7FFu, 0xFFFFu}) {
      if (first <= end && last > end) {
        add(first, end);
        first = end + 1;
      }
    }
    if (last <= 0x7F) {
      nfa_->add_edge(from_, first, last, to_);
      return;
    }
    const int n_tail = last <= 0x7FF ? 1 : last <= 0xFFFF ? 2 : 3;
    for (int i = 1; i <= n_tail; ++i) {
      const char32_t mask = (char32_t{1} << (6 * i)) - 1;
      if ((first & ~mask) == (last & ~mask)) continue;
      if ((first & mask) != 0) {
        add(first, first | mask);
        add((first | mask) + 1, last);
        return;
      }
      if ((last & mask) != mask) {
        add(first, (last & ~mask) - 1);
        add(last & ~mask, last);
        return;
      }
    }
    const std::array<std::uint32_t, 4> leads{0, 0xC0, 0xE0, 0xF0};
    Nfa::State state = from_;
    for (int i = n_tail; i >= 0; --i) {
      const Nfa::State next = i == 0 ? to_ : nfa_->add_state();
      const std::uint32_t lead = i == n_tail ? leads[static_cast<std::size_t>(n_tail)] : 0x80;
      const std::uint32_t bits = i == n_tail ? 0x1F : 0x3F;
      nfa_->add_edge(state, lead | ((first >> (6 * i)) & bits), lead | ((last >> (6 * i)) & bits),
                     next);
      state = next;
    }
  }

 private:
  Nfa* nfa_;
  Nfa::State from_, to_;
};

}  // namespace

Result<Dfa> compile_pattern(std::string_view pattern, std::size_t* n_work_left) {
  if (utf8_valid_bytes(pattern) != pattern.size()) return Error("the pattern is not UTF-8");
  auto term = PatternParser(pattern).parse();
  if (!term) return std::move(term).error();
  Nfa nfa;
  Nfa::State end = Nfa::start;
  const std::string name = "the pattern \"" + std::string(pattern.substr(0, 80)) + "\"";
  if (!add_term(nfa, end, *term)) {
    return Error(name + " is too large: its counts spell out more than " +
                 std::to_string(max_nfa_states) + " states");
  }
  nfa.accept(end);
  auto dfa = nfa.determinize({.n_work_left = n_work_left});
  if (!dfa) return std::move(dfa).error().in(name);
  return dfa;
}

Result<Dfa> texts_of_length(std::uint64_t min, std::optional<std::uint64_t> max) {
  const AutomatonLimits limits;
  const std::uint64_t n_chars = max.value_or(min);
  if (max && min > *max) return Dfa{};
  if (n_chars >= limits.n_states) {
    return Error("lengths of " + std::to_string(limits.n_states) +
                 " and more are not supported beside a pattern or format");
  }
  Dfa dfa;
  dfa.states.resize(static_cast<std::size_t>(n_chars) + 1);
  const Ranges any = complement({});
  for (std::uint32_t i = 0; i < dfa.states.size(); ++i) {
    dfa.states[i].is_accepting = i >= min;
    if (i == n_chars && max) break;
    const std::uint32_t next = i == n_chars ? i : i + 1;
    for (const Range range : any) dfa.states[i].edges.push_back({range.first, range.last, next});
  }
  return dfa;
}

bool matches_text(const Dfa& dfa, std::string_view text) {
  if (dfa.is_empty()) return false;
  std::uint32_t state = 0;
  while (!text.empty()) {
    const auto after = dfa.next(state, utf8_code_point(text));
    if (!after) return false;
    state = *after;
    text.remove_prefix(utf8_front(text).n_bytes);
  }
  return dfa.states[state].is_accepting;
}

Result<Dfa> utf8_of(const Dfa& code_points) {
  if (code_points.is_empty()) return Dfa{};
  Nfa nfa;
  std::vector<Nfa::State> states{Nfa::start};
  while (states.size() < code_points.states.size()) states.push_back(nfa.add_state());
  for (std::size_t i = 0; i < states.size(); ++i) {
    if (code_points.states[i].is_accepting) nfa.accept(states[i]);
    for (const Dfa::Edge& edge : code_points.states[i].edges) {
      for (const Range range : normalized({{edge.first, edge.last}})) {
        Utf8Ranges(nfa, states[i], states[edge.target]).add(range.first, range.last);
      }
    }
  }
  return nfa.determinize(byte_limits);
}

Result<Dfa> json_string_of(const Dfa& code_points, std::size_t* n_work_left) {
  Nfa nfa;
  if (code_points.is_empty()) return Dfa{};
  std::vector<Nfa::State> states;
  for (std::size_t i = 0; i < code_points.states.size(); ++i) states.push_back(nfa.add_state());
  nfa.add_edge(Nfa::start, '"', '"', states[0]);
  const Nfa::State end = nfa.add_state();
  nfa.accept(end);
  constexpr std::string_view escaped("\"\\\b\f\n\r\t"), letters("\"\\bfnrt");
  for (std::size_t i = 0; i < states.size(); ++i) {
    if (code_points.states[i].is_accepting) nfa.add_edge(states[i], '"', '"', end);
    const Nfa::State after_backslash = nfa.add_state();
    nfa.add_edge(states[i], '\\', '\\', after_backslash);
    for (const Dfa::Edge& edge : code_points.states[i].edges) {
      const Nfa::State target = states[edge.target];
      for (std::size_t e = 0; e < escaped.size(); ++e) {
        const auto c = static_cast<std::uint32_t>(escaped[e]);
        if (edge.first > c || edge.last < c) continue;
        const auto letter = static_cast<std::uint32_t>(letters[e]);
        nfa.add_edge(after_backslash, letter, letter, target);
      }
      Utf8Ranges utf8(nfa, states[i], target);
      for (const Range plain : Ranges{{' ', '!'}, {'#', '['}, {']', last_code_point}}) {
        const char32_t first = std::max<char32_t>(plain.first, edge.first);
        const char32_t last = std::min<char32_t>(plain.last, edge.last);
        if (first > last) continue;
        for (const Range range : normalized({{first, last}})) utf8.add(range.first, range.last);
      }
    }
  }
  AutomatonLimits limits = byte_limits;
  limits.n_work_left = n_work_left;
  return nfa.determinize(limits);
}

}  // namespace lowbit
