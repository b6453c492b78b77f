// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/token_masks.h"

#include <algorithm>
#include <utility>

#include "lowbit/base/assert.h"

namespace lowbit {
namespace {

constexpr std::size_t word_bits = 64;
// What a configuration takes: its successors, and about as much for its threads.
constexpr std::size_t configuration_bytes = 2048;

void set_bit(std::span<std::uint64_t> mask, TokenId id) {
  const auto bit = static_cast<std::size_t>(id);
  mask[bit / word_bits] |= std::uint64_t{1} << (bit % word_bits);
}

class GrammarConstraint : public TokenConstraint {
 public:
  explicit GrammarConstraint(std::shared_ptr<TokenMasks> masks)
      : masks_(std::move(masks)), place_(masks_->start()) {}
  void fill_mask(std::span<std::uint64_t> allowed) override { masks_->fill_mask(place_, allowed); }
  void accept(std::int32_t token) override { masks_->accept(place_, token); }
  bool is_complete() const override { return masks_->is_complete(place_); }

 private:
  std::shared_ptr<TokenMasks> masks_;
  TokenMasks::Place place_;
};

}  // namespace

TokenMasks::TokenMasks(std::shared_ptr<const Grammar> grammar,
                       std::shared_ptr<const TokenVocabulary> vocabulary, std::size_t max_bytes)
    : grammar_(std::move(grammar)),
      vocabulary_(std::move(vocabulary)),
      max_bytes_(max_bytes),
      configurations_(std::make_shared<Configurations>(grammar_)),
      path_(std::max(vocabulary_->plain().max_depth(), vocabulary_->others().max_depth()) + 1) {}

TokenMasks::Place TokenMasks::start() {
  const std::lock_guard lock(mutex_);
  Place place;
  place.configurations = configurations_;
  place.id = configurations_->start();
  return place;
}

void TokenMasks::fill_mask(Place& place, std::span<std::uint64_t> allowed) {
  LOWBIT_ASSERT(allowed.size() >= vocabulary_->n_mask_words());
  const std::lock_guard lock(mutex_);
  bring_up_to_date(place);
  std::fill(allowed.begin(), allowed.end(), std::uint64_t{0});
  if (place.is_ended) {
    for (const TokenId id : vocabulary_->end_ids()) set_bit(allowed, id);
    return;
  }
  auto known = masks_.find(place.id);
  if (known == masks_.end()) known = masks_.emplace(place.id, compute(place.id)).first;
  std::copy(known->second.begin(), known->second.end(), allowed.begin());
}

void TokenMasks::accept(Place& place, TokenId token) {
  const std::lock_guard lock(mutex_);
  bring_up_to_date(place);
  if (place.is_ended) return;
  const std::string_view bytes = vocabulary_->bytes(token);
  Configurations::Id id = bytes.empty() ? Configurations::dead : place.id;
  for (std::size_t i = 0; i < bytes.size() && id != Configurations::dead; ++i) {
    id = configurations_->next(id, static_cast<unsigned char>(bytes[i]));
  }
  if (id == Configurations::dead) {
    place.is_ended = true;
  } else {
    place.id = id;
  }
}

bool TokenMasks::is_complete(const Place& place) {
  const std::lock_guard lock(mutex_);
  return place.is_ended || place.configurations->is_final(place.id);
}

// What is remembered is given up as a whole when it has become too much; a place that was found
// among the old configurations keeps them until it moves over.
void TokenMasks::bring_up_to_date(Place& place) {
  const std::size_t n_bytes = configurations_->n_configurations() * configuration_bytes +
                              masks_.size() * vocabulary_->n_mask_words() * sizeof(std::uint64_t);
  if (n_bytes > max_bytes_) {
    configurations_ = std::make_shared<Configurations>(grammar_);
    masks_.clear();
  }
  if (place.configurations == configurations_) return;
  place.id = configurations_->import(*place.configurations, place.id);
  place.configurations = configurations_;
}

template <class Take>
void TokenMasks::walk(const TokenTrie& trie, Configurations::Id id, Take take) {
  const std::span<const TokenTrie::Node> nodes = trie.nodes();
  path_[0] = id;
  for (std::size_t i = 0; i + 1 < nodes.size();) {
    const TokenTrie::Node& node = nodes[i];
    const Configurations::Id after = configurations_->next(path_[node.depth - 1u], node.byte);
    if (after == Configurations::dead) {
      i = node.end;
      continue;
    }
    path_[node.depth] = after;
    ++i;
    for (std::uint32_t t = node.first_token; t < nodes[i].first_token; ++t) {
      take(trie.tokens()[t]);
    }
  }
}

TokenMasks::Mask TokenMasks::compute(Configurations::Id id) {
  Mask mask(vocabulary_->n_mask_words(), 0);
  const auto take = [&](TokenId token) { set_bit(mask, token); };
  Configurations::Id rest = id;
  Configurations::StringPlace string = configurations_->string_place(rest);
  for (; string.part == StringPart::any; string = configurations_->string_place(rest)) {
    const std::span<const std::uint64_t> inside = vocabulary_->inside_of(string.n_most);
    for (std::size_t w = 0; w < mask.size(); ++w) mask[w] |= inside[w];
    walk(vocabulary_->closing(), string.end, [&](TokenId token) {
      const std::uint32_t n_chars = vocabulary_->n_chars_before_quote(token);
      if (n_chars >= string.n_least && n_chars <= string.n_most) set_bit(mask, token);
    });
    rest = string.others;
    if (rest == Configurations::dead) break;
  }
  // In strings of plain characters other tokens (a quote, half a character) are walked.
  if (rest != Configurations::dead) {
    if (string.part == StringPart::plain) {
      const std::span<const std::uint64_t> plain = vocabulary_->plain_of(string.n_most);
      for (std::size_t w = 0; w < mask.size(); ++w) mask[w] |= plain[w];
    }
    if (string.others != Configurations::dead) walk(vocabulary_->plain(), string.others, take);
    walk(vocabulary_->others(), rest, take);
  }
  bool may_end = configurations_->is_accepting(id);
  // Only a vocabulary without tokens for some bytes leads here; generation must end somehow.
  may_end |= std::all_of(mask.begin(), mask.end(), [](std::uint64_t word) { return word == 0; });
  if (may_end) {
    for (const TokenId end : vocabulary_->end_ids()) set_bit(mask, end);
  }
  return mask;
}

std::unique_ptr<TokenConstraint> constrain(std::shared_ptr<TokenMasks> masks) {
  return std::make_unique<GrammarConstraint>(std::move(masks));
}

std::unique_ptr<TokenConstraint> constrain(std::shared_ptr<const Grammar> grammar,
                                           std::shared_ptr<const TokenVocabulary> vocabulary) {
  return constrain(std::make_shared<TokenMasks>(std::move(grammar), std::move(vocabulary)));
}

}  // namespace lowbit
