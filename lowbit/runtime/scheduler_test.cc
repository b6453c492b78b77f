// SPDX-License-Identifier: Apache-2.0
// The scheduler with nothing behind it: a step "computes" a position by writing down which text it
// ends, so that a page with the wrong content is seen at once.
#include "lowbit/runtime/scheduler.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "lowbit/backend/cpu_backend.h"

namespace lowbit {
namespace {

using Tokens = std::vector<std::int32_t>;
constexpr std::int64_t block = kv_block_positions;

class SchedulerTest : public testing::Test {
 protected:
  static constexpr std::int64_t any_tokens = 1 << 20, n_layers = 2;

  Scheduler make(std::int64_t n_blocks, const SchedulerOptions& options) {
    auto cache = KvCache::create(*backend_, {KvKind::int4_g64, n_layers, 1, 16}, n_blocks * block);
    EXPECT_TRUE(cache);
    return {*std::move(cache), options};
  }

  /// The answer to a prompt is a function of the prompt alone.
  static std::int32_t answer_token(const Sequence& sequence) {
    return 1000 + static_cast<std::int32_t>(
                      (sequence.request.prompt.size() * 31 + sequence.tokens.size() * 7) % 50);
  }

  RequestId add(Scheduler& scheduler, Tokens prompt, std::int64_t max_tokens, int priority = 0,
                std::string salt = {}) {
    Request request{.prompt = std::move(prompt), .max_tokens = max_tokens};
    request.priority = priority;
    request.cache_salt = std::move(salt);
    scheduler.add(std::make_unique<Sequence>(next_id_, std::move(request), nullptr));
    return next_id_++;
  }

  /// One step. Every planned position is written; then every sequence of the step reads all of
  /// its own.
  void step(Scheduler& scheduler, std::int64_t n_prompt_tokens = any_tokens) {
    planned_.clear();
    const auto planned = scheduler.plan(n_prompt_tokens);
    for (Sequence* const sequence : planned) {
      planned_[sequence->id] = sequence->n_scheduled;
      const auto texts = texts_of(*sequence);
      for (std::int64_t i = 0; i < sequence->n_scheduled; ++i) {
        const std::int64_t position = sequence->n_computed + i;
        for (std::int64_t layer = 0; layer < n_layers; ++layer) {
          cell_of(*sequence, layer, position) =
              texts[static_cast<std::size_t>(position)] + static_cast<std::uint64_t>(layer);
        }
      }
    }
    for (Sequence* const sequence : planned) {
      sequence->n_computed += sequence->n_scheduled;
      const auto texts = texts_of(*sequence);
      for (std::int64_t position = 0; position < sequence->n_computed; ++position) {
        for (std::int64_t layer = 0; layer < n_layers; ++layer) {
          ASSERT_EQ(cell_of(*sequence, layer, position),
                    texts[static_cast<std::size_t>(position)] + static_cast<std::uint64_t>(layer))
              << "request " << sequence->id << ", position " << position;
        }
      }
    }
    for (Sequence* const sequence : planned) {
      if (sequence->n_pending() > 0) continue;
      sequence->tokens.push_back(answer_token(*sequence));
      if (sequence->n_generated() < sequence->request.max_tokens) continue;
      finished_.push_back(sequence->id);
      sequence->id = 0;
    }
    scheduler.remove_running([](const Sequence& sequence) { return sequence.id == 0; });
  }

  void drain(Scheduler& scheduler) {
    for (int i = 0; !scheduler.is_idle(); ++i) {
      ASSERT_LT(i, 100000) << "no end in sight";
      step(scheduler);
      ASSERT_FALSE(planned_.empty()) << "nothing moves";
    }
    EXPECT_EQ(scheduler.cache().n_free_blocks(), scheduler.cache().n_blocks());
  }

  static Tokens text(std::int64_t n_tokens, std::int32_t first = 1) {
    Tokens tokens;
    for (std::int64_t i = 0; i < n_tokens; ++i) {
      tokens.push_back(first + static_cast<std::int32_t>(i * 13 % 97));
    }
    return tokens;
  }

  ThreadPool pool_{1};
  std::unique_ptr<Backend> backend_ = *make_cpu_backend(pool_);
  RequestId next_id_ = 1;
  std::map<RequestId, std::int64_t> planned_;  // tokens of the last step
  std::vector<RequestId> finished_;            // in order

