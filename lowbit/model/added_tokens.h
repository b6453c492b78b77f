// SPDX-License-Identifier: Apache-2.0
// Finds the tokens that stand for themselves in a text ("<|im_end|>", runs of spaces) before the
// rest is cut and merged. The longest match at the leftmost place wins, as in Hugging Face
// tokenizers; a sorted list is narrowed character by character, a trie would hold the same.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/model/bpe.h"

namespace lowbit {

struct AddedToken {
  TokenId id = no_token;
  std::string content;
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
  bool single_word = false;  // not inside a word
  bool normalized = false;   // looked for in the normalized text, not in the raw one
  bool markup = true;        // recognised only in trusted text
};

/// True if the token looks like markup rather than text: it holds ASCII punctuation ("<think>",
/// "[INST]"). Tokens of plain characters ("    ") have no power over a chat and are recognised in
/// everybody's text, because the model was trained on them there. (Control tokens are markup
/// whatever they look like.)
bool is_markup(std::string_view content);

/// Bytes [begin, end) of a text that may hold markup tokens. Ranges are in order and apart.
struct TrustedRange {
  std::size_t begin, end;
};

class AddedTokens {
 public:
  /// Bytes of a text that are one added token, or text between such (id is no_token).
  struct Segment {
    std::size_t begin, end;
    TokenId id;
  };

  explicit AddedTokens(std::vector<AddedToken> tokens = {});
  bool empty() const { return tokens_.empty(); }
  const AddedToken* find(std::string_view content) const;

  /// Appends the segments of text, none of them empty. A markup token is found only where it lies
  /// within one trusted range.
  void split(std::string_view text, std::span<const TrustedRange> trusted,
             std::vector<Segment>& segments) const;

 private:
  const AddedToken* longest_at(std::string_view text, std::size_t at,
                               std::size_t trusted_end) const;

  std::vector<AddedToken> tokens_;  // sorted by content, each content once
  std::array<bool, n_byte_values> is_first_byte_{};
};

}  // namespace lowbit
