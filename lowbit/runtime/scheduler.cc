// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/scheduler.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "lowbit/base/assert.h"

namespace lowbit {
namespace {

using Owned = std::unique_ptr<Sequence>;

bool goes_before(const Sequence& a, const Sequence& b) {
  return a.rank != b.rank ? a.rank < b.rank : a.id < b.id;
}
bool is_earlier(const Owned& a, const Owned& b) {
  return goes_before(*a, *b);
}

auto has_id(RequestId id) {
  return [id](const Owned& sequence) { return id != 0 && sequence->id == id; };
}

}  // namespace

Scheduler::Scheduler(KvCache cache, const SchedulerOptions& options)
    : cache_(std::move(cache)), options_(options) {}

void Scheduler::add(Owned sequence) {
  sequence->rank = sequence->id + sequence->request.priority * options_.priority_span;
  queue(std::move(sequence));
}

void Scheduler::queue(Owned sequence) {
  const auto at = std::ranges::upper_bound(waiting_, sequence, is_earlier);
  waiting_.insert(at, std::move(sequence));
}

std::span<Sequence* const> Scheduler::plan(std::int64_t n_prompt_tokens) {
  n_decodes_ = n_prompt_tokens_ = 0;
  for (const Owned& sequence : running_) sequence->n_scheduled = 0;
  schedule_decodes();
  std::int64_t budget = std::min(options_.step_tokens - n_decodes_, n_prompt_tokens);
  const auto n_prompts = std::ranges::count_if(
      running_, [](const Owned& sequence) { return sequence->n_scheduled == 0; });
  // A long prompt leaves half to the others, while there are any.
  const bool is_alone = n_prompts + n_waiting() <= 1;
  const std::int64_t share = is_alone ? budget : std::max<std::int64_t>(1, budget / 2);
  schedule_prompts(budget, share);
  admit(budget, share);
  schedule_prompts(budget, budget);
  planned_.clear();
  for (const Owned& sequence : running_) {
    if (sequence->n_scheduled > 0) planned_.push_back(sequence.get());
  }
  return planned_;
}

void Scheduler::schedule_decodes() {
  for (std::size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.n_pending() != 1) continue;
    while (i < running_.size() && !cache_.grow(sequence.kv, sequence.n_tokens())) {
      preempt_last();  // at the latest this sequence itself
    }
    if (i >= running_.size()) return;
    sequence.n_scheduled = 1;
    ++n_decodes_;
    publish(sequence);
  }
}

void Scheduler::schedule_prompts(std::int64_t& budget, std::int64_t most_each) {
  for (const Owned& sequence : running_) {
    if (budget == 0) return;
    schedule_chunk(*sequence, budget, std::min(most_each, budget));
  }
}

