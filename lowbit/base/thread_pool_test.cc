// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <set>
#include <thread>
#include <vector>

#include "lowbit/base/float_environment.h"

namespace lowbit {
namespace {

class Teams : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Sizes, Teams, ::testing::Values(1, 2, 3, 4, 5));

TEST_P(Teams, CoverEveryItemExactlyOnceInBoundedChunks) {
  ThreadPool pool(GetParam());
  ASSERT_EQ(pool.n_threads(), GetParam());
  for (const std::int64_t n_items : {0, 1, 2, 7, 64, 1000}) {
    for (const std::int64_t chunk : {1, 3, 64, 5000}) {
      // Plain ints: two threads on one item would be a data race that a sanitizer reports.
      std::vector<int> visits(static_cast<std::size_t>(n_items), 0);
      std::atomic<bool> in_bounds{true};
      pool.parallel_for(n_items, chunk, [&](std::int64_t first, std::int64_t last, int thread) {
        if (first >= last || last - first > chunk || last > n_items) in_bounds = false;
        if (thread < 0 || thread >= GetParam()) in_bounds = false;
        for (std::int64_t i = first; i < last; ++i) ++visits[static_cast<std::size_t>(i)];
      });
      EXPECT_TRUE(in_bounds) << n_items << " items in chunks of " << chunk;
      EXPECT_EQ(std::count(visits.begin(), visits.end(), 1), n_items);
    }
  }
}

TEST_P(Teams, RunManyTinyLoopsInOrder) {
  ThreadPool pool(GetParam());
  constexpr int n_loops = 5000;
  constexpr std::int64_t n_items = 8;
  std::array<std::int64_t, n_items>
      sums{};  // written in loop i, read in loop i + 1 by another thread
  for (int loop = 0; loop < n_loops; ++loop) {
    pool.parallel_for(n_items, 1, [&](std::int64_t first, std::int64_t, int) {
      sums[static_cast<std::size_t>((first + loop) % n_items)] += loop;
    });
  }
  for (const std::int64_t sum : sums) EXPECT_EQ(sum, std::int64_t{n_loops} * (n_loops - 1) / 2);
}

TEST_P(Teams, SleepAndWakeAgain) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // far beyond the spin
    std::atomic<std::int64_t> sum{0};
    pool.parallel_for(100, 1, [&](std::int64_t first, std::int64_t, int) { sum += first; });
    EXPECT_EQ(sum, 4950);
  }
}

TEST(ThreadPool, AStuckOwnerIsStolenFrom) {
  // Whoever takes item 0 waits until all others are done, so the rest of that range must be
  // computed by the other thread; without stealing this never ends.
  ThreadPool pool(2);
  constexpr std::size_t n_items = 40, n_items_of_range = n_items / 2;
  std::atomic<std::size_t> n_done{0};
  std::array<int, n_items> owner{};
  pool.parallel_for(n_items, 1, [&](std::int64_t first, std::int64_t, int thread) {
    owner[static_cast<std::size_t>(first)] = thread;
    while (first == 0 && n_done.load() < n_items - 1) std::this_thread::yield();
    ++n_done;
  });
  for (std::size_t i = 1; i < n_items_of_range; ++i) EXPECT_NE(owner[i], owner[0]) << "item " << i;
}

TEST(ThreadPool, CallerSleepsThroughALongChunk) {
  ThreadPool pool(2);
  std::atomic<int> n_joined{0}, n_done{0};
  pool.parallel_for(2, 1, [&](std::int64_t, std::int64_t, int thread) {
    ++n_joined;
    while (n_joined.load() < 2) std::this_thread::yield();  // both threads hold one chunk
    if (thread == 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ++n_done;
  });
  EXPECT_EQ(n_done, 2);
}

TEST(ThreadPool, WorkersHaveTheDefaultFloatEnvironment) {
  ThreadPool pool(3);
  std::atomic<bool> is_default{true};
  pool.parallel_for(300, 1, [&](std::int64_t, std::int64_t, int) {
    if (!float_environment_is_default()) is_default = false;
  });
  EXPECT_TRUE(is_default);
}

TEST_P(Teams, CountersShareOutTheTimeOfTheLoopsTheySaw) {
  ThreadPool pool(GetParam());
  const auto loop = [&](std::int64_t n_items) {
    pool.parallel_for(n_items, 1, [](std::int64_t, std::int64_t, int) {});
  };
  loop(50);
  EXPECT_EQ(pool.counters().n_shared, 0);
  pool.count(true);
  for (int i = 0; i < 100; ++i) loop(50);
  loop(1);
  pool.count(false);
  loop(50);
  const LoopCounters counters = pool.counters();
  const bool is_team = GetParam() > 1;
  EXPECT_EQ(counters.n_shared, is_team ? 100 : 0);
  EXPECT_EQ(counters.n_alone, is_team ? 1 : 101);
  EXPECT_GE(counters.late, 0);
  EXPECT_GE(counters.idle, 0);
  EXPECT_EQ(counters.busy > 0, is_team);
  // The three parts are a thread's whole loop: equal but for the rounding of sums of ~1e-6.
  const double parts = counters.busy + counters.late + counters.idle;
  EXPECT_NEAR(parts, counters.seconds * pool.n_threads(), 1e-9 * (1 + parts));
}

TEST(ThreadPool, AThreadCountBelowOneIsOne) {
  EXPECT_EQ(ThreadPool(0).n_threads(), 1);
  EXPECT_EQ(ThreadPool(-3).n_threads(), 1);
}

}  // namespace
}  // namespace lowbit
