// SPDX-License-Identifier: Apache-2.0
// Finite automata over ranges of symbols: code points while a pattern is worked out, bytes once it
// is to be matched. One type serves both, so that subset construction, products and trimming stand
// here once. Everything that can grow exponentially takes a limit and becomes an Error beyond it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"

namespace lowbit {

/// Deterministic. State 0 is the start; from every state an accepting one can be reached, so that
/// a text that is not refused can always be completed. No states: nothing is accepted.
struct Dfa {
  struct Edge {
    std::uint32_t first, last, target;
  };
  struct State {
    std::vector<Edge> edges;  // ascending and disjoint
    bool is_accepting = false;
  };
  std::vector<State> states;

  bool is_empty() const { return states.empty(); }
  /// The state after `symbol`, if it may follow.
  std::optional<std::uint32_t> next(std::uint32_t state, std::uint32_t symbol) const;
  bool matches(std::string_view bytes) const;
};

/// How far an automaton may grow. Hostile patterns need 2^n states: work counts the edges looked
/// at, which bounds the time.
struct AutomatonLimits {
  std::size_t n_states = 20'000;
  std::size_t n_work = 20'000'000;
  std::size_t* n_work_left = nullptr;  // of several automata together: taken from if given
};

/// Nondeterministic, with empty edges: what patterns and numbers are written as.
class Nfa {
 public:
  using State = std::uint32_t;
  static constexpr State start = 0;

  Nfa() { add_state(); }
  State add_state();
  void add_edge(State from, std::uint32_t first, std::uint32_t last, State to);
  void add_empty_edge(State from, State to) { states_[from].empty_edges.push_back(to); }
  void accept(State state) { states_[state].is_accepting = true; }
  std::size_t n_states() const { return states_.size(); }

  /// The states after the given bytes, from `from`.
  State add_text(State from, std::string_view text);
  /// A copy of dfa that begins at `from`; the returned state follows its accepting ones.
  State add_dfa(State from, const Dfa& dfa);

  Result<Dfa> determinize(const AutomatonLimits& limits = {}) const;

 private:
  struct Node {
    std::vector<Dfa::Edge> edges;
    std::vector<State> empty_edges;
    bool is_accepting = false;
  };
  // Which states were seen in the closure at hand.
  struct Marks {
    std::vector<std::uint32_t> stamps;
    std::uint32_t stamp = 0;
  };
  /// Adds the states reached over empty edges, sorts, and counts what it looked at.
  void close(std::vector<State>& states, Marks& marks, std::size_t& n_work) const;

  std::vector<Node> states_;
};

/// What both accept.
Result<Dfa> intersect(const Dfa& a, const Dfa& b, const AutomatonLimits& limits = {});

/// The same language without the states from which nothing is accepted.
Dfa trimmed(Dfa dfa);

}  // namespace lowbit
