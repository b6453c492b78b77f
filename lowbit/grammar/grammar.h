// SPDX-License-Identifier: Apache-2.0
// A language of byte strings: finite automata joined by sequence, choice, counted repetition and
// rules that may name each other. This is what schemas and tool calls are compiled to, once, and
// what configurations.h walks along. Repetitions keep their count beside them instead of being
// spelled out, so that maxLength 100000 costs one node.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/grammar/automaton.h"

namespace lowbit {

/// How deep rules may nest in a document; alternatives that would lead deeper are never offered.
inline constexpr int max_grammar_depth = 64;

struct GrammarNode {
  enum class Kind : std::uint8_t { text, sequence, choice, repeat, rule };
  static constexpr std::uint32_t unlimited = std::numeric_limits<std::uint32_t>::max();

  Kind kind = Kind::sequence;
  std::uint32_t id = 0;                      // text: the automaton; rule: the rule
  std::vector<std::uint32_t> children = {};  // nodes; one for repeat
  std::uint32_t min = 0, max = unlimited;    // of repeat
};

/// Texts that are one character of a JSON string get their masks without a walk (token_masks.h).
enum class StringPart : std::uint8_t {
  none,
  plain,  // a character that stands for itself: no quote, backslash or control character
  any     // or an escape: string_character() of json_text.h
};

struct GrammarText {
  Dfa dfa;
  StringPart part = StringPart::none;
};

class Grammar {
 public:
  std::uint32_t root() const { return root_; }
  const GrammarNode& node(std::uint32_t id) const { return nodes_[id]; }
  const GrammarText& text(std::uint32_t id) const { return texts_[id]; }
  std::uint32_t body(std::uint32_t rule) const { return rules_[rule]; }
  /// How many rules at least a text of this node nests; beyond max_grammar_depth if there is none.
  int height(std::uint32_t node) const { return heights_[node]; }

 private:
  friend class GrammarBuilder;
  std::vector<GrammarNode> nodes_;
  std::vector<GrammarText> texts_;
  std::vector<std::uint32_t> rules_;
  std::vector<int> heights_;
  std::uint32_t root_ = 0;
};

class GrammarBuilder {
 public:
  using Node = std::uint32_t;

  Node text(Dfa dfa, StringPart part = StringPart::none);
  Node literal(std::string_view bytes);
  Node sequence(std::vector<Node> parts);
  Node choice(std::vector<Node> alternatives);
  /// The child must not accept the empty text.
  Node repeat(Node child, std::uint32_t min, std::uint32_t max = GrammarNode::unlimited);
  /// A new rule, whose body comes later; naming it is a node.
  std::uint32_t add_rule();
  Node rule(std::uint32_t rule);
  void define(std::uint32_t rule, Node body) { grammar_.rules_[rule] = body; }

  /// True once the grammar is larger than anybody needs; whoever builds stops then.
  bool is_too_large() const;
  /// A node that must have texts, and where it came from.
  struct Needed {
    Node node;
    std::string place;
  };
  /// An Error if no text at all is accepted, or only by nesting too deep, by the root or by one of
  /// the nodes that must have some.
  Result<std::shared_ptr<const Grammar>> finish(Node root, const std::vector<Needed>& needed = {});

 private:
  Node add(GrammarNode node);

  Grammar grammar_;
  std::map<std::string, Node, std::less<>> literals_;
  std::size_t n_states_ = 0, n_children_ = 0;
};

}  // namespace lowbit
