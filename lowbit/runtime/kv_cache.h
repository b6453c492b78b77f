// SPDX-License-Identifier: Apache-2.0
// Keys and values of many sequences in pages of one pool. A sequence grows by whole blocks of
// kv_block_positions positions, the unit of attention: one page per layer. A new block is zeroed,
// so a sequence never meets another one's numbers (not even NaN), and any free block will do:
// memory cannot fragment. Sequences that begin with the same tokens share blocks (block_pool.h),
// for keys and values depend on the tokens alone, bit for bit. Shared blocks are never written
// with anything else, and no page goes before its sequence does.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/backend/backend.h"
#include "lowbit/base/result.h"
#include "lowbit/runtime/block_pool.h"

namespace lowbit {

/// The pages of one sequence. Give it back with KvCache::release.
class KvSequence {
 public:
  KvSequence() = default;
  /// Shares blocks only with sequences of the same salt.
  explicit KvSequence(std::string salt) : salt_(std::move(salt)) {}

  /// Page of each block of positions, in order.
  std::span<const std::int32_t> pages(std::int64_t layer) const {
    return pages_[static_cast<std::size_t>(layer)];
  }
  std::int64_t n_blocks() const { return static_cast<std::int64_t>(blocks_.size()); }
  /// Positions that the pages can hold.
  std::int64_t capacity() const { return n_blocks() * kv_block_positions; }

 private:
  friend class KvCache;
  std::vector<BlockId> blocks_;
  std::vector<std::vector<std::int32_t>> pages_;  // (n_layers, n_blocks)
  std::size_t n_named_ = 0;                       // of the blocks: others may find the first ones
  std::string salt_;
};

struct KvShape {
  KvKind kind = KvKind::f16;
  std::int64_t n_layers = 0, n_kv_heads = 0, head_dim = 0;
};
/// Bytes of one block in all layers.
std::int64_t kv_block_bytes(const KvShape& shape);

class KvCache {
 public:
  /// Room for n_positions, rounded up to whole blocks. Errors: more memory than there is.
  static Result<KvCache> create(Backend& backend, const KvShape& shape, std::int64_t n_positions);

  static constexpr std::int64_t n_blocks_for(std::int64_t n_positions) {
    return (n_positions + kv_block_positions - 1) / kv_block_positions;
  }

  /// Uses all of the memory now, so that none can be missing later.
  void occupy();

  /// Makes room for positions [0, n_positions); false, and nothing changed, when pages are short.
  [[nodiscard]] bool grow(KvSequence& sequence, std::int64_t n_positions);
  void release(KvSequence& sequence);

  // The prefix cache. `tokens`: of the whole sequence, from its first position on.

  /// Blocks that adopt() would find. The block of the last token is never among them: its logits
  /// are wanted.
  struct Prefix {
    std::int64_t n_blocks = 0;
    std::int64_t n_free_blocks = 0;  // of them, without an owner until then
  };
  Prefix find_prefix(const KvSequence& sequence, std::span<const std::int32_t> tokens) const;
  /// Takes the blocks that are there in place of its own, after those it shares already. Gives how
  /// many first positions need not be computed.
  std::int64_t adopt(KvSequence& sequence, std::span<const std::int32_t> tokens);
  /// Lets others find the full blocks of the first n_positions: n_computed are computed, the rest
  /// will be in the step that is being put together, before its attention. Where another sequence
  /// was faster, one copy is enough: its own goes, but not while it is being written.
  void publish(KvSequence& sequence, std::span<const std::int32_t> tokens, std::int64_t n_computed,
               std::int64_t n_positions);

  KvPool& pool() const { return *pool_; }
  std::int64_t n_blocks() const { return blocks_.n_blocks(); }
  /// Of no sequence; what they hold may still be found.
  std::int64_t n_free_blocks() const { return blocks_.n_free(); }
  std::int64_t n_cached_blocks() const { return blocks_.n_free_named(); }
  /// Bytes of one block in all layers.
  std::int64_t block_bytes() const { return shape_.n_layers * pool_->page_bytes; }

 private:
  KvCache(Backend& backend, const KvShape& shape, std::int64_t n_blocks);
  std::int32_t page(BlockId block, std::int64_t layer) const {
    return static_cast<std::int32_t>(block * shape_.n_layers + layer);
  }
  void zero(BlockId block);
  void append(KvSequence& sequence, BlockId block) const;
  void replace(KvSequence& sequence, std::size_t index, BlockId block);

  Backend* backend_;
  KvShape shape_;
  BlockPool blocks_;
  std::unique_ptr<KvPool> pool_;
  std::vector<std::int32_t> block_pages_;  // memory of zero()
};

}  // namespace lowbit
