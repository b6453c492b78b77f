// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/block_pool.h"

#include <algorithm>
#include <array>

#include <xxhash.h>

#include "lowbit/base/assert.h"

namespace lowbit {
namespace {

/// No chain begins with it but by a salt.
ChainHash hash_salt(std::string_view salt) {
  const XXH128_hash_t hash = XXH3_128bits(salt.data(), salt.size());
  return {hash.low64, hash.high64};
}

}  // namespace

ChainHash hash_chain(const ChainHash& before, std::span<const std::int32_t> tokens) {
  const XXH128_hash_t own = XXH3_128bits_withSeed(tokens.data(), tokens.size_bytes(), before.low);
  const std::array<std::uint64_t, 4> both{before.low, before.high, own.low64, own.high64};
  const XXH128_hash_t hash = XXH3_128bits(both.data(), sizeof both);
  return {hash.low64, hash.high64};
}

BlockPool::BlockPool(std::int64_t n_blocks, ChainHashFunction hash)
    : nodes_(static_cast<std::size_t>(n_blocks) + 1), hash_(hash) {
  node(list_end()).previous = node(list_end()).next = list_end();
  for (BlockId block = 0; block < list_end(); ++block) put_free(block, list_end());
  named_.reserve(nodes_.size());
}

std::optional<BlockId> BlockPool::take() {
  if (n_free_ == 0) return std::nullopt;
  const BlockId block = node(list_end()).next;
  take_free(block);
  if (node(block).is_named) forget(block);
  node(block).n_owners = 1;
  return block;
}

void BlockPool::share(BlockId block) {
  if (node(block).n_owners == 0) take_free(block);
  ++node(block).n_owners;
}

void BlockPool::release(BlockId block) {
  LOWBIT_ASSERT(node(block).n_owners > 0);
  if (--node(block).n_owners > 0) return;
  // Nobody can ask for a block without a name: it goes before all others.
  put_free(block, node(block).is_named ? list_end() : node(list_end()).next);
}

std::optional<BlockId> BlockPool::find(const BlockContent& content) const {
  const auto at = named_.find(hash_of(content));
  if (at == named_.end() || !holds(at->second, content)) return std::nullopt;
  return at->second;
}

std::optional<BlockId> BlockPool::name(BlockId block, const BlockContent& content) {
  LOWBIT_ASSERT(has_owner(block) && !is_named(block));
  LOWBIT_ASSERT(content.before == no_block ||
                (is_named(content.before) && has_owner(content.before)));
  const ChainHash hash = hash_of(content);
  const auto [at, is_new] = named_.try_emplace(hash, block);
  if (!is_new) {
    if (!holds(at->second, content)) return std::nullopt;
    return at->second;
  }
  Node& named = node(block);
  named.is_named = true;
  named.before = content.before;
  named.hash = hash;
  named.salt = content.before == no_block ? content.salt : std::string_view();
  named.tokens.assign(content.tokens.begin(), content.tokens.end());
  if (content.before != no_block) ++node(content.before).n_followers;
  return block;
}

void BlockPool::put_free(BlockId block, BlockId before) {
  Node& free = node(block);
  free.next = before;
  free.previous = node(before).previous;
  node(free.previous).next = block;
  node(before).previous = block;
  ++n_free_;
  if (free.is_named) ++n_free_named_;
}

void BlockPool::take_free(BlockId block) {
  Node& free = node(block);
  node(free.previous).next = free.next;
  node(free.next).previous = free.previous;
  free.previous = free.next = no_block;
  --n_free_;
  if (free.is_named) --n_free_named_;
}

void BlockPool::forget(BlockId block) {
  Node& named = node(block);
  LOWBIT_ASSERT(named.n_followers == 0);
  named_.erase(named.hash);
  named.is_named = false;
  if (named.before != no_block) --node(named.before).n_followers;
  named.before = no_block;
}

ChainHash BlockPool::hash_of(const BlockContent& content) const {
  const bool is_first = content.before == no_block;
  return hash_(is_first ? hash_salt(content.salt) : node(content.before).hash, content.tokens);
}

bool BlockPool::holds(BlockId block, const BlockContent& content) const {
  const Node& named = node(block);
  return named.before == content.before &&
         (content.before != no_block || named.salt == content.salt) &&
         std::ranges::equal(named.tokens, content.tokens);
}

}  // namespace lowbit
