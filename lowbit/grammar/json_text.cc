// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/json_text.h"

#include <algorithm>
#include <utility>

#include "lowbit/grammar/pattern.h"
#include "lowbit/model/utf8.h"

namespace lowbit {
namespace {

using State = Nfa::State;

// Automata of fixed size: nothing a schema says can make them fail.
Dfa built(Result<Dfa> dfa) {
  return dfa ? *std::move(dfa) : Dfa{};
}

// The characters that stand for themselves in a string.
constexpr std::pair<std::uint32_t, std::uint32_t> plain_ranges[] = {
    {' ', '!'}, {'#', '['}, {']', last_code_point}};

Dfa plain_characters() {
  Dfa dfa;
  dfa.states.resize(2);
  dfa.states[1].is_accepting = true;
  for (const auto& [first, last] : plain_ranges) dfa.states[0].edges.push_back({first, last, 1});
  return built(utf8_of(dfa));
}

void add_hex_digits(Nfa& nfa, State from, int n_digits, State to) {
  for (int i = 0; i < n_digits; ++i) {
    const State next = i + 1 == n_digits ? to : nfa.add_state();
    nfa.add_edge(from, '0', '9', next);
    nfa.add_edge(from, 'A', 'F', next);
    nfa.add_edge(from, 'a', 'f', next);
    from = next;
  }
}

bool is_plain(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) {
    return c == '"' || c == '\\' || static_cast<unsigned char>(c) < ' ';
  });
}

State add_space(Nfa& nfa, State from) {
  const State end = nfa.add_state();
  nfa.add_empty_edge(from, end);
  nfa.add_empty_edge(nfa.add_text(from, " "), end);
  State line = nfa.add_text(from, "\n");
  nfa.add_empty_edge(line, end);
  for (int i = 0; i < max_indentation; ++i) {
    const State next = nfa.add_state();
    nfa.add_edge(line, ' ', ' ', next);
    nfa.add_edge(line, '\t', '\t', next);
    nfa.add_empty_edge(next, end);
    line = next;
  }
  return end;
}

}  // namespace

Dfa string_character() {
  Nfa nfa;
  const State end = nfa.add_dfa(Nfa::start, plain_characters());
  nfa.accept(end);
  const State backslash = nfa.add_text(Nfa::start, "\\");
  for (const char c : std::string_view("\"\\/bfnrt")) {
    const auto byte = static_cast<unsigned char>(c);
    nfa.add_edge(backslash, byte, byte, end);
  }
  const State digits = nfa.add_text(backslash, "u");
  const State after_first = nfa.add_state(), after_d = nfa.add_state();
  nfa.add_edge(digits, '0', '9', after_first);
  for (const char c : {'A', 'a'}) {
    const auto a = static_cast<std::uint32_t>(c);
    nfa.add_edge(digits, a, a + 2, after_first);
    nfa.add_edge(digits, a + 4, a + 5, after_first);
    nfa.add_edge(digits, a + 3, a + 3, after_d);
  }
  add_hex_digits(nfa, after_first, 3, end);
  const State basic = nfa.add_state(), high = nfa.add_state(), pair = nfa.add_state();
  nfa.add_edge(after_d, '0', '7', basic);
  add_hex_digits(nfa, basic, 2, end);
  for (const auto& [first, last] : {std::pair{'8', '9'}, {'A', 'B'}, {'a', 'b'}}) {
    nfa.add_edge(after_d, static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(last),
                 high);
  }
  add_hex_digits(nfa, high, 2, pair);
  const State second = nfa.add_text(pair, "\\u"), low = nfa.add_state(), last_two = nfa.add_state();
  for (const char c : {'D', 'd'}) {
    nfa.add_edge(second, static_cast<std::uint32_t>(c), static_cast<std::uint32_t>(c), low);
  }
  for (const char c : {'C', 'c'}) {
    nfa.add_edge(low, static_cast<std::uint32_t>(c), static_cast<std::uint32_t>(c) + 3, last_two);
  }
  add_hex_digits(nfa, last_two, 2, end);
  return built(nfa.determinize());
}

