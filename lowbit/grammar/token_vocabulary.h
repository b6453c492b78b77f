// SPDX-License-Identifier: Apache-2.0
// A vocabulary in the order in which masks are found. Everything is a trie of token bytes; but what
// tokens mean between two characters of a JSON string is known beforehand, and most masks are asked
// for there: tokens that stay inside the string are masks by their number of characters, and those
// that end it are a small trie of what they have from the quote on. Tokens of plain characters
// alone (no quote, backslash, control character or broken character) are most of a vocabulary and
// have a trie of their own.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/model/tokenizer.h"

namespace lowbit {

/// Tries in the order of a walk: a node's children follow it, `end` is behind the last of them.
class TokenTrie {
 public:
  struct Node {
    std::uint32_t end;
    std::uint32_t first_token;  // in tokens(); the next node's is behind this node's last
    std::uint16_t depth;        // bytes up to and with this one
    unsigned char byte;
  };
  struct Token {
    std::string_view bytes;
    TokenId id;
  };
  /// Of tokens that are not empty; longer ones than 2^16 bytes are left out.
  explicit TokenTrie(std::vector<Token> tokens);

  /// One more node than there are: the end of everything.
  std::span<const Node> nodes() const { return nodes_; }
  std::span<const TokenId> tokens() const { return tokens_; }
  std::size_t max_depth() const { return max_depth_; }

 private:
  std::vector<Node> nodes_;
  std::vector<TokenId> tokens_;
  std::size_t max_depth_ = 0;
};

class TokenVocabulary {
 public:
  /// Bytes by id; empty: never allowed. End tokens are allowed where a document may end, whatever
  /// their bytes. An Error if some byte that every JSON text needs is no token of its own.
  static Result<std::shared_ptr<const TokenVocabulary>> create(std::vector<std::string> tokens,
                                                               std::vector<TokenId> end_ids);
  /// Control tokens have no bytes here, except those whose text is one of the markers: models whose
  /// "<tool_call>" is a control token need that.
  static Result<std::shared_ptr<const TokenVocabulary>> create(
      const Tokenizer& tokenizer, std::span<const std::string_view> markers);

  std::size_t n_tokens() const { return tokens_.size(); }
  std::size_t n_mask_words() const { return (tokens_.size() + 63) / 64; }
  /// Empty outside the vocabulary.
  std::string_view bytes(TokenId id) const;
  bool is_end(TokenId id) const;
  std::span<const TokenId> end_ids() const { return end_ids_; }

  const TokenTrie& plain() const { return plain_; }
  const TokenTrie& others() const { return others_; }
  /// Tokens of at most so many plain characters, as a mask.
  std::span<const std::uint64_t> plain_of(std::uint32_t max_chars) const;
  /// Tokens that begin at most so many characters of a string, escapes and parts of characters
  /// included, and do not end it.
  std::span<const std::uint64_t> inside_of(std::uint32_t max_chars) const;
  /// Tokens that end a string, from the quote on; how many characters they have before it.
  const TokenTrie& closing() const { return closing_; }
  std::uint32_t n_chars_before_quote(TokenId id) const {
    return n_chars_[static_cast<std::size_t>(id)];
  }

 private:
  TokenVocabulary(std::vector<std::string> tokens, std::vector<TokenId> end_ids,
                  std::vector<TokenTrie::Token> plain, std::vector<TokenTrie::Token> others);

  std::vector<std::string> tokens_;
  std::vector<TokenId> end_ids_;  // sorted
  TokenTrie plain_, others_;
  using Masks = std::vector<std::vector<std::uint64_t>>;  // by number of characters, from 0
  void sort_by_string();

  Masks plain_masks_, inside_masks_;
  TokenTrie closing_;
  std::vector<std::uint32_t> n_chars_;  // by token
};

}  // namespace lowbit
