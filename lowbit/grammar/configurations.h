// SPDX-License-Identifier: Apache-2.0
// Walks along a grammar byte by byte. A grammar is a nondeterministic pushdown automaton; a
// configuration is the set of all (state, stack) that the bytes so far can have led to. They are
// numbered as they are met and their successors remembered, so that walking a vocabulary a second
// time costs one look-up per byte, as with a deterministic automaton that nobody could build whole.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "lowbit/grammar/grammar.h"

namespace lowbit {

/// Not thread-safe.
class Configurations {
 public:
  using Id = std::int32_t;
  static constexpr Id dead = -1;

  explicit Configurations(std::shared_ptr<const Grammar> grammar);

  Id start() const { return start_; }
  /// The configuration after one more byte; dead if it may not follow.
  Id next(Id id, unsigned char byte) {
    const Id known = successors_[static_cast<std::size_t>(id)][byte];
    return known != unknown ? known : compute(id, byte);
  }
  /// The bytes so far are a whole text of the grammar.
  bool is_accepting(Id id) const { return sets_[static_cast<std::size_t>(id)]->is_accepting; }
  /// Nothing can follow.
  bool is_final(Id id) const { return sets_[static_cast<std::size_t>(id)]->threads.empty(); }

  /// What is known of a place between two characters of a string without looking at bytes.
  struct StringPlace {
    StringPart part = StringPart::none;  // of the characters that follow
    std::uint32_t n_least = 0;           // so many have to follow,
    std::uint32_t n_most = 0;            // and so many may (or GrammarNode::unlimited)
    Id end = dead;                       // after the last one
    Id others = dead;                    // the configuration without this way on
  };
  /// Of several ways on through strings, `any` before `plain`, it tells one.
  StringPlace string_place(Id id);

  /// The same configuration among others of the same grammar, which may have forgotten it.
  Id import(const Configurations& from, Id id);

  /// What is remembered; whoever finds it too much starts anew and imports what is in use.
  std::size_t n_configurations() const { return sets_.size(); }

 private:
  static constexpr Id unknown = -2;

  // A place in a text, and what comes after that text.
  struct Thread {
    std::uint32_t text, state, stack;
    bool operator==(const Thread&) const = default;
  };
  // Stacks share their lower parts. `index` is the child that comes next in a sequence, or how
  // often the child of a repeat has been seen.
  struct Frame {
    std::uint32_t below, node, index;
    bool operator==(const Frame&) const = default;
  };
  struct Set {
    std::vector<Thread> threads;  // in the order they were found, which decides whom a limit hits
    bool is_accepting = false;
    bool operator==(const Set&) const = default;
  };
  struct Hash {
    std::size_t operator()(const Frame& frame) const;
    std::size_t operator()(const Set& set) const;
  };

  Id compute(Id id, unsigned char byte);
  Id number_of(Set set);
  std::uint32_t push(std::uint32_t below, std::uint32_t node, std::uint32_t index);
  void add_thread(Set& set, Thread thread);
  void enter(Set& set, std::uint32_t node, std::uint32_t stack);
  void repeat(Set& set, std::uint32_t node, std::uint32_t count, std::uint32_t stack);
  void leave(Set& set, std::uint32_t stack);

  std::shared_ptr<const Grammar> grammar_;
  std::vector<Frame> frames_;  // 0 is the empty stack
  std::vector<int> levels_;    // rules that are open, by frame
  std::unordered_map<Frame, std::uint32_t, Hash> frame_ids_;
  std::unordered_map<Set, Id, Hash> set_ids_;
  std::vector<const Set*> sets_;
  std::vector<std::array<Id, 256>> successors_;
  std::size_t n_steps_ = 0;  // of the closure at hand
  Id start_ = dead;
};

}  // namespace lowbit
