// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/vocabulary.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace lowbit {
namespace {

constexpr std::size_t min_slots = 16;

// Eight bytes at a time, each mixed by a multiplication and a shift. Tokens are short: one or two
// rounds.
std::uint64_t hash_of(std::string_view bytes) {
  constexpr std::uint64_t golden_ratio = 0x9e3779b97f4a7c15u;
  std::uint64_t hash = bytes.size() * golden_ratio;
  for (std::size_t at = 0; at < bytes.size(); at += sizeof hash) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min(sizeof word, bytes.size() - at));
    hash = (hash ^ word) * golden_ratio;
    hash ^= hash >> 29;
  }
  return hash * golden_ratio;
}

std::uint32_t tag_of(std::uint64_t hash) {
  return static_cast<std::uint32_t>(hash);
}

}  // namespace

Vocabulary::Vocabulary(std::size_t n_tokens, std::size_t n_bytes)
    : starts_{0}, slots_(std::bit_ceil(std::max(2 * n_tokens, min_slots))) {
  starts_.reserve(n_tokens + 1);
  bytes_.reserve(n_bytes);
}

void Vocabulary::add(std::string_view bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  starts_.push_back(bytes_.size());
}

std::string_view Vocabulary::bytes(TokenId id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= n_tokens()) return {};
  const auto i = static_cast<std::size_t>(id);
  return {bytes_.data() + starts_[i], starts_[i + 1] - starts_[i]};
}

std::size_t Vocabulary::slot_of(std::string_view wanted) const {
  const std::uint64_t hash = hash_of(wanted);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t i = static_cast<std::size_t>(hash >> 32) & mask;; i = (i + 1) & mask) {
    const Slot& slot = slots_[i];
    if (slot.id == no_token) return i;
    if (slot.tag == tag_of(hash) && bytes(slot.id) == wanted) return i;
  }
}

bool Vocabulary::index(TokenId id) {
  if (2 * (n_indexed_ + 1) > slots_.size()) grow();
  Slot& slot = slots_[slot_of(bytes(id))];
  if (slot.id != no_token) return false;
  slot = {tag_of(hash_of(bytes(id))), id};
  ++n_indexed_;
  return true;
}

std::optional<TokenId> Vocabulary::find(std::string_view bytes) const {
  const Slot& slot = slots_[slot_of(bytes)];
  if (slot.id == no_token) return std::nullopt;
  return slot.id;
}

void Vocabulary::grow() {
  std::vector<Slot> old(2 * slots_.size());
  std::swap(old, slots_);
  for (const Slot& slot : old) {
    if (slot.id != no_token) slots_[slot_of(bytes(slot.id))] = slot;
  }
}

}  // namespace lowbit
