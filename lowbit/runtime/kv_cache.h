// SPDX-License-Identifier: Apache-2.0
// Keys and values of many sequences in pages of one pool. A sequence grows by whole blocks of
// kv_block_positions positions: one page per layer. Pages are zeroed when they are handed out, so a
// sequence never meets another one's numbers (not even NaN), and any free page will do: memory
// cannot fragment.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lowbit/backend/backend.h"
#include "lowbit/base/result.h"

namespace lowbit {

/// The pages of one sequence. Give it back with KvCache::release.
class KvSequence {
 public:
  /// Page of each block of positions, in order.
  std::span<const std::int32_t> pages(std::int64_t layer) const {
    return pages_[static_cast<std::size_t>(layer)];
  }
  std::int64_t n_blocks() const {
    return pages_.empty() ? 0 : static_cast<std::int64_t>(pages_.front().size());
  }
  /// Positions that the pages can hold.
  std::int64_t capacity() const { return n_blocks() * kv_block_positions; }

 private:
  friend class KvCache;
  std::vector<std::vector<std::int32_t>> pages_;  // (n_layers, n_blocks)
};

struct KvShape {
  KvKind kind = KvKind::f16;
  std::int64_t n_layers = 0, n_kv_heads = 0, head_dim = 0;
};

class KvCache {
 public:
  /// Room for n_positions, rounded up to whole blocks. Errors: more memory than there is.
  static Result<KvCache> create(Backend& backend, const KvShape& shape, std::int64_t n_positions);

  static constexpr std::int64_t n_blocks_for(std::int64_t n_positions) {
    return (n_positions + kv_block_positions - 1) / kv_block_positions;
  }

  /// Makes room for positions [0, n_positions); false, and nothing changed, when pages are short.
  [[nodiscard]] bool grow(KvSequence& sequence, std::int64_t n_positions);
  void release(KvSequence& sequence);

  KvPool& pool() const { return *pool_; }
  std::int64_t n_blocks() const { return n_blocks_; }
  std::int64_t n_free_blocks() const;
  /// Bytes of one block in all layers.
  std::int64_t block_bytes() const { return shape_.n_layers * pool_->page_bytes; }

 private:
  KvCache() = default;
  Backend* backend_ = nullptr;
  KvShape shape_;
  std::int64_t n_blocks_ = 0;
  std::unique_ptr<KvPool> pool_;
  std::vector<std::int32_t> free_pages_;  // the last one is handed out next
};

}  // namespace lowbit
