// SPDX-License-Identifier: Apache-2.0
// A team of threads for parallel loops. Each worker owns a contiguous range of the items and takes
// chunks of it; when its range is empty it steals chunks from the fullest one, so a noisy neighbour
// cannot stall a static slice. Which thread computes a chunk never changes its result. Waiting
// spins briefly, yields, then sleeps.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>

namespace lowbit {

/// Where the time of the parallel loops went while counting was on. Seconds of a thread add up: two
/// threads for a second are two.
struct LoopCounters {
  std::int64_t n_shared = 0;  // loops that threads could share: each is one barrier
  std::int64_t n_alone = 0;   // loops of one chunk, or of a team of one: no barrier
  double seconds = 0;         // of the caller, in shared loops
  double busy = 0;            // of all threads, from joining a shared loop to finding no chunk
  double late = 0;            // of all threads, from the opening of a loop to joining it
  double idle = 0;            // of all threads, from finding no chunk to the end of the loop

  LoopCounters& operator+=(const LoopCounters& other);
  LoopCounters operator-(const LoopCounters& other) const;
};

class ThreadPool {
 public:
  /// n_threads includes the calling thread; at least 1.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const;

  /// Counting reads the clock twice per thread and loop. The counters only ever grow.
  void count(bool on);
  const LoopCounters& counters() const;

  /// Calls body(first, last, thread) over disjoint sub-ranges covering [0, n_items), each at most
  /// `chunk` items; returns when all are done. thread < n_threads(). body must be noexcept in
  /// effect. Calls must not nest; one caller at a time.
  template <class Body>
  void parallel_for(std::int64_t n_items, std::int64_t chunk, Body&& body) {
    run(n_items, chunk, &invoke<std::remove_reference_t<Body>>, &body);
  }

 private:
  using Invoke = void (*)(void* body, std::int64_t first, std::int64_t last, int thread);
  template <class Body>
  static void invoke(void* body, std::int64_t first, std::int64_t last, int thread) {
    (*static_cast<Body*>(body))(first, last, thread);
  }
  void run(std::int64_t n_items, std::int64_t chunk, Invoke invoke, void* body);

  struct State;
  std::unique_ptr<State> state_;
};

/// How many threads to use and why: floor(min(physical cores, affinity mask, cgroup quota)), at
/// least 1.
struct ThreadCount {
  int n_threads = 1;
  std::string reason;  // e.g. "2 physical cores"
};
ThreadCount default_thread_count();

}  // namespace lowbit
