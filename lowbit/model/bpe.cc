// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/bpe.h"

#include <algorithm>
#include <bit>

namespace lowbit {
namespace {

// Scanning beats the heap up to about here; words are far below.
constexpr std::size_t max_short_bytes = 48;
constexpr std::uint32_t no_symbol = UINT32_MAX;

std::uint64_t pair_of(TokenId left, TokenId right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

std::size_t first_slot(std::uint64_t pair, int shift) {
  constexpr std::uint64_t golden_ratio = 0x9e3779b97f4a7c15u;  // Fibonacci hashing
  return static_cast<std::size_t>((pair * golden_ratio) >> shift);
}

}  // namespace

const Bpe::Slot Bpe::no_merge{};

Bpe Bpe::create(const std::array<TokenId, n_byte_values>& byte_tokens,
                std::span<const Merge> merges) {
  Bpe bpe;
  bpe.byte_tokens_ = byte_tokens;
  const std::size_t n_slots = std::bit_ceil(std::max<std::size_t>(2 * merges.size(), 2));
  bpe.slots_.resize(n_slots);
  bpe.shift_ = 64 - std::countr_zero(n_slots);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    const std::uint64_t pair = pair_of(merge.left, merge.right);
    std::size_t i = first_slot(pair, bpe.shift_);
    while (bpe.slots_[i].rank != no_rank && bpe.slots_[i].pair != pair) i = (i + 1) % n_slots;
    if (bpe.slots_[i].rank == no_rank) {
      bpe.slots_[i] = {pair, static_cast<std::uint32_t>(rank), merge.result};
    }
  }
  return bpe;
}

const Bpe::Slot& Bpe::find(TokenId left, TokenId right) const {
  const std::uint64_t pair = pair_of(left, right);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t i = first_slot(pair, shift_);; i = (i + 1) & mask) {
    const Slot& slot = slots_[i];
    if (slot.rank == no_rank) return no_merge;
    if (slot.pair == pair) return slot;
  }
}

void Bpe::encode(std::string_view piece, std::vector<TokenId>& ids, Scratch& scratch) const {
  if (piece.size() <= max_short_bytes) {
    encode_short(piece, ids);
  } else {
    encode_long(piece, ids, scratch);
  }
}

void Bpe::encode_short(std::string_view piece, std::vector<TokenId>& ids) const {
  std::array<TokenId, max_short_bytes> symbols;
  std::array<Slot, max_short_bytes> merges;  // merges[i] joins symbols i and i + 1
  std::size_t n_symbols = 0;
  for (const char c : piece) {
    const TokenId id = byte_tokens_[static_cast<std::uint8_t>(c)];
    if (id != no_token) symbols[n_symbols++] = id;
  }
  for (std::size_t i = 0; i + 1 < n_symbols; ++i) merges[i] = find(symbols[i], symbols[i + 1]);

  while (n_symbols > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < n_symbols; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == no_rank) break;
    symbols[best] = merges[best].result;
    --n_symbols;
    for (std::size_t i = best + 1; i < n_symbols; ++i) {
      symbols[i] = symbols[i + 1];
      merges[i - 1] = merges[i];
    }
    if (best > 0) merges[best - 1] = find(symbols[best - 1], symbols[best]);
    if (best + 1 < n_symbols) merges[best] = find(symbols[best], symbols[best + 1]);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.begin() + static_cast<std::ptrdiff_t>(n_symbols));
}

void Bpe::encode_long(std::string_view piece, std::vector<TokenId>& ids, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  symbols.clear();
  heap.clear();
  for (const char c : piece) {
    const TokenId id = byte_tokens_[static_cast<std::uint8_t>(c)];
    const auto i = static_cast<std::uint32_t>(symbols.size());
    if (id != no_token) symbols.push_back({id, i - 1, i + 1});
  }
  if (symbols.empty()) return;
  const auto n_symbols = static_cast<std::uint32_t>(symbols.size());
  symbols.front().previous = no_symbol;
  symbols.back().next = no_symbol;

  const auto later = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return a.order > b.order;
  };
  const auto add_candidate = [&](std::uint32_t left) {
    const TokenId left_id = symbols[left].id, right_id = symbols[symbols[left].next].id;
    const Slot& merge = find(left_id, right_id);
    if (merge.rank == no_rank) return false;
    heap.push_back({std::uint64_t{merge.rank} << 32 | left, left_id, right_id, merge.result});
    return true;
  };
  for (std::uint32_t i = 0; i + 1 < n_symbols; ++i) add_candidate(i);
  std::make_heap(heap.begin(), heap.end(), later);

  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    const auto left = static_cast<std::uint32_t>(best.order);
    const std::uint32_t right = symbols[left].next;
    if (symbols[left].id != best.left || right == no_symbol || symbols[right].id != best.right) {
      continue;  // one of the two has been merged since
    }
    symbols[left].id = best.result;
    symbols[left].next = symbols[right].next;
    symbols[right].id = no_token;
    symbols[right].next = no_symbol;
    if (symbols[left].next != no_symbol) {
      symbols[symbols[left].next].previous = left;
      if (add_candidate(left)) std::push_heap(heap.begin(), heap.end(), later);
    }
    if (symbols[left].previous != no_symbol && add_candidate(symbols[left].previous)) {
      std::push_heap(heap.begin(), heap.end(), later);
    }
  }
  for (const auto& symbol : symbols) {
    if (symbol.id != no_token) ids.push_back(symbol.id);
  }
}

}  // namespace lowbit
