// SPDX-License-Identifier: Apache-2.0
// Whatever the cache of keys and values does (hits, misses, evictions, preemptions, shared blocks),
// the logits of a request are the bits that it gets alone in a cache without sharing.
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lowbit/backend/cpu_backend.h"
#include "lowbit/runtime/engine.h"
#include "lowbit/runtime/random_model.h"

namespace lowbit {
namespace {

constexpr std::int64_t block = kv_block_positions;

struct Trace {
  std::vector<std::vector<std::uint32_t>> logits;  // bits, so that NaN compares too
  std::vector<std::int32_t> tokens;
  bool operator==(const Trace&) const = default;
};

class PrefixCacheTest : public testing::TestWithParam<KvKind> {
 protected:
  std::unique_ptr<Engine> make_engine(EngineOptions options) {
    options.kv = GetParam();
    auto engine = Engine::create(*backend_, weights_, nullptr, options);
    EXPECT_TRUE(engine) << engine.error().message();
    return *std::move(engine);
  }

  std::vector<std::int32_t> text(std::int64_t n_tokens, std::int64_t which = 0) const {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < n_tokens; ++i) {
      ids.push_back(
          static_cast<std::int32_t>((i * 31 + which * 17 + i * i) % weights_.config.n_vocab));
    }
    return ids;
  }

  static void record(Request& request, Trace& trace) {
    request.on_logits = [&trace](std::int64_t, std::span<const float> logits) {
      auto& bits = trace.logits.emplace_back(logits.size());
      std::memcpy(bits.data(), logits.data(), logits.size_bytes());
    };
  }

  RequestId add(Engine& engine, Request request, Trace& trace) {
    record(request, trace);
    auto id = engine.add_request(std::move(request));
    EXPECT_TRUE(id) << id.error().message();
    by_id_[*id] = &trace;
    return *id;
  }

  void step(Engine& engine) {
    for (const Output& output : engine.step()) {
      if (output.token) by_id_[output.id]->tokens.push_back(*output.token);
      if (output.finish) finished_[output.id] = output;
    }
  }

  void drain(Engine& engine) {
    for (int i = 0; !engine.is_idle(); ++i) {
      ASSERT_LT(i, 100000);
      step(engine);
    }
    EXPECT_EQ(engine.kv_cache().n_free_blocks(), engine.kv_cache().n_blocks());
  }

  Trace alone(Request request) {
    auto engine = make_engine({.n_ctx = 5 * block, .prefix_cache = false});
    Trace trace;
    add(*engine, std::move(request), trace);
    drain(*engine);
    return trace;
  }

  RandomModel model_{{.seed = 21, .schemes = {"q8_0", "int4.channel"}}};
  ThreadPool pool_{2};
  std::unique_ptr<Backend> backend_ = *make_cpu_backend(pool_);
  ModelWeights weights_ = *load_weights(model_, *backend_, {});
  std::map<RequestId, Trace*> by_id_;
  std::map<RequestId, Output> finished_;
};

TEST_P(PrefixCacheTest, AHitGivesTheBitsOfAMiss) {
  auto engine = make_engine({.n_ctx = 5 * block, .n_kv_positions = 12 * block});
  // Lengths around whole blocks, where the last token has to be computed once more.
  for (const std::int64_t length :
       {block - 1, block, block + 1, 2 * block, 2 * block + 1, 3 * block + 30}) {
    const Request request{.prompt = text(length), .max_tokens = 3};
    const Trace expected = alone(request);
    for (int again = 0; again < 2; ++again) {
      Trace trace;
      const RequestId id = add(*engine, request, trace);
      drain(*engine);
      EXPECT_TRUE(trace == expected) << length << (again == 0 ? "" : ", again");
      if (again == 1) {
        EXPECT_EQ(finished_[id].stats.n_cached, (length - 1) / block * block);
      }
    }
  }
}

TEST_P(PrefixCacheTest, ChatTurnsFindWhatWasAnswered) {
  auto engine = make_engine({.n_ctx = 5 * block});
  std::vector<std::int32_t> conversation = text(50);
  for (int turn = 0; turn < 3; ++turn) {
    const Request request{.prompt = conversation, .max_tokens = 40};
    Trace trace;
    const RequestId id = add(*engine, request, trace);
    drain(*engine);
    EXPECT_TRUE(trace == alone(request)) << turn;
    // The last token of an answer is never computed.
    EXPECT_EQ(finished_[id].stats.n_cached,
              turn == 0 ? 0 : (std::ssize(conversation) - 31) / block * block);
    conversation.insert(conversation.end(), trace.tokens.begin(), trace.tokens.end());
    const auto next = text(30, turn + 5);
    conversation.insert(conversation.end(), next.begin(), next.end());
  }
}

TEST_P(PrefixCacheTest, NeighboursShareWhatOneOfThemIsComputing) {
  auto engine = make_engine(
      {.n_ctx = 5 * block, .n_kv_positions = 10 * block, .step_tokens = 100, .prefill_chunk = 70});
  // Four times 4 blocks would not fit into 10: with shared ones they run together.
  std::vector<Request> requests;
  for (int i = 0; i < 4; ++i) {
    Request request{.prompt = text(3 * block + 5), .max_tokens = 6};
    request.sampling.seed = static_cast<std::uint64_t>(i);
    requests.push_back(std::move(request));
  }
  std::vector<Trace> traces(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) add(*engine, requests[i], traces[i]);
  std::int64_t most_running = 0;
  while (!engine->is_idle()) {
    step(*engine);
    most_running = std::max(most_running, engine->n_running());
  }
  EXPECT_EQ(most_running, 4);
  EXPECT_EQ(engine->n_preemptions(), 0);
  EXPECT_LT(engine->stats().n_computed_tokens, 2 * (3 * block + 5));
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EXPECT_TRUE(traces[i] == alone(requests[i])) << i;
  }
}

