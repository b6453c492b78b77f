// SPDX-License-Identifier: Apache-2.0
// One atomic word carries the whole protocol: a generation, "open" while a loop may be joined, and
// the number of workers inside. The caller never waits for a worker that has not joined, so a
// worker that the system has put aside delays nobody: its range is stolen. A worker that misses a
// loop is harmless for the same reason. Rejected: a barrier per loop (waits for every worker) and
// one shared counter (loses the contiguous ranges that first touch and the prefetchers like).
#include "lowbit/base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "lowbit/base/assert.h"
#include "lowbit/base/float_environment.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <sched.h>

namespace lowbit {
namespace {

// The state word: bit 0 open, bit 1 the caller sleeps, bit 2 stop, then workers inside, generation.
using Word = std::uint32_t;
constexpr Word open_bit = 1, caller_sleeps_bit = 2, stop_bit = 4;
constexpr Word one_active = 8;
constexpr int active_bits = 10;
constexpr Word active_mask = ((Word{1} << active_bits) - 1) * one_active;
constexpr Word one_generation = one_active << active_bits;
constexpr Word generation_mask = ~(one_generation - 1);
constexpr int max_threads = 1 << active_bits;

constexpr std::size_t cache_line_pair = 128;  // the adjacent-line prefetcher fetches in pairs

using Clock = std::chrono::steady_clock;

constexpr std::chrono::nanoseconds patient_spin{20'000};
constexpr std::chrono::nanoseconds short_spin{2'000};
constexpr int pauses_per_clock = 16;
constexpr int yields_before_sleep = 4;
constexpr int waits_per_window = 64;  // a worker judges its luck with spinning over this many waits

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Spins, then yields, until done() holds. False when the patience is used up.
template <class Done>
bool spin_until(std::chrono::nanoseconds patience, Done&& done) {
  const auto start = Clock::now();
  do {
    for (int i = 0; i < pauses_per_clock; ++i) {
      if (done()) return true;
      pause_cpu();
    }
  } while (Clock::now() - start < patience);
  for (int i = 0; i < yields_before_sleep; ++i) {
    sched_yield();
    if (done()) return true;
  }
  return false;
}

/// Spinning that times out most of the time is a machine with fewer free cores than threads: then
/// the cores are worth more to the others.
class SpinBudget {
 public:
  std::chrono::nanoseconds patience() const { return patience_; }
  void count(bool timed_out) {
    n_timed_out_ += timed_out ? 1 : 0;
    if (++n_waits_ < waits_per_window) return;
    patience_ = 2 * n_timed_out_ > n_waits_ ? short_spin : patient_spin;
    n_waits_ = n_timed_out_ = 0;
  }

 private:
  std::chrono::nanoseconds patience_ = patient_spin;
  int n_waits_ = 0, n_timed_out_ = 0;
};

/// The chunks one thread owns; anyone takes the next one by a fetch_add.
struct alignas(cache_line_pair) Range {
  std::atomic<std::int64_t> next{0};
  std::int64_t last = 0;
  // While counting: when the owner joined the loop and when it found no more chunks.
  Clock::time_point joined, done;

  std::int64_t remaining() const { return last - next.load(std::memory_order_relaxed); }
};

}  // namespace

struct ThreadPool::State {
  // Written by the caller while the word is closed and nobody is inside; read by those who joined.
  std::int64_t n_items = 0, chunk = 1;
  Invoke invoke = nullptr;
  void* body = nullptr;
  std::vector<Range> ranges;
  std::vector<std::thread> workers;

  bool counting = false;
  Clock::time_point opened;
  LoopCounters counters;

  alignas(cache_line_pair) std::atomic<Word> word{0};
  alignas(cache_line_pair) std::atomic<int> n_sleeping{0};

  explicit State(int n_threads) : ranges(static_cast<std::size_t>(n_threads)) {}

  void work(int thread) {
    Range& own = ranges[static_cast<std::size_t>(thread)];
    if (counting) own.joined = own.done = Clock::now();
    take_chunks(own, thread);
    if (counting) own.done = Clock::now();
  }

  void take_chunks(Range& own, int thread) {
    while (take_from(own, thread)) {
    }
    for (;;) {
      Range& fullest = *std::max_element(
          ranges.begin(), ranges.end(),
          [](const Range& a, const Range& b) { return a.remaining() < b.remaining(); });
      if (fullest.remaining() <= 0) return;
      take_from(fullest, thread);
    }
  }

  bool take_from(Range& range, int thread) {
    const std::int64_t taken = range.next.fetch_add(1, std::memory_order_relaxed);
    if (taken >= range.last) return false;
    const std::int64_t first = taken * chunk;
    invoke(body, first, std::min(first + chunk, n_items), thread);
    return true;
  }

  void worker_main(int thread) {
    set_default_float_environment();  // threads inherit the creator's; results must not
    SpinBudget budget;
    Word seen = 0;  // generation of the last loop joined
    for (;;) {
      const Word now = wait_for_loop(seen, budget);
      if ((now & stop_bit) != 0) return;
      Word expected = now;
      if (!word.compare_exchange_strong(expected, now + one_active)) continue;
      seen = now & generation_mask;
      work(thread);
      const Word before = word.fetch_sub(one_active);
      if ((before & caller_sleeps_bit) != 0 && (before & active_mask) == one_active) {
        word.notify_all();
      }
    }
  }

  /// A worker that was woken for a loop that is over by now spins again: the next one follows soon.
  Word wait_for_loop(Word seen, SpinBudget& budget) {
    Word now = 0;
    const auto ready = [&] {
      now = word.load();
      return (now & stop_bit) != 0 || ((now & open_bit) != 0 && (now & generation_mask) != seen);
    };
    for (;;) {
      const bool in_time = spin_until(budget.patience(), ready);
      budget.count(!in_time);
      if (in_time) return now;
      n_sleeping.fetch_add(1);
      if (!ready()) word.wait(now);
      n_sleeping.fetch_sub(1);
    }
  }

  void stop() {
    word.fetch_or(stop_bit);
    word.notify_all();
    for (std::thread& worker : workers) worker.join();
  }

  void open_loop() {
    word.store((word.load() & generation_mask) + one_generation + open_bit);
    if (n_sleeping.load() > 0) word.notify_all();
  }

  /// The loop is over; a thread that never joined it was late all the time.
  void count_loop() {
    const Clock::time_point closed = Clock::now();
    ++counters.n_shared;
    counters.seconds += seconds_between(opened, closed);
    for (const Range& range : ranges) {
      if (range.joined < opened) {
        counters.late += seconds_between(opened, closed);
        continue;
      }
      counters.late += seconds_between(opened, range.joined);
      counters.busy += seconds_between(range.joined, range.done);
      counters.idle += seconds_between(range.done, closed);
    }
  }

  void close_loop_and_wait() {
    Word now = word.fetch_and(~open_bit) & ~open_bit;
    const auto empty = [&] {
      now = word.load();
      return (now & active_mask) == 0;
    };
    if ((now & active_mask) == 0 || spin_until(patient_spin, empty)) return;
    now = word.fetch_or(caller_sleeps_bit) | caller_sleeps_bit;
    while ((now & active_mask) != 0) {
      word.wait(now);
      now = word.load();
    }
    word.fetch_and(~caller_sleeps_bit);
  }
};

ThreadPool::ThreadPool(int n_threads)
    : state_(std::make_unique<State>(std::clamp(n_threads, 1, max_threads))) {
  LOWBIT_ASSERT(float_environment_is_default());
  try {
    for (int t = 1; t < this->n_threads(); ++t) {
      state_->workers.emplace_back([state = state_.get(), t] { state->worker_main(t); });
    }
  } catch (...) {  // the system gives no more threads
    state_->stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  state_->stop();
}

LoopCounters& LoopCounters::operator+=(const LoopCounters& other) {
  n_shared += other.n_shared;
  n_alone += other.n_alone;
  seconds += other.seconds;
  busy += other.busy;
  late += other.late;
  idle += other.idle;
  return *this;
}

LoopCounters LoopCounters::operator-(const LoopCounters& other) const {
  return {n_shared - other.n_shared, n_alone - other.n_alone, seconds - other.seconds,
          busy - other.busy,         late - other.late,       idle - other.idle};
}

void ThreadPool::count(bool on) {
  state_->counting = on;
}

const LoopCounters& ThreadPool::counters() const {
  return state_->counters;
}

int ThreadPool::n_threads() const {
  return static_cast<int>(state_->ranges.size());
}

void ThreadPool::run(std::int64_t n_items, std::int64_t chunk, Invoke invoke, void* body) {
  LOWBIT_ASSERT(n_items >= 0 && chunk >= 1);
  LOWBIT_ASSERT(float_environment_is_default());
  if (n_items <= 0) return;
  const std::int64_t n_chunks = (n_items - 1) / chunk + 1;
  const std::int64_t n_ranges = n_threads();
  if (n_chunks == 1 || n_ranges == 1) {
    if (state_->counting) ++state_->counters.n_alone;
    for (std::int64_t first = 0; first < n_items; first += chunk) {
      invoke(body, first, std::min(first + chunk, n_items), 0);
    }
    return;
  }
  State& state = *state_;
  state.n_items = n_items;
  state.chunk = chunk;
  state.invoke = invoke;
  state.body = body;
  for (std::int64_t t = 0; t < n_ranges; ++t) {
    Range& range = state.ranges[static_cast<std::size_t>(t)];
    range.next.store(n_chunks * t / n_ranges, std::memory_order_relaxed);
    range.last = n_chunks * (t + 1) / n_ranges;
  }
  if (state.counting) state.opened = Clock::now();
  state.open_loop();
  state.work(0);
  state.close_loop_and_wait();
  if (state.counting) state.count_loop();
}

}  // namespace lowbit
