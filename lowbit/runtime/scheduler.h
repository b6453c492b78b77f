// SPDX-License-Identifier: Apache-2.0
// Which tokens of which sequences a step computes, and who holds pages of the KV cache. In this
// order: one token for everyone who is generating; chunks of the prompts that are being read; new
// prompts, each only when all of its pages fit. What a prompt can find in the prefix cache, even
// while a neighbour is only just computing it, is not computed again.
//
// First come, first served: a priority is a head start of priority_span arrivals for each level, so
// that waiting wins against any priority in the end and nobody starves. A head of the queue that
// does not fit is waited for. When pages run out, the last in this order gives its own back, goes
// back to its place in the queue and is computed again later; most of its blocks are found again.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "lowbit/runtime/kv_cache.h"
#include "lowbit/runtime/sequence.h"

namespace lowbit {

struct SchedulerOptions {
  std::int64_t max_sequences = 64;  // running at once
  std::int64_t step_tokens = 512;   // at least max_sequences
  std::int64_t prefill_chunk = 512;
  std::int64_t priority_span = 64;
  bool prefix_cache = true;
};

struct SchedulerStats {
  std::int64_t n_preemptions = 0;
  std::int64_t n_queried_tokens = 0;  // of prompts, asked for in the prefix cache
  std::int64_t n_found_tokens = 0;    // of them, found
};

class Scheduler {
 public:
  Scheduler(KvCache cache, const SchedulerOptions& options);

  void add(std::unique_ptr<Sequence> sequence);

  /// Sets n_scheduled and makes room for those tokens; the step must then compute them. The ones
  /// with tokens in this step, in the order of service; valid until the next call.
  /// n_prompt_tokens: the most tokens of prompts.
  std::span<Sequence* const> plan(std::int64_t n_prompt_tokens);
  /// Of the last plan.
  std::int64_t n_planned_decodes() const { return n_decodes_; }
  std::int64_t n_planned_prompt_tokens() const { return n_prompt_tokens_; }

  /// Null: no such sequence. 0 finds none.
  Sequence* find_running(RequestId id) const;
  /// From the queue; false: it is not there.
  bool remove_waiting(RequestId id);
  /// Running ones, whose pages become free.
  void remove_running(const std::function<bool(const Sequence&)>& is_done);

  bool is_idle() const { return running_.empty() && waiting_.empty(); }
  std::int64_t n_running() const { return std::ssize(running_); }
  std::int64_t n_waiting() const { return std::ssize(waiting_); }
  std::int64_t n_waiting_tokens() const;
  /// Running sequences that generate: their tokens of a step are decodes.
  std::int64_t n_generating() const;
  const SchedulerStats& stats() const { return stats_; }
  const KvCache& cache() const { return cache_; }

 private:
  void schedule_decodes();
  void schedule_prompts(std::int64_t& budget, std::int64_t most_each);
  void admit(std::int64_t& budget, std::int64_t most_each);
  bool reserve(Sequence& sequence);
  void schedule_chunk(Sequence& sequence, std::int64_t& budget, std::int64_t most);
  void find_more(Sequence& sequence);
  bool is_led(const Sequence& sequence) const;
  void publish(Sequence& sequence);
  void preempt_last();
  void queue(std::unique_ptr<Sequence> sequence);
  bool can_find(const Sequence& sequence) const;

  KvCache cache_;
  SchedulerOptions options_;
  SchedulerStats stats_;
  std::deque<std::unique_ptr<Sequence>> waiting_;   // by rank
  std::vector<std::unique_ptr<Sequence>> running_;  // by rank
  std::vector<Sequence*> planned_;
  std::int64_t n_decodes_ = 0, n_prompt_tokens_ = 0;
};

}  // namespace lowbit
