// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/kv_plan.h"

#include <algorithm>

#include <fmt/format.h>

namespace lowbit {

Result<KvPlan> plan_kv(const KvShape& shape, const KvWish& wish) {
  const std::int64_t block_bytes = kv_block_bytes(shape);
  const std::int64_t n_blocks = std::max<std::int64_t>(wish.n_bytes, 0) / block_bytes;
  const std::int64_t n_fit = n_blocks * kv_block_positions;
  const std::int64_t n_asked = wish.n_ctx == 0 ? wish.n_ctx_train : wish.n_ctx;
  if (n_fit == 0 || (wish.n_ctx != 0 && n_fit < wish.n_ctx)) {
    const std::int64_t n_needed = KvCache::n_blocks_for(wish.n_ctx == 0 ? 1 : wish.n_ctx);
    return Error(fmt::format(
        "{} bytes of KV cache hold {} positions: {} bytes for every {} with kv={}; {} positions "
        "need {} bytes",
        wish.n_bytes, n_fit, block_bytes, kv_block_positions, name_of(shape.kind),
        wish.n_ctx == 0 ? kv_block_positions : wish.n_ctx, n_needed * block_bytes));
  }
  const std::int64_t n_ctx = std::min(n_asked, n_fit);
  const std::int64_t n_wanted_blocks = KvCache::n_blocks_for(n_ctx) * wish.max_sequences;
  return KvPlan{n_ctx, std::min(n_blocks, n_wanted_blocks) * kv_block_positions};
}

}  // namespace lowbit