TEST_P(PrefixCacheTest, RandomLoadDoesNotChangeABit) {
  std::mt19937 random(static_cast<unsigned>(GetParam()) + 3);
  const auto draw = [&](std::int64_t n) { return static_cast<std::int64_t>(random()) % n; };
  // What may be asked for: prompts with common beginnings.
  std::vector<Request> requests;
  std::vector<Trace> expected;
  for (int i = 0; i < 10; ++i) {
    Request request{.prompt = text(1 + draw(2 * block), i % 2), .max_tokens = 1 + draw(2 * block)};
    if (i % 3 == 0) {
      const auto end = text(1 + draw(40), 7 + i);
      request.prompt.insert(request.prompt.end(), end.begin(), end.end());
    }
    request.sampling.seed = static_cast<std::uint64_t>(i);
    expected.push_back(alone(request));
    requests.push_back(std::move(request));
  }
  std::int64_t n_preemptions = 0, n_found = 0, n_compared = 0;
  for (int round = 0; round < 3; ++round) {
    auto engine = make_engine({.n_ctx = 5 * block,
                               .n_kv_positions = (5 + 2 * round) * block,
                               .max_sequences = 6,
                               .step_tokens = 40 + draw(200),
                               .prefill_chunk = 10 + draw(150)});
    struct Live {
      std::size_t which;
      Trace trace;
      bool is_cancelled = false;
    };
    std::map<RequestId, std::unique_ptr<Live>> live;
    by_id_.clear();
    finished_.clear();
    for (int i = 0; i < 60; ++i) {
      for (std::int64_t n = draw(3); n > 0; --n) {
        if (live.size() >= 18) break;
        auto made = std::make_unique<Live>();
        made->which = static_cast<std::size_t>(draw(std::ssize(requests)));
        Request request = requests[made->which];
        request.priority = static_cast<int>(draw(3));
        request.cache_salt = draw(5) == 0 ? "other" : "";
        const RequestId id = add(*engine, std::move(request), made->trace);
        live[id] = std::move(made);
      }
      if (!live.empty() && draw(10) == 0) {
        const auto at = std::next(live.begin(), draw(std::ssize(live)));
        if (engine->cancel(at->first)) at->second->is_cancelled = true;
      }
      step(*engine);
    }
    drain(*engine);
    for (const auto& [id, request] : live) {
      const Trace& whole = expected[request->which];
      if (request->is_cancelled) {
        ASSERT_LE(request->trace.logits.size(), whole.logits.size());
        EXPECT_TRUE(std::ranges::equal(
            request->trace.logits, std::span(whole.logits).first(request->trace.logits.size())));
      } else {
        EXPECT_TRUE(request->trace == whole) << "request " << id << " of round " << round;
        ++n_compared;
      }
    }
    n_preemptions += engine->n_preemptions();
    n_found += engine->stats().scheduler.n_found_tokens;
  }
  EXPECT_GT(n_preemptions, 0);
  EXPECT_GT(n_found, 0);
  EXPECT_GT(n_compared, 20);
}

std::string kind_name(const testing::TestParamInfo<KvKind>& info) {
  std::string name(name_of(info.param));
  std::ranges::replace(name, '.', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Kv, PrefixCacheTest, testing::ValuesIn(all_kv_kinds), kind_name);

}  // namespace
}  // namespace lowbit
