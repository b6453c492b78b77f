// SPDX-License-Identifier: Apache-2.0
// Which tokens may follow: a grammar and a vocabulary brought together. Masks are kept by
// configuration and shared by all sequences under the same schema; a server keeps one TokenMasks
// per schema. A mask that is not known yet costs one walk over the tokens that are not plain text,
// inside strings, and little more than the tokens that are allowed elsewhere.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "lowbit/grammar/configurations.h"
#include "lowbit/grammar/grammar.h"
#include "lowbit/grammar/token_vocabulary.h"
#include "lowbit/runtime/token_constraint.h"

namespace lowbit {

/// May be used by several threads; sequences under the same schema wait for each other.
class TokenMasks {
 public:
  /// About max_bytes are remembered; then it begins anew.
  TokenMasks(std::shared_ptr<const Grammar> grammar,
             std::shared_ptr<const TokenVocabulary> vocabulary,
             std::size_t max_bytes = std::size_t{32} << 20);

  /// A place in a document. Belongs to one sequence.
  class Place {
   private:
    friend class TokenMasks;
    std::shared_ptr<Configurations> configurations;
    Configurations::Id id = Configurations::dead;
    bool is_ended = false;
  };
  Place start();
  void fill_mask(Place& place, std::span<std::uint64_t> allowed);
  /// After a token that may not follow, nothing but an end may.
  void accept(Place& place, TokenId token);
  bool is_complete(const Place& place);

 private:
  using Mask = std::vector<std::uint64_t>;
  void bring_up_to_date(Place& place);
  Mask compute(Configurations::Id id);
  // Calls take(token) for every token of the trie that may follow.
  template <class Take>
  void walk(const TokenTrie& trie, Configurations::Id id, Take take);

  std::mutex mutex_;
  std::shared_ptr<const Grammar> grammar_;
  std::shared_ptr<const TokenVocabulary> vocabulary_;
  std::size_t max_bytes_;
  std::shared_ptr<Configurations> configurations_;
  std::unordered_map<Configurations::Id, Mask> masks_;
  std::vector<Configurations::Id> path_;  // of a walk, by depth
};

/// A sequence that follows the grammar from its beginning.
std::unique_ptr<TokenConstraint> constrain(std::shared_ptr<TokenMasks> masks);
std::unique_ptr<TokenConstraint> constrain(std::shared_ptr<const Grammar> grammar,
                                           std::shared_ptr<const TokenVocabulary> vocabulary);

}  // namespace lowbit
