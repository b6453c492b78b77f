// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/engine.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "lowbit/runtime/engine_fixture.h"

namespace lowbit {
namespace {

TEST_F(EngineTest, FinishesByLengthOfAnswerAndContext) {
  auto engine = make_engine({.n_ctx = 40});
  const RequestId by_limit = *engine->add_request({.prompt = prompt(5), .max_tokens = 7});
  const RequestId by_context = *engine->add_request({.prompt = prompt(30)});
  auto tokens = drain(*engine);
  EXPECT_EQ(tokens[by_limit].size(), 7u);
  EXPECT_EQ(tokens[by_context].size(), 10u);
  EXPECT_EQ(finished_[by_limit], FinishReason::length);
  EXPECT_EQ(finished_[by_context], FinishReason::length);
  EXPECT_EQ(engine->kv_cache().n_free_blocks(), engine->kv_cache().n_blocks());
}

TEST_F(EngineTest, StopIdsEndARequest) {
  auto engine = make_engine({.n_ctx = 100});
  Request request{.prompt = prompt(4), .max_tokens = 20};
  const RequestId free_run = *engine->add_request(request);
  const auto tokens = drain(*engine)[free_run];
  // A token that was not generated before the place where it is to stop the second run.
  std::size_t at = 3;
  while (std::find(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(at), tokens[at]) !=
         tokens.begin() + static_cast<std::ptrdiff_t>(at)) {
    ++at;
    ASSERT_LT(at, tokens.size());
  }
  request.stop_ids = {tokens[at]};
  const RequestId stopped = *engine->add_request(request);
  const auto stopped_tokens = drain(*engine)[stopped];
  EXPECT_EQ(stopped_tokens,
            std::vector(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(at + 1)));
  EXPECT_EQ(finished_[stopped], FinishReason::stop);
}

TEST_F(EngineTest, RefusalsSayWhatIsWrong) {
  auto engine = make_engine({.n_ctx = 50});
  EXPECT_NE(refusal(*engine, {.prompt = {}}).find("no tokens"), std::string::npos);
  const std::string too_long = refusal(*engine, {.prompt = prompt(51)});
  EXPECT_NE(too_long.find("51"), std::string::npos) << too_long;
  EXPECT_NE(too_long.find("50"), std::string::npos) << too_long;
  EXPECT_EQ(refusal(*engine, {.prompt = prompt(49), .max_tokens = 1}), "no error");
  EXPECT_NE(refusal(*engine, {.prompt = {1, 83}}).find("83"), std::string::npos);
  EXPECT_NE(refusal(*engine, {.prompt = {-1}}).find("-1"), std::string::npos);
  EXPECT_NE(refusal(*engine, {.prompt = {1}, .max_tokens = 0}).find("max_tokens is 0"),
            std::string::npos);
  EXPECT_NE(refusal(*engine, {.prompt = {1}, .sampling = {.top_k = -1}}).find("top_k"),
            std::string::npos);
  EXPECT_NE(refusal(*engine, {.prompt = {1}, .stop_strings = {"x"}}).find("tokenizer"),
            std::string::npos);
  for (const EngineOptions& options :
       {EngineOptions{.n_ctx = 401}, EngineOptions{.n_ctx = 1},
        EngineOptions{.n_ctx = 100, .n_kv_positions = 99},
        EngineOptions{.n_ctx = 100, .max_sequences = 8, .step_tokens = 7},
        EngineOptions{.n_ctx = 100, .prefill_chunk = 0}}) {
    EXPECT_FALSE(Engine::create(*backend_, weights_, nullptr, options));
  }
}

TEST_F(EngineTest, CancelFreesPagesAtOnceAndIsReported) {
  auto engine = make_engine({.n_ctx = 300, .max_sequences = 1, .prefill_chunk = 16});
  const RequestId running = *engine->add_request({.prompt = prompt(100)});
  const RequestId queued = *engine->add_request({.prompt = prompt(100)});
  EXPECT_TRUE(engine->step().empty());  // inside the prompt
  EXPECT_LT(engine->kv_cache().n_free_blocks(), engine->kv_cache().n_blocks());
  EXPECT_TRUE(engine->cancel(running));
  EXPECT_TRUE(engine->cancel(queued));
  EXPECT_FALSE(engine->cancel(queued));
  EXPECT_FALSE(engine->cancel(12345));
  EXPECT_EQ(engine->kv_cache().n_free_blocks(), engine->kv_cache().n_blocks());
  EXPECT_FALSE(engine->is_idle());
  const auto outputs = engine->step();
  ASSERT_EQ(outputs.size(), 2u);
  EXPECT_EQ(outputs[0].finish, FinishReason::cancelled);
  EXPECT_TRUE(engine->is_idle());
}

TEST_F(EngineTest, CancelledInTheMiddleOfAStepLeavesTheOthersAlone) {
  const EngineOptions options{.n_ctx = 200, .n_kv_positions = 800, .prefill_chunk = 32};
  const std::vector<std::int64_t> lengths{5, 40, 70, 20};
  std::vector<std::vector<std::int32_t>> alone;
  for (const std::int64_t length : lengths) {
    auto engine = make_engine(options);
    const RequestId id = *engine->add_request({.prompt = prompt(length), .max_tokens = 6});
    alone.push_back(drain(*engine)[id]);
  }
  // When the first request chooses its third token, the second (after it in the step), the third
  // (still in its prompt or just out of it) and the first itself are cancelled; then all four.
  for (const std::size_t n_cancelled : {3, 4}) {
    auto engine = make_engine(options);
    std::vector<RequestId> ids;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      Request request{.prompt = prompt(lengths[i]), .max_tokens = 6};
      if (i == 0) {
        request.on_logits = [&](std::int64_t position, std::span<const float>) {
          if (position != lengths[0] + 2) return;
          for (std::size_t other = n_cancelled; other-- > 0;) {
            EXPECT_TRUE(engine->cancel(ids[other]));
            EXPECT_FALSE(engine->cancel(ids[other]));
          }
        };
      }
      ids.push_back(*engine->add_request(std::move(request)));
    }
    auto tokens = drain(*engine);
    EXPECT_EQ(tokens[ids[0]].size(), 2u);
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      const bool is_cancelled = i < n_cancelled;
      EXPECT_EQ(finished_[ids[i]], is_cancelled ? FinishReason::cancelled : FinishReason::length);
      // What was generated until then, or all of it.
      ASSERT_LE(tokens[ids[i]].size(), alone[i].size());
      EXPECT_TRUE(std::ranges::equal(
          tokens[ids[i]], std::span(alone[i]).first(is_cancelled ? tokens[ids[i]].size() : 6)));
    }
    EXPECT_EQ(engine->kv_cache().n_free_blocks(), engine->kv_cache().n_blocks());
  }
}

