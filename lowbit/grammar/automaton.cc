// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/automaton.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

namespace lowbit {
namespace {

Error too_large(const AutomatonLimits& limits) {
  return Error("needs an automaton of more than " + std::to_string(limits.n_states) +
               " states, or takes too long to build; make it simpler or its counts smaller");
}

// Whether it may go on; counts what was done since the last time.
class WorkMeter {
 public:
  explicit WorkMeter(const AutomatonLimits& limits) : limits_(&limits) {}
  bool allows(std::size_t n_states, std::size_t n_work) {
    if (limits_->n_work_left != nullptr) {
      const std::size_t n_new = n_work - n_counted_;
      if (n_new > *limits_->n_work_left) return false;
      *limits_->n_work_left -= n_new;
      n_counted_ = n_work;
    }
    return n_states <= limits_->n_states && n_work <= limits_->n_work;
  }

 private:
  const AutomatonLimits* limits_;
  std::size_t n_counted_ = 0;
};

void append_edge(std::vector<Dfa::Edge>& edges, Dfa::Edge edge) {
  if (!edges.empty() && edges.back().target == edge.target && edges.back().last + 1 == edge.first) {
    edges.back().last = edge.last;
  } else {
    edges.push_back(edge);
  }
}

}  // namespace

std::optional<std::uint32_t> Dfa::next(std::uint32_t state, std::uint32_t symbol) const {
  const std::vector<Edge>& edges = states[state].edges;
  const auto edge = std::partition_point(edges.begin(), edges.end(),
                                         [&](const Edge& e) { return e.last < symbol; });
  if (edge == edges.end() || edge->first > symbol) return std::nullopt;
  return edge->target;
}

bool Dfa::matches(std::string_view bytes) const {
  if (is_empty()) return false;
  std::uint32_t state = 0;
  for (const char c : bytes) {
    const auto after = next(state, static_cast<unsigned char>(c));
    if (!after) return false;
    state = *after;
  }
  return states[state].is_accepting;
}

Nfa::State Nfa::add_state() {
  states_.emplace_back();
  return static_cast<State>(states_.size() - 1);
}

void Nfa::add_edge(State from, std::uint32_t first, std::uint32_t last, State to) {
  states_[from].edges.push_back({first, last, to});
}

Nfa::State Nfa::add_text(State from, std::string_view text) {
  for (const char c : text) {
    const State to = add_state();
    add_edge(from, static_cast<unsigned char>(c), static_cast<unsigned char>(c), to);
    from = to;
  }
  return from;
}

Nfa::State Nfa::add_dfa(State from, const Dfa& dfa) {
  const auto base = static_cast<State>(states_.size());
  for (std::size_t i = 0; i < dfa.states.size(); ++i) add_state();
  const State end = add_state();
  if (!dfa.is_empty()) add_empty_edge(from, base);
  for (std::size_t i = 0; i < dfa.states.size(); ++i) {
    const auto state = base + static_cast<State>(i);
    for (const Dfa::Edge& edge : dfa.states[i].edges) {
      add_edge(state, edge.first, edge.last, base + edge.target);
    }
    if (dfa.states[i].is_accepting) add_empty_edge(state, end);
  }
  return end;
}

void Nfa::close(std::vector<State>& states, Marks& marks, std::size_t& n_work) const {
  ++marks.stamp;
  std::vector<State> pending;
  std::swap(pending, states);
  while (!pending.empty()) {
    const State state = pending.back();
    pending.pop_back();
    if (marks.stamps[state] == marks.stamp) continue;
    marks.stamps[state] = marks.stamp;
    states.push_back(state);
    pending.insert(pending.end(), states_[state].empty_edges.begin(),
                   states_[state].empty_edges.end());
    n_work += 1 + states_[state].empty_edges.size();
  }
  std::sort(states.begin(), states.end());
}

Result<Dfa> Nfa::determinize(const AutomatonLimits& limits) const {
  WorkMeter meter(limits);
  Dfa dfa;
  std::map<std::vector<State>, std::uint32_t> ids;
  std::vector<const std::vector<State>*> sets;
  std::size_t n_work = states_.size();
  const auto id_of = [&](std::vector<State> set) {
    const auto [entry, is_new] = ids.try_emplace(std::move(set), sets.size());
    if (is_new) {
      sets.push_back(&entry->first);
      dfa.states.emplace_back();
      for (const State state : entry->first) {
        if (states_[state].is_accepting) dfa.states.back().is_accepting = true;
      }
    }
    return entry->second;
  };
  Marks marks;
  marks.stamps.resize(states_.size());
  std::vector<State> first{start};
  close(first, marks, n_work);
  id_of(std::move(first));

  std::vector<Dfa::Edge> edges;
  std::vector<std::uint32_t> cuts;
  for (std::size_t i = 0; i < sets.size(); ++i) {
    edges.clear();
    cuts.clear();
    for (const State state : *sets[i]) {
      for (const Dfa::Edge& edge : states_[state].edges) {
        edges.push_back(edge);
        cuts.push_back(edge.first);
        cuts.push_back(edge.last + 1);
      }
    }
    std::sort(edges.begin(), edges.end(),
              [](const Dfa::Edge& a, const Dfa::Edge& b) { return a.first < b.first; });
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    std::vector<Dfa::Edge> made;
    std::vector<Dfa::Edge> open;  // those that cover the interval at hand
    std::size_t n_opened = 0;
    for (std::size_t c = 0; c + 1 < cuts.size(); ++c) {
      std::erase_if(open, [&](const Dfa::Edge& edge) { return edge.last < cuts[c]; });
      while (n_opened < edges.size() && edges[n_opened].first == cuts[c]) {
        open.push_back(edges[n_opened++]);
      }
      if (open.empty()) continue;
      std::vector<State> set;
      for (const Dfa::Edge& edge : open) set.push_back(edge.target);
      close(set, marks, n_work);
      n_work += open.size();
      append_edge(made, {cuts[c], cuts[c + 1] - 1, id_of(std::move(set))});
    }
    dfa.states[i].edges = std::move(made);
    if (!meter.allows(sets.size(), n_work)) return too_large(limits);
  }
  return trimmed(std::move(dfa));
}

Result<Dfa> intersect(const Dfa& a, const Dfa& b, const AutomatonLimits& limits) {
  if (a.is_empty() || b.is_empty()) return Dfa{};
  using Pair = std::pair<std::uint32_t, std::uint32_t>;
  WorkMeter meter(limits);
  Dfa both;
  std::map<Pair, std::uint32_t> ids;
  std::vector<Pair> pairs;
  const auto id_of = [&](Pair pair) {
    const auto [entry, is_new] = ids.try_emplace(pair, pairs.size());
    if (is_new) {
      pairs.push_back(pair);
      both.states.emplace_back();
      both.states.back().is_accepting =
          a.states[pair.first].is_accepting && b.states[pair.second].is_accepting;
    }
    return entry->second;
  };
  id_of({0, 0});
  std::size_t n_work = 0;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const std::vector<Dfa::Edge>& left = a.states[pairs[i].first].edges;
    const std::vector<Dfa::Edge>& right = b.states[pairs[i].second].edges;
    std::vector<Dfa::Edge> made;
    for (std::size_t l = 0, r = 0; l < left.size() && r < right.size(); ++n_work) {
      const std::uint32_t first = std::max(left[l].first, right[r].first);
      const std::uint32_t last = std::min(left[l].last, right[r].last);
      if (first <= last) append_edge(made, {first, last, id_of({left[l].target, right[r].target})});
      if (left[l].last < right[r].last) {
        ++l;
      } else {
        ++r;
      }
    }
    both.states[i].edges = std::move(made);
    if (!meter.allows(pairs.size(), ++n_work)) return too_large(limits);
  }
  return trimmed(std::move(both));
}