void Scheduler::admit(std::int64_t& budget, std::int64_t most_each) {
  while (budget > 0 && !waiting_.empty() && n_running() < options_.max_sequences) {
    Sequence& sequence = *waiting_.front();
    if (!reserve(sequence)) return;
    schedule_chunk(sequence, budget, std::min(most_each, budget));
    const auto at = std::ranges::upper_bound(running_, waiting_.front(), is_earlier);
    running_.insert(at, std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

/// All pages of the prompt. One free block for every running sequence stays back, so that an
/// admission is not undone at once.
bool Scheduler::reserve(Sequence& sequence) {
  KvCache::Prefix prefix;
  if (can_find(sequence)) prefix = cache_.find_prefix(sequence.kv, sequence.tokens);
  const std::int64_t n_new = KvCache::n_blocks_for(sequence.n_tokens()) - prefix.n_blocks;
  if (n_new + prefix.n_free_blocks + n_running() > cache_.n_free_blocks()) return false;
  const bool is_first_time = sequence.stats.n_preemptions == 0;
  if (can_find(sequence)) {
    sequence.n_computed = cache_.adopt(sequence.kv, sequence.tokens);
    if (is_first_time) {
      stats_.n_queried_tokens += sequence.n_prompt();
      stats_.n_found_tokens += sequence.n_computed;
      sequence.stats.n_cached = sequence.n_computed;
    }
  }
  const bool has_room = cache_.grow(sequence.kv, sequence.n_tokens());
  LOWBIT_ASSERT(has_room);
  return has_room;
}

void Scheduler::schedule_chunk(Sequence& sequence, std::int64_t& budget, std::int64_t most) {
  if (sequence.n_scheduled == 0) {
    find_more(sequence);
    if (is_led(sequence)) return;
  }
  const std::int64_t n_scheduled = std::min({sequence.n_pending() - sequence.n_scheduled,
                                             options_.prefill_chunk - sequence.n_scheduled, most});
  if (n_scheduled <= 0) return;
  sequence.n_scheduled += n_scheduled;
  n_prompt_tokens_ += n_scheduled;
  budget -= n_scheduled;
  publish(sequence);
}

/// What others have computed meanwhile, or compute in this very step.
void Scheduler::find_more(Sequence& sequence) {
  if (!can_find(sequence)) return;
  const std::int64_t n_found = cache_.adopt(sequence.kv, sequence.tokens);
  if (n_found <= sequence.n_computed) return;
  if (sequence.stats.n_preemptions == 0) {
    stats_.n_found_tokens += n_found - sequence.n_computed;
    sequence.stats.n_cached += n_found - sequence.n_computed;
  }
  sequence.n_computed = n_found;
}

/// An earlier one with the same text is in the block that this one needs next: its result is worth
/// waiting for. Nobody waits for a later one, so somebody always goes on.
bool Scheduler::is_led(const Sequence& sequence) const {
  if (!can_find(sequence)) return false;
  const std::int64_t first = sequence.n_computed / kv_block_positions * kv_block_positions;
  const std::int64_t end = first + kv_block_positions;
  if (end >= sequence.n_tokens()) return false;
  return std::ranges::any_of(running_, [&](const Owned& other) {
    const std::int64_t at = other->n_computed + other->n_scheduled;
    return goes_before(*other, sequence) && at >= first && at < end && other->n_tokens() >= end &&
           other->request.cache_salt == sequence.request.cache_salt &&
           std::equal(sequence.tokens.begin(), sequence.tokens.begin() + end,
                      other->tokens.begin());
  });
}

void Scheduler::publish(Sequence& sequence) {
  if (!options_.prefix_cache) return;
  cache_.publish(sequence.kv, sequence.tokens, sequence.n_computed,
                 sequence.n_computed + sequence.n_scheduled);
}

void Scheduler::preempt_last() {
  Sequence& last = *running_.back();
  cache_.release(last.kv);
  last.n_computed = last.n_scheduled = 0;
  last.hidden_sum.clear();
  ++last.stats.n_preemptions;
  ++stats_.n_preemptions;
  queue(std::move(running_.back()));
  running_.pop_back();
}

/// Every hidden state of a prompt is wanted, or only its last.
bool Scheduler::can_find(const Sequence& sequence) const {
  return options_.prefix_cache && !sequence.request.wants_embedding;
}

Sequence* Scheduler::find_running(RequestId id) const {
  const auto at = std::ranges::find_if(running_, has_id(id));
  return at == running_.end() ? nullptr : at->get();
}

bool Scheduler::remove_waiting(RequestId id) {
  return std::erase_if(waiting_, has_id(id)) > 0;
}

void Scheduler::remove_running(const std::function<bool(const Sequence&)>& is_done) {
  std::erase_if(running_, [&](const Owned& sequence) {
    if (!is_done(*sequence)) return false;
    cache_.release(sequence->kv);
    return true;
  });
}

std::int64_t Scheduler::n_waiting_tokens() const {
  return std::transform_reduce(waiting_.begin(), waiting_.end(), std::int64_t{0}, std::plus(),
                               [](const Owned& sequence) { return sequence->n_tokens(); });
}

std::int64_t Scheduler::n_generating() const {
  return std::ranges::count_if(running_,
                               [](const Owned& sequence) { return sequence->n_pending() == 1; });
}

}  // namespace lowbit
