// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/configurations.h"

#include <algorithm>
#include <utility>

namespace lowbit {
namespace {

// A set never holds more threads, and never takes more steps to find: of a grammar with more
// readings of the same text only the first ones are followed. What is generated stays valid, since
// each thread alone can be completed; only some valid texts are no longer reached.
constexpr std::size_t max_threads = 320, max_steps = 8192;

std::size_t mix(std::size_t hash, std::size_t value) {
  constexpr std::size_t golden = 0x9E3779B97F4A7C15;
  hash = (hash ^ value) * golden;
  return hash ^ (hash >> 29);
}

}  // namespace

std::size_t Configurations::Hash::operator()(const Frame& frame) const {
  return mix(mix(frame.below, frame.node), frame.index);
}

std::size_t Configurations::Hash::operator()(const Set& set) const {
  std::size_t hash = set.is_accepting ? 1 : 0;
  for (const Thread& thread : set.threads) {
    hash = mix(mix(mix(hash, thread.text), thread.state), thread.stack);
  }
  return hash;
}

Configurations::Configurations(std::shared_ptr<const Grammar> grammar)
    : grammar_(std::move(grammar)), frames_{Frame{0, 0, 0}}, levels_{0} {
  Set set;
  enter(set, grammar_->root(), 0);
  start_ = number_of(std::move(set));
}

Configurations::Id Configurations::compute(Id id, unsigned char byte) {
  const std::vector<Thread>& threads = sets_[static_cast<std::size_t>(id)]->threads;
  Set after;
  n_steps_ = 0;
  for (const Thread& thread : threads) {
    const Dfa& dfa = grammar_->text(thread.text).dfa;
    const auto state = dfa.next(thread.state, byte);
    if (!state) continue;
    if (!dfa.states[*state].edges.empty()) {
      add_thread(after, {thread.text, *state, thread.stack});
    }
    if (dfa.states[*state].is_accepting) leave(after, thread.stack);
  }
  const bool is_dead = after.threads.empty() && !after.is_accepting;
  const Id successor = is_dead ? dead : number_of(std::move(after));
  successors_[static_cast<std::size_t>(id)][byte] = successor;
  return successor;
}

Configurations::Id Configurations::number_of(Set set) {
  const auto [entry, is_new] = set_ids_.try_emplace(std::move(set), static_cast<Id>(sets_.size()));
  if (is_new) {
    sets_.push_back(&entry->first);
    successors_.emplace_back().fill(unknown);
  }
  return entry->second;
}

std::uint32_t Configurations::push(std::uint32_t below, std::uint32_t node, std::uint32_t index) {
  const auto [entry, is_new] =
      frame_ids_.try_emplace(Frame{below, node, index}, static_cast<std::uint32_t>(frames_.size()));
  if (is_new) {
    frames_.push_back(entry->first);
    const bool is_rule = grammar_->node(node).kind == GrammarNode::Kind::rule;
    levels_.push_back(levels_[below] + (is_rule ? 1 : 0));
  }
  return entry->second;
}

void Configurations::add_thread(Set& set, Thread thread) {
  if (set.threads.size() >= max_threads) return;
  if (std::find(set.threads.begin(), set.threads.end(), thread) != set.threads.end()) return;
  set.threads.push_back(thread);
}

void Configurations::enter(Set& set, std::uint32_t id, std::uint32_t stack) {
  if (++n_steps_ > max_steps) return;
  // What fits when it is entered can be completed: its height counts the best way through it.
  if (levels_[stack] + grammar_->height(id) > max_grammar_depth) return;
  const GrammarNode& node = grammar_->node(id);
  switch (node.kind) {
    case GrammarNode::Kind::text: {
      const Dfa& dfa = grammar_->text(node.id).dfa;
      if (!dfa.states[0].edges.empty()) add_thread(set, {node.id, 0, stack});
      if (dfa.states[0].is_accepting) leave(set, stack);
      return;
    }
    case GrammarNode::Kind::sequence:
      if (node.children.empty()) return leave(set, stack);
      return enter(set, node.children[0], push(stack, id, 1));
    case GrammarNode::Kind::choice:
      for (const std::uint32_t child : node.children) enter(set, child, stack);
      return;
    case GrammarNode::Kind::repeat:
      return repeat(set, id, 0, stack);
    case GrammarNode::Kind::rule:
      return enter(set, grammar_->body(node.id), push(stack, id, 0));
  }
}

// The child has been seen `count` times.
void Configurations::repeat(Set& set, std::uint32_t id, std::uint32_t count, std::uint32_t stack) {
  const GrammarNode& node = grammar_->node(id);
  if (count < node.max) {
    // Without a maximum counts beyond the minimum make no difference.
    const bool is_enough = node.max == GrammarNode::unlimited && count > node.min;
    enter(set, node.children[0], push(stack, id, is_enough ? count : count + 1));
  }
  if (count >= node.min) leave(set, stack);
}

void Configurations::leave(Set& set, std::uint32_t stack) {
  if (++n_steps_ > max_steps) return;
  if (stack == 0) {
    set.is_accepting = true;
    return;
  }
  const Frame frame = frames_[stack];
  const GrammarNode& node = grammar_->node(frame.node);
  switch (node.kind) {
    case GrammarNode::Kind::sequence: {
      // The last child needs no frame: long lists do not grow the stack.
      const bool is_last = frame.index + 1 >= node.children.size();
      if (frame.index >= node.children.size()) return leave(set, frame.below);
      return enter(set, node.children[frame.index],
                   is_last ? frame.below : push(frame.below, frame.node, frame.index + 1));
    }
    case GrammarNode::Kind::repeat:
      return repeat(set, frame.node, frame.index, frame.below);
    default:
      return leave(set, frame.below);
  }
}

Configurations::StringPlace Configurations::string_place(Id id) {
  const Set& set = *sets_[static_cast<std::size_t>(id)];
  StringPlace place;
  const Thread* found = nullptr;
  for (const Thread& thread : set.threads) {
    const GrammarText& text = grammar_->text(thread.text);
    const bool is_at_start = thread.state == 0 && thread.stack != 0 && text.part > place.part;
    if (!is_at_start) continue;
    if (grammar_->node(frames_[thread.stack].node).kind != GrammarNode::Kind::repeat) continue;
    found = &thread;
    place.part = text.part;
  }
  place.others = id;
  if (found == nullptr) return place;

  // The frame counts the character that is about to come.
  const Frame frame = frames_[found->stack];
  const GrammarNode& node = grammar_->node(frame.node);
  const bool is_unlimited = node.max == GrammarNode::unlimited;
  place.n_most = is_unlimited ? GrammarNode::unlimited : node.max - frame.index + 1;
  place.n_least = node.min < frame.index ? 0 : node.min - frame.index + 1;
  Set others, end;
  for (const Thread& thread : set.threads) {
    if (&thread != found) others.threads.push_back(thread);
  }
  place.others = others.threads.empty() ? dead : number_of(std::move(others));
  n_steps_ = 0;
  leave(end, frame.below);
  place.end = number_of(std::move(end));
  return place;
}

Configurations::Id Configurations::import(const Configurations& from, Id id) {
  const Set& set = *from.sets_[static_cast<std::size_t>(id)];
  Set copy;
  copy.is_accepting = set.is_accepting;
  for (const Thread& thread : set.threads) {
    std::vector<Frame> frames;
    for (std::uint32_t stack = thread.stack; stack != 0; stack = from.frames_[stack].below) {
      frames.push_back(from.frames_[stack]);
    }
    std::uint32_t stack = 0;
    for (auto frame = frames.rbegin(); frame != frames.rend(); ++frame) {
      stack = push(stack, frame->node, frame->index);
    }
    copy.threads.push_back({thread.text, thread.state, stack});
  }
  return number_of(std::move(copy));
}

}  // namespace lowbit
