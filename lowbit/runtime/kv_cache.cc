// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/kv_cache.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "lowbit/base/assert.h"
#include "lowbit/base/checked.h"

namespace lowbit {
namespace {

constexpr auto block_positions = static_cast<std::size_t>(kv_block_positions);

/// What block `index` of a text holds.
BlockContent content_of(std::span<const std::int32_t> tokens, std::size_t index, BlockId before,
                        std::string_view salt) {
  return {before, salt, tokens.subspan(index * block_positions, block_positions)};
}

/// Full blocks before the block of the last token.
std::size_t n_adoptable(std::span<const std::int32_t> tokens) {
  return tokens.empty() ? 0 : (tokens.size() - 1) / block_positions;
}

}  // namespace

std::int64_t kv_block_bytes(const KvShape& shape) {
  return shape.n_layers * shape.n_kv_heads * KvLayout{shape.kind, shape.head_dim}.block_bytes();
}

KvCache::KvCache(Backend& backend, const KvShape& shape, std::int64_t n_blocks)
    : backend_(&backend),
      shape_(shape),
      blocks_(n_blocks),
      block_pages_(static_cast<std::size_t>(shape.n_layers)) {}

Result<KvCache> KvCache::create(Backend& backend, const KvShape& shape, std::int64_t n_positions) {
  LOWBIT_ASSERT(shape.n_layers > 0 && n_positions > 0);
  const auto n_pages = checked_mul(n_blocks_for(n_positions), shape.n_layers);
  if (!n_pages || *n_pages > std::numeric_limits<std::int32_t>::max()) {
    return Error(
        fmt::format("a KV cache of {} positions in {} layers has too many pages; ask for "
                    "a smaller context",
                    n_positions, shape.n_layers));
  }
  auto pool = backend.make_kv_pool(shape.kind, shape.n_kv_heads, shape.head_dim, *n_pages);
  if (!pool) {
    return std::move(pool).error().in(fmt::format("KV cache of {} positions", n_positions));
  }
  KvCache cache(backend, shape, n_blocks_for(n_positions));
  cache.pool_ = *std::move(pool);
  return cache;
}

void KvCache::occupy() {
  LOWBIT_ASSERT(n_free_blocks() == n_blocks());
  for (BlockId block = 0; block < n_blocks(); ++block) zero(block);
}

bool KvCache::grow(KvSequence& sequence, std::int64_t n_positions) {
  const std::int64_t n_missing = n_blocks_for(n_positions) - sequence.n_blocks();
  if (n_missing <= 0) return true;
  if (n_missing > n_free_blocks()) return false;
  for (std::int64_t i = 0; i < n_missing; ++i) {
    const BlockId block = *blocks_.take();
    zero(block);
    append(sequence, block);
  }
  return true;
}

void KvCache::release(KvSequence& sequence) {
  for (std::size_t i = sequence.blocks_.size(); i > 0; --i) {
    blocks_.release(sequence.blocks_[i - 1]);
  }
  sequence.blocks_.clear();
  sequence.pages_.clear();
  sequence.n_named_ = 0;
}

KvCache::Prefix KvCache::find_prefix(const KvSequence& sequence,
                                     std::span<const std::int32_t> tokens) const {
  Prefix prefix;
  BlockId before = no_block;
  for (std::size_t i = 0; i < n_adoptable(tokens); ++i) {
    const auto found = blocks_.find(content_of(tokens, i, before, sequence.salt_));
    if (!found) break;
    ++prefix.n_blocks;
    if (!blocks_.has_owner(*found)) ++prefix.n_free_blocks;
    before = *found;
  }
  return prefix;
}

std::int64_t KvCache::adopt(KvSequence& sequence, std::span<const std::int32_t> tokens) {
  for (std::size_t& i = sequence.n_named_; i < n_adoptable(tokens); ++i) {
    const BlockId before = i == 0 ? no_block : sequence.blocks_[i - 1];
    const auto found = blocks_.find(content_of(tokens, i, before, sequence.salt_));
    if (!found) break;
    blocks_.share(*found);
    if (i < sequence.blocks_.size()) {
      replace(sequence, i, *found);
    } else {
      append(sequence, *found);
    }
  }
  return static_cast<std::int64_t>(sequence.n_named_ * block_positions);
}

void KvCache::publish(KvSequence& sequence, std::span<const std::int32_t> tokens,
                      std::int64_t n_computed, std::int64_t n_positions) {
  LOWBIT_ASSERT(n_positions <= std::ssize(tokens) && n_positions <= sequence.capacity());
  const auto n_full = static_cast<std::size_t>(n_positions) / block_positions;
  for (std::size_t& i = sequence.n_named_; i < n_full; ++i) {
    const BlockId own = sequence.blocks_[i];
    const BlockId before = i == 0 ? no_block : sequence.blocks_[i - 1];
    const auto named = blocks_.name(own, content_of(tokens, i, before, sequence.salt_));
    if (!named) return;
    if (*named == own) continue;
    if (static_cast<std::size_t>(n_computed) < (i + 1) * block_positions) return;
    blocks_.share(*named);
    replace(sequence, i, *named);
  }
}

void KvCache::zero(BlockId block) {
  for (std::int64_t layer = 0; layer < shape_.n_layers; ++layer) {
    block_pages_[static_cast<std::size_t>(layer)] = page(block, layer);
  }
  backend_->kv_zero(*pool_, block_pages_);
}

void KvCache::append(KvSequence& sequence, BlockId block) const {
  sequence.blocks_.push_back(block);
  sequence.pages_.resize(static_cast<std::size_t>(shape_.n_layers));
  for (std::int64_t layer = 0; layer < shape_.n_layers; ++layer) {
    sequence.pages_[static_cast<std::size_t>(layer)].push_back(page(block, layer));
  }
}

/// Puts a block that the sequence owns already in place of another, which it gives back.
void KvCache::replace(KvSequence& sequence, std::size_t index, BlockId block) {
  blocks_.release(std::exchange(sequence.blocks_[index], block));
  for (std::int64_t layer = 0; layer < shape_.n_layers; ++layer) {
    sequence.pages_[static_cast<std::size_t>(layer)][index] = page(block, layer);
  }
}

}  // namespace lowbit