JsonText::JsonText(GrammarBuilder& builder)
    : builder_(&builder),
      character_(builder.text(string_character(), StringPart::any)),
      key_character_(builder.text(plain_characters(), StringPart::plain)) {}

JsonText::Node JsonText::with_space_after(std::string_view bytes) {
  const std::string name = "<" + std::string(bytes);
  if (const auto known = spaced_.find(name); known != spaced_.end()) return known->second;
  Nfa nfa;
  nfa.accept(add_space(nfa, nfa.add_text(Nfa::start, bytes)));
  return spaced_[name] = builder_->text(built(nfa.determinize()));
}

JsonText::Node JsonText::with_space_before(std::string_view bytes) {
  const std::string name = ">" + std::string(bytes);
  if (const auto known = spaced_.find(name); known != spaced_.end()) return known->second;
  Nfa nfa;
  nfa.accept(nfa.add_text(add_space(nfa, Nfa::start), bytes));
  return spaced_[name] = builder_->text(built(nfa.determinize()));
}

JsonText::Node JsonText::string(std::uint32_t min, std::uint32_t max) {
  const Node quote = builder_->literal("\"");
  return builder_->sequence({quote, builder_->repeat(character_, min, max), quote});
}

JsonText::Node JsonText::other_key(const std::vector<std::string_view>& names) {
  const Node quote = builder_->literal("\""), end = with_space_after("\":");
  if (names.empty()) return builder_->sequence({quote, builder_->repeat(character_, 0), end});

  // A trie of the names: a key is another one where it leaves the trie, or ends inside it at a
  // place where no name does.
  Dfa trie;
  std::vector<char> is_name(1, 0);
  trie.states.emplace_back();
  for (std::string_view name : names) {
    if (!is_plain(name)) continue;  // no key without escapes is this one
    std::uint32_t state = 0;
    for (; !name.empty(); name.remove_prefix(utf8_front(name).n_bytes)) {
      const std::uint32_t c = utf8_code_point(name);
      std::vector<Dfa::Edge>& edges = trie.states[state].edges;
      auto edge = edges.begin();
      while (edge != edges.end() && edge->first < c) ++edge;
      if (edge == edges.end() || edge->first != c) {
        const auto made = static_cast<std::uint32_t>(trie.states.size());
        edges.insert(edge, {c, c, made});
        trie.states.emplace_back();
        is_name.push_back(0);
        state = made;
      } else {
        state = edge->target;
      }
    }
    is_name[state] = 1;
  }
  Dfa leaving = trie, inside = trie;
  const auto left = static_cast<std::uint32_t>(trie.states.size());
  leaving.states.emplace_back().is_accepting = true;
  for (std::uint32_t i = 0; i < left; ++i) {
    inside.states[i].is_accepting = is_name[i] == 0;
    std::vector<Dfa::Edge> edges;
    for (const auto& [first, last] : plain_ranges) {
      std::uint32_t next = first;
      for (const Dfa::Edge& edge : trie.states[i].edges) {
        if (edge.first < first || edge.first > last) continue;
        if (edge.first > next) edges.push_back({next, edge.first - 1, left});
        edges.push_back(edge);
        next = edge.first + 1;
      }
      if (next <= last) edges.push_back({next, last, left});
    }
    leaving.states[i].edges = std::move(edges);
  }
  const Node away = builder_->text(built(utf8_of(trimmed(std::move(leaving)))));
  const Node part = builder_->text(built(utf8_of(trimmed(std::move(inside)))));
  return builder_->sequence(
      {quote,
       builder_->choice({part, builder_->sequence({away, builder_->repeat(key_character_, 0)})}),
       end});
}

}  // namespace lowbit
