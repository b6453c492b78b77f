// SPDX-License-Identifier: Apache-2.0
// The bytes of every token and the way back from bytes to ids. Loading looks up three texts per
// merge, 800,000 in a large vocabulary, and counts towards the time to the first token: a flat
// table of ids halves it against std::unordered_map.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "lowbit/model/bpe.h"

namespace lowbit {

class Vocabulary {
 public:
  /// n_tokens tokens and n_bytes bytes are expected; more are possible.
  Vocabulary(std::size_t n_tokens, std::size_t n_bytes);

  std::size_t n_tokens() const { return starts_.size() - 1; }
  /// The next token. Whether find() knows it is index()'s affair.
  void add(std::string_view bytes);
  /// Empty for an id that is none.
  std::string_view bytes(TokenId id) const;

  /// Makes a token known to find(); false if another with the same bytes is already.
  bool index(TokenId id);
  std::optional<TokenId> find(std::string_view bytes) const;

 private:
  struct Slot {
    std::uint32_t tag = 0;  // half of the hash: spares most comparisons
    TokenId id = no_token;
  };
  /// The slot of these bytes, or the empty one where they belong.
  std::size_t slot_of(std::string_view bytes) const;
  void grow();

  std::vector<char> bytes_;          // one token behind the other
  std::vector<std::size_t> starts_;  // of token i; one more at the end
  std::vector<Slot> slots_;          // open addressing, at most half full
  std::size_t n_indexed_ = 0;
};

}  // namespace lowbit
