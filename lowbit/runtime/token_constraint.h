// SPDX-License-Identifier: Apache-2.0
// What a sequence may be continued with: the engine asks for a mask before it samples and says
// afterwards which token it took. Grammars implement it (grammar/token_masks.h); the engine knows
// nothing of them.
#pragma once

#include <cstdint>
#include <span>

namespace lowbit {

/// What may come next in one sequence. Used by the engine's thread; `fill_mask` may be computed
/// ahead by another.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  /// Bit i % 64 of word i / 64: token i may follow; (n_vocab + 63) / 64 words.
  virtual void fill_mask(std::span<std::uint64_t> allowed) = 0;
  /// A token of the mask was chosen.
  virtual void accept(std::int32_t token) = 0;
  /// Nothing may follow but an end token.
  virtual bool is_complete() const = 0;
};

}  // namespace lowbit