TEST_F(EngineTest, PagesOfACancelledRequestAreClean) {
  const auto logits_of = [&](Engine& engine) {
    std::vector<float> seen;
    Request request{.prompt = prompt(70, 3), .max_tokens = 2};
    request.on_logits = [&](std::int64_t, std::span<const float> logits) {
      seen.insert(seen.end(), logits.begin(), logits.end());
    };
    EXPECT_TRUE(engine.add_request(request));
    drain(engine);
    return seen;
  };
  for (const KvKind kind : all_kv_kinds) {
    const EngineOptions options{.n_ctx = 128, .kv = kind};
    auto fresh = make_engine(options);
    const std::vector<float> expected = logits_of(*fresh);
    for (const float logit : expected) ASSERT_TRUE(std::isfinite(logit));

    // The same pool after a request whose keys and values are all NaN was cancelled.
    RandomModel poisoned({.seed = 11, .schemes = {"q8_0", "q4_0"}});
    ModelWeights poison = *load_weights(poisoned, *backend_, {});
    const std::vector<float> nan(static_cast<std::size_t>(weights_.config.d_model), std::nanf(""));
    const std::vector<float> norm = [&] {
      std::vector<float> numbers(nan.size());
      backend_->download(*poison.layers[0].attention_norm, numbers);
      return numbers;
    }();
    auto engine = Engine::create(*backend_, poison, nullptr, options);
    ASSERT_TRUE(engine);
    backend_->upload(nan, *poison.layers[0].attention_norm);
    const RequestId id = *(*engine)->add_request({.prompt = prompt(120)});
    (*engine)->step();
    EXPECT_EQ((*engine)->kv_cache().n_free_blocks(), 0);
    EXPECT_TRUE((*engine)->cancel(id));
    (*engine)->step();
    backend_->upload(norm, *poison.layers[0].attention_norm);
    EXPECT_EQ(logits_of(**engine), expected) << name_of(kind);
  }
}

