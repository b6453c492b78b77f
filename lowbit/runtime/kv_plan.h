// SPDX-License-Identifier: Apache-2.0
// How many positions a KV cache gets in the memory that there is, before any of it is taken.
#pragma once

#include <cstdint>

#include "lowbit/base/result.h"
#include "lowbit/runtime/kv_cache.h"

namespace lowbit {

struct KvWish {
  std::int64_t n_ctx = 0;  // 0: as much of the model's as fits
  std::int64_t n_ctx_train = 0;
  std::int64_t max_sequences = 1;
  std::int64_t n_bytes = 0;  // for keys and values
};

struct KvPlan {
  std::int64_t n_ctx = 0;
  std::int64_t n_positions = 0;  // of all sequences together
};

/// No more than max_sequences whole contexts, no less than one. Errors, with the arithmetic: an
/// asked-for context that does not fit; no room at all.
Result<KvPlan> plan_kv(const KvShape& shape, const KvWish& wish);

}  // namespace lowbit