Dfa trimmed(Dfa dfa) {
  const std::size_t n_states = dfa.states.size();
  std::vector<std::vector<std::uint32_t>> sources(n_states);
  std::vector<char> is_live(n_states, 0);
  std::vector<std::uint32_t> pending;
  for (std::uint32_t i = 0; i < n_states; ++i) {
    for (const Dfa::Edge& edge : dfa.states[i].edges) sources[edge.target].push_back(i);
    if (dfa.states[i].is_accepting) {
      is_live[i] = 1;
      pending.push_back(i);
    }
  }
  while (!pending.empty()) {
    const std::uint32_t state = pending.back();
    pending.pop_back();
    for (const std::uint32_t source : sources[state]) {
      if (is_live[source]) continue;
      is_live[source] = 1;
      pending.push_back(source);
    }
  }
  if (n_states == 0 || !is_live[0]) return {};
  std::vector<std::uint32_t> new_ids(n_states, 0);
  std::uint32_t n_live = 0;
  for (std::size_t i = 0; i < n_states; ++i) {
    if (is_live[i]) new_ids[i] = n_live++;
  }
  Dfa kept;
  kept.states.reserve(n_live);
  for (std::size_t i = 0; i < n_states; ++i) {
    if (!is_live[i]) continue;
    Dfa::State& state = kept.states.emplace_back();
    state.is_accepting = dfa.states[i].is_accepting;
    for (Dfa::Edge edge : dfa.states[i].edges) {
      if (!is_live[edge.target]) continue;
      edge.target = new_ids[edge.target];
      append_edge(state.edges, edge);
    }
  }
  return kept;
}

}  // namespace lowbit
