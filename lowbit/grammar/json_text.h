// SPDX-License-Identifier: Apache-2.0
// The fixed parts of JSON as grammar: strings, keys and what stands between values. White space is
// where printers put it, after brackets, commas and colons and before a closing bracket, and
// bounded: one space, or a line break with an indentation. Models that are free to do so emit
// spaces for ever.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "lowbit/grammar/grammar.h"

namespace lowbit {

inline constexpr int max_indentation = 40;

/// One character of a string, or an escape, as bytes. Surrogates come in pairs, or the text would
/// not be Unicode.
Dfa string_character();

class JsonText {
 public:
  using Node = GrammarBuilder::Node;
  explicit JsonText(GrammarBuilder& builder);

  /// The bytes, then perhaps white space.
  Node with_space_after(std::string_view bytes);
  Node with_space_before(std::string_view bytes);
  /// A string of min to max characters; an escape, or a pair of them, is one.
  Node string(std::uint32_t min, std::uint32_t max = GrammarNode::unlimited);
  /// A key with its colon that is none of the names. Only without names may it have escapes, which
  /// could spell one of them.
  Node other_key(const std::vector<std::string_view>& names);

 private:
  GrammarBuilder* builder_;
  Node character_;      // of a string
  Node key_character_;  // without escapes
  std::map<std::string, Node, std::less<>> spaced_;
};

}  // namespace lowbit
