// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/kv_plan.h"

#include <gtest/gtest.h>

#include "lowbit/backend/cpu_backend.h"

namespace lowbit {
namespace {

constexpr std::int64_t block = kv_block_positions;

TEST(KvPlan, BytesOfABlockAreThoseThatTheBackendTakes) {
  ThreadPool pool(1);
  auto backend = *make_cpu_backend(pool);
  for (const KvKind kind : all_kv_kinds) {
    const KvShape shape{kind, 3, 2, 20};
    auto cache = KvCache::create(*backend, shape, block);
    ASSERT_TRUE(cache);
    EXPECT_EQ(kv_block_bytes(shape), cache->block_bytes()) << name_of(kind);
  }
}

TEST(KvPlan, FillsTheMemoryUpToWhatCanBeUsed) {
  const KvShape shape{KvKind::f16, 4, 2, 32};
  const std::int64_t bytes = kv_block_bytes(shape);
  // 10 blocks for 4 contexts of 3 blocks: all of them.
  auto plan = plan_kv(shape, {150, 1000, 4, 10 * bytes + bytes / 2});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->n_ctx, 150);
  EXPECT_EQ(plan->n_positions, 10 * block);
  // More memory than 4 contexts can use.
  plan = plan_kv(shape, {150, 1000, 4, 100 * bytes});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->n_positions, 12 * block);
  // The model's context, as much of it as fits.
  plan = plan_kv(shape, {0, 1000, 4, 5 * bytes});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->n_ctx, 5 * block);
  EXPECT_EQ(plan->n_positions, 5 * block);
  plan = plan_kv(shape, {0, 100, 1, 500 * bytes});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->n_ctx, 100);
  EXPECT_EQ(plan->n_positions, 2 * block);
}

TEST(KvPlan, SaysHowMuchIsMissing) {
  const KvShape shape{KvKind::int8_token, 4, 2, 32};
  const std::int64_t bytes = kv_block_bytes(shape);
  const auto plan = plan_kv(shape, {300, 1000, 4, 4 * bytes});
  ASSERT_FALSE(plan);
  const std::string message = plan.error().message();
  for (const std::string& part :
       {std::to_string(4 * bytes), std::to_string(4 * block), std::to_string(5 * bytes),
        std::string("kv=int8.token"), std::string("300")}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
  }
  EXPECT_FALSE(plan_kv(shape, {0, 1000, 4, bytes - 1}));
  EXPECT_FALSE(plan_kv(shape, {0, 1000, 4, -5}));
}

}  // namespace
}  // namespace lowbit
