// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/kv_cache.h"

#include <limits>
#include <utility>

#include <fmt/format.h>

#include "lowbit/base/assert.h"
#include "lowbit/base/checked.h"

namespace lowbit {

Result<KvCache> KvCache::create(Backend& backend, const KvShape& shape, std::int64_t n_positions) {
  LOWBIT_ASSERT(shape.n_layers > 0 && n_positions > 0);
  KvCache cache;
  cache.backend_ = &backend;
  cache.shape_ = shape;
  cache.n_blocks_ = n_blocks_for(n_positions);
  const auto n_pages = checked_mul(cache.n_blocks_, shape.n_layers);
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
  cache.pool_ = *std::move(pool);
  cache.free_pages_.reserve(static_cast<std::size_t>(*n_pages));
  for (std::int64_t page = *n_pages; page > 0; --page) {
    cache.free_pages_.push_back(static_cast<std::int32_t>(page - 1));
  }
  return cache;
}

bool KvCache::grow(KvSequence& sequence, std::int64_t n_positions) {
  const std::int64_t n_missing = n_blocks_for(n_positions) - sequence.n_blocks();
  if (n_missing <= 0) return true;
  if (n_missing > n_free_blocks()) return false;
  sequence.pages_.resize(static_cast<std::size_t>(shape_.n_layers));
  const auto n_taken = static_cast<std::size_t>(n_missing * shape_.n_layers);
  const std::span taken = std::span(free_pages_).last(n_taken);
  backend_->kv_zero(*pool_, taken);
  std::size_t next = n_taken;
  for (std::int64_t block = 0; block < n_missing; ++block) {
    for (std::vector<std::int32_t>& layer : sequence.pages_) layer.push_back(taken[--next]);
  }
  free_pages_.resize(free_pages_.size() - n_taken);
  return true;
}

void KvCache::release(KvSequence& sequence) {
  for (std::vector<std::int32_t>& layer : sequence.pages_) {
    free_pages_.insert(free_pages_.end(), layer.begin(), layer.end());
  }
  sequence.pages_.clear();
}

std::int64_t KvCache::n_free_blocks() const {
  return static_cast<std::int64_t>(free_pages_.size()) / shape_.n_layers;
}

}  // namespace lowbit
