// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding of one piece of text: start from single bytes, again and again merge the pair
// of lowest rank (the leftmost among equals). A short piece is scanned for its best pair, a long
// one uses a heap over a linked list, so that 1 MB in one piece costs O(n log n). Works on token
// ids: a pair of ids is one 64-bit key, no strings are touched.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace lowbit {

using TokenId = std::int32_t;
inline constexpr TokenId no_token = -1;
inline constexpr std::size_t n_byte_values = 256;

class Bpe {
 public:
  struct Merge {
    TokenId left, right, result;  // its rank is its index in the list
  };
  /// Memory that is reused from piece to piece.
  struct Scratch {
    struct Symbol {
      TokenId id;
      std::uint32_t previous, next;  // indices of symbols
    };
    struct Candidate {
      std::uint64_t order;  // rank, then index of the left symbol
      TokenId left, right;  // ids when it was found; stale if they have changed since
      TokenId result;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  /// byte_tokens: the token of each byte, or no_token. Such a byte is left out before merging, as
  /// Hugging Face tokenizers do. Of two merges of one pair the first counts.
  static Bpe create(const std::array<TokenId, n_byte_values>& byte_tokens,
                    std::span<const Merge> merges);

  /// Appends the tokens of a piece of fewer than 2^31 bytes.
  void encode(std::string_view piece, std::vector<TokenId>& ids, Scratch& scratch) const;

 private:
  struct Slot {
    std::uint64_t pair = 0;
    std::uint32_t rank = no_rank;  // no_rank: the slot is empty
    TokenId result = no_token;
  };
  static constexpr std::uint32_t no_rank = UINT32_MAX;
  static const Slot no_merge;

  /// The merge of two neighbours; rank is no_rank if there is none.
  const Slot& find(TokenId left, TokenId right) const;
  void encode_short(std::string_view piece, std::vector<TokenId>& ids) const;
  void encode_long(std::string_view piece, std::vector<TokenId>& ids, Scratch& scratch) const;

  std::array<TokenId, n_byte_values> byte_tokens_{};
  std::vector<Slot> slots_;  // open addressing, at most half full
  int shift_ = 0;            // 64 - log2(slots)
};

}  // namespace lowbit