TEST_F(EngineTest, PreemptionDoesNotChangeTokens) {
  std::vector<std::vector<std::int32_t>> alone;
  constexpr int n_requests = 6;
  const auto request = [&](int i) {
    Request made{.prompt = prompt(20 + 11 * i, i), .max_tokens = 150};
    made.sampling.seed = static_cast<std::uint64_t>(i);
    return made;
  };
  for (int i = 0; i < n_requests; ++i) {
    auto engine = make_engine({.n_ctx = 260});
    const RequestId id = *engine->add_request(request(i));
    alone.push_back(drain(*engine)[id]);
    EXPECT_EQ(engine->n_preemptions(), 0);
  }
  // Room for few of them at full length: some must give way and be computed again.
  auto engine = make_engine({.n_ctx = 260, .n_kv_positions = 64 * 8, .prefill_chunk = 24});
  std::vector<RequestId> ids;
  for (int i = 0; i < n_requests; ++i) ids.push_back(*engine->add_request(request(i)));
  auto together = drain(*engine);
  EXPECT_GT(engine->n_preemptions(), 0);
  for (int i = 0; i < n_requests; ++i) {
    EXPECT_EQ(together[ids[static_cast<std::size_t>(i)]], alone[static_cast<std::size_t>(i)]) << i;
  }
}

TEST_F(EngineTest, DecodesGoBeforePrompts) {
  auto engine = make_engine({.n_ctx = 200,
                             .n_kv_positions = 600,
                             .max_sequences = 4,
                             .step_tokens = 8,
                             .prefill_chunk = 8});
  const RequestId first = *engine->add_request({.prompt = prompt(3), .max_tokens = 30});
  engine->step();
  const RequestId second = *engine->add_request({.prompt = prompt(100), .max_tokens = 2});
  // 100 prompt tokens in chunks of 7: the first request gets a token in each of these steps.
  for (int i = 0; i < 14; ++i) {
    const auto outputs = engine->step();
    ASSERT_EQ(outputs.size(), 1u) << i;
    EXPECT_EQ(outputs[0].id, first);
  }
  EXPECT_EQ(engine->step().size(), 2u);
  drain(*engine);
  EXPECT_EQ(finished_[second], FinishReason::length);
}

TEST_F(EngineTest, StopStringsEndTheText) {
  const Tokenizer tokenizer = byte_tokenizer(weights_.config.n_vocab);
  auto engine = make_engine({.n_ctx = 100}, &tokenizer);
  const auto text_of = [&](const Request& request) {
    const RequestId id = *engine->add_request(request);
    std::string text;
    while (!engine->is_idle()) {
      for (const Output& output : engine->step()) {
        text += output.text;
        if (output.finish) finished_[id] = *output.finish;
      }
    }
    return std::pair(text, finished_[id]);
  };
  Request request{.prompt = prompt(6), .max_tokens = 24};
  const auto [whole, reason] = text_of(request);
  ASSERT_EQ(whole.size(), 24u);
  EXPECT_EQ(reason, FinishReason::length);
  request.stop_strings = {"not there at all", whole.substr(9, 4)};
  const auto [cut, cut_reason] = text_of(request);
  EXPECT_EQ(cut, whole.substr(0, whole.find(whole.substr(9, 4))));
  EXPECT_EQ(cut_reason, FinishReason::stop);
  // Held back at the end of the answer: it was no stop string after all.
  request.stop_strings = {whole.substr(20, 4) + "!!"};
  EXPECT_EQ(text_of(request).first, whole);
}

}  // namespace
}  // namespace lowbit
