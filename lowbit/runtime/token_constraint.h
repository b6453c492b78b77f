// SPDX-License-Identifier: Apache-2.0
// What may come next in one sequence: the side of constrained decoding that the engine sees. Who
// compiles schemas or grammars implements it.
#pragma once

#include <cstdint>
#include <span>

namespace lowbit {

constexpr std::int64_t token_mask_word_bits = 64;
constexpr std::int64_t token_mask_words(std::int64_t n_vocab) {
  return (n_vocab + token_mask_word_bits - 1) / token_mask_word_bits;
}

/// Belongs to one request and remembers what was accepted. The engine calls it inside step().
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  /// Bit i % 64 of word i / 64: token i may follow. (token_mask_words(n_vocab)), zero before the
  /// call. A mask without a token ends the answer.
  virtual void fill_mask(std::span<std::uint64_t> allowed) = 0;
  /// A token of the mask was chosen.
  virtual void accept(std::int32_t token) = 0;
  /// Nothing may follow but an end token: the answer ends without one.
  virtual bool is_complete() const = 0;
};

}  // namespace lowbit