 private:
  std::uint64_t& cell_of(const Sequence& sequence, std::int64_t layer, std::int64_t position) {
    const std::int32_t page = sequence.kv.pages(layer)[static_cast<std::size_t>(position / block)];
    return cells_[{page, position % block}];
  }
  /// A hash of everything up to each token.
  static std::vector<std::uint64_t> texts_of(const Sequence& sequence) {
    std::uint64_t hash = 7;
    for (const char c : sequence.request.cache_salt)
      hash = hash * 131 + static_cast<std::uint8_t>(c);
    std::vector<std::uint64_t> texts;
    for (const std::int32_t token : sequence.tokens) {
      hash = hash * 0x9e3779b97f4a7c15 + static_cast<std::uint64_t>(token) + 1;
      texts.push_back(hash);
    }
    return texts;
  }
  std::map<std::pair<std::int32_t, std::int64_t>, std::uint64_t> cells_;
};

TEST_F(SchedulerTest, ALongPromptLeavesHalfOfTheBudgetToOthers) {
  Scheduler scheduler = make(40, {.max_sequences = 8, .step_tokens = 128});
  const RequestId alone = add(scheduler, text(400), 5);
  step(scheduler);
  EXPECT_EQ(planned_[alone], 128);  // nobody else is there
  const RequestId other = add(scheduler, text(300, 2), 5);
  const RequestId small = add(scheduler, text(10, 3), 5);
  step(scheduler);
  EXPECT_EQ(planned_[alone], 64);
  EXPECT_EQ(planned_[other], 64);
  for (int i = 0; i < 3; ++i) step(scheduler);
  EXPECT_FALSE(planned_.contains(small));
  step(scheduler);  // now the first one needs less than its half
  EXPECT_EQ(planned_[alone], 16);
  EXPECT_EQ(planned_[small], 10);
  drain(scheduler);
}

TEST_F(SchedulerTest, DecodesComeFirstAndThePromptBudgetHolds) {
  Scheduler scheduler = make(40, {.max_sequences = 4, .step_tokens = 64});
  const RequestId first = add(scheduler, text(3), 100);
  step(scheduler);
  const RequestId second = add(scheduler, text(300, 5), 5);
  step(scheduler, 20);
  EXPECT_EQ(planned_[first], 1);
  EXPECT_EQ(planned_[second], 20);
  EXPECT_EQ(scheduler.n_planned_decodes(), 1);
  EXPECT_EQ(scheduler.n_planned_prompt_tokens(), 20);
  step(scheduler);
  EXPECT_EQ(planned_[second], 63);
  drain(scheduler);
}

TEST_F(SchedulerTest, AdmitsOnlyWholePromptsInOrder) {
  Scheduler scheduler = make(6, {.max_sequences = 8});
  add(scheduler, text(3 * block), 20);  // 4 blocks with its answer
  const RequestId big = add(scheduler, text(4 * block, 2), 2);
  const RequestId small = add(scheduler, text(3, 3), 2);
  step(scheduler);
  EXPECT_EQ(planned_.size(), 1u);  // the big one does not fit, and nobody overtakes it
  for (int i = 0; i < 18; ++i) {
    step(scheduler);
    EXPECT_EQ(planned_.size(), 1u) << i;
  }
  drain(scheduler);
  EXPECT_EQ(finished_, (std::vector<RequestId>{1, big, small}));
}

TEST_F(SchedulerTest, PriorityIsAHeadStartThatWaitingMakesUpFor) {
  const SchedulerOptions options{.max_sequences = 1, .priority_span = 3};
  Scheduler scheduler = make(4, options);
  // Ranks: 1, 2 - 3, 3, 4 + 3, 5, 6 - 2 * 3.
  for (const int priority : {0, -1, 0, 1, 0, -2}) {
    add(scheduler, text(4), 1, priority);
  }
  drain(scheduler);
  EXPECT_EQ(finished_, (std::vector<RequestId>{2, 6, 1, 3, 5, 4}));

  // An unimportant request among a stream of important ones: late, but served.
  finished_.clear();
  const RequestId patient = add(scheduler, text(4), 1, 2);
  for (int i = 0; i < 20; ++i) {
    add(scheduler, text(4), 1, -1);
    step(scheduler);
  }
  const auto at = std::ranges::find(finished_, patient);
  ASSERT_NE(at, finished_.end());
  EXPECT_EQ(at - finished_.begin(), (2 + 1) * options.priority_span - 1);
  drain(scheduler);
}

TEST_F(SchedulerTest, APrefixIsComputedOnce) {
  Scheduler scheduler = make(40, {.max_sequences = 8});
  const Tokens shared = text(5 * block + 10);
  const auto with = [&](std::int32_t last) {
    Tokens tokens = shared;
    tokens.push_back(last);
    return tokens;
  };
  add(scheduler, with(1), 4);
  add(scheduler, with(2), 4);
  step(scheduler);
  // The second one reads what the first writes in this very step.
  EXPECT_EQ(planned_[1], 5 * block + 11);
  EXPECT_EQ(planned_[2], 11);
  EXPECT_EQ(scheduler.stats().n_found_tokens, 5 * block);
  EXPECT_EQ(scheduler.stats().n_queried_tokens, 2 * (5 * block + 11));
  drain(scheduler);
  EXPECT_EQ(scheduler.cache().n_cached_blocks(), 5);
  add(scheduler, with(3), 4);
  step(scheduler);
  EXPECT_EQ(planned_[3], 11);
  // Another salt finds nothing.
  add(scheduler, with(3), 4, 0, "other");
  step(scheduler);
  EXPECT_EQ(planned_[4], 5 * block + 11);
  drain(scheduler);

  Scheduler without = make(40, {.max_sequences = 8, .prefix_cache = false});
  const RequestId first = add(without, with(1), 4), second = add(without, with(1), 4);
  step(without);
  EXPECT_EQ(planned_[first] + planned_[second], 512);
  drain(without);
  EXPECT_EQ(without.cache().n_cached_blocks(), 0);
}

TEST_F(SchedulerTest, ChunksOfEqualPromptsHelpEachOther) {
  Scheduler scheduler = make(80, {.max_sequences = 8, .step_tokens = 200});
  constexpr std::int64_t n_tokens = 10 * block + 1;
  for (int i = 0; i < 4; ++i) add(scheduler, text(n_tokens), 1);
  std::int64_t n_computed = 0;
  while (!scheduler.is_idle()) {
    step(scheduler);
    n_computed += scheduler.n_planned_prompt_tokens();
  }
  // The others compute their last token.
  EXPECT_EQ(n_computed, n_tokens + 3);
}

TEST_F(SchedulerTest, APromptOfWholeBlocksStillComputesItsLastToken) {
  Scheduler scheduler = make(8, {.max_sequences = 4});
  for (int i = 0; i < 3; ++i) {
    const RequestId id = add(scheduler, text(2 * block), 3);
    step(scheduler);
    EXPECT_EQ(planned_[id], i == 0 ? 2 * block : block);
    drain(scheduler);
  }
}

TEST_F(SchedulerTest, ThePreemptedComesBackToItsPlaceAndFindsItsBlocks) {
  Scheduler scheduler = make(5, {.max_sequences = 4});
  const RequestId first = add(scheduler, text(block - 2), 3 * block, -1);
  constexpr std::int64_t n_prompt = block + 5;
  const RequestId second = add(scheduler, text(n_prompt, 2), 150);
  add(scheduler, text(5, 3), 5, 1);
  // Both grow until the pages are gone; the later one gives way to the end of the earlier one.
  std::int64_t n_generated = 0;
  while (scheduler.stats().n_preemptions == 0) {
    step(scheduler);
    if (planned_.contains(second)) ++n_generated;
  }
  EXPECT_FALSE(planned_.contains(second));
  EXPECT_TRUE(planned_.contains(first));
  while (!planned_.contains(second)) step(scheduler);
  EXPECT_EQ(std::ranges::count(finished_, first), 1);
  // The first one needed the room of one of its two full blocks.
  EXPECT_EQ(planned_[second], n_prompt + n_generated - block);
  drain(scheduler);
  EXPECT_EQ(std::ranges::count(finished_, first), 1);
  EXPECT_EQ(std::ranges::count(finished_, second), 1);
  EXPECT_EQ(finished_.size(), 3u);
}

/// Arrivals, cancellations and growth at random, in caches from one context up: no page ever holds
/// anything else than its sequences say, everyone ends, no page is lost.
TEST_F(SchedulerTest, RandomLoadKeepsEveryPageRight) {
  std::mt19937 random(20);
  const auto draw = [&](std::int64_t n) { return static_cast<std::int64_t>(random()) % n; };
  std::int64_t n_preemptions = 0, n_found = 0;
  for (int round = 0; round < 18; ++round) {
    const std::int64_t n_blocks = 5 + draw(12);
    Scheduler scheduler = make(n_blocks, {.max_sequences = 1 + draw(6),
                                          .step_tokens = 16 + draw(300),
                                          .prefill_chunk = 1 + draw(200),
                                          .priority_span = draw(8),
                                          .prefix_cache = round % 6 != 5});
    finished_.clear();
    std::set<RequestId> alive;
    std::vector<RequestId> cancelled;
    for (int i = 0; i < 150; ++i) {
      if (draw(3) == 0) {
        // Prompts share beginnings of several lengths; a context holds 5 blocks.
        Tokens prompt = text(draw(2 * block) + 1, static_cast<std::int32_t>(draw(2)));
        if (draw(2) == 0) prompt.push_back(static_cast<std::int32_t>(draw(3)));
        alive.insert(add(scheduler, prompt, 1 + draw(3 * block - 2), static_cast<int>(draw(3)) - 1,
                         draw(4) == 0 ? "salt" : ""));
      }
      if (!alive.empty() && draw(15) == 0) {
        const RequestId id =
            *std::next(alive.begin(), draw(static_cast<std::int64_t>(alive.size())));
        if (!scheduler.remove_waiting(id)) {
          scheduler.remove_running([&](const Sequence& other) { return other.id == id; });
        }
        cancelled.push_back(id);
        alive.erase(id);
      }
      step(scheduler, draw(4) == 0 ? 1 + draw(40) : any_tokens);
      if (HasFatalFailure()) return;
      for (const RequestId id : finished_) alive.erase(id);
    }
    drain(scheduler);
    if (HasFatalFailure()) return;
    EXPECT_EQ(finished_.size() + cancelled.size(), static_cast<std::size_t>(next_id_ - 1));
    next_id_ = 1;
    n_preemptions += scheduler.stats().n_preemptions;
    n_found += scheduler.stats().n_found_tokens;
  }
  EXPECT_GT(n_preemptions, 20);
  EXPECT_GT(n_found, 1000);
}

}  // namespace
}  // namespace lowbit
