// SPDX-License-Identifier: Apache-2.0
// What servers ask of the engine: limits of the queue, constraints, log-probabilities, embeddings,
// statistics.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>

#include "lowbit/runtime/engine.h"
#include "lowbit/runtime/engine_fixture.h"

namespace lowbit {
namespace {

TEST_F(EngineTest, AFullQueueIsToldApart) {
  auto engine = make_engine({.n_ctx = 50,
                             .n_kv_positions = 200,
                             .max_sequences = 2,
                             .step_tokens = 64,
                             .max_queued_requests = 3,
                             .max_queued_tokens = 60});
  RefusalKind refusal = RefusalKind::invalid;
  const auto add = [&](std::int64_t n_tokens) {
    return engine->add_request({.prompt = prompt(n_tokens), .max_tokens = 30}, &refusal)
        .has_value();
  };
  // Two that run and three that wait.
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(add(4)) << i;
  auto refused = engine->add_request({.prompt = prompt(4)}, &refusal);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refusal, RefusalKind::queue_full);
  EXPECT_NE(refused.error().message().find("5 requests with 20 prompt tokens"), std::string::npos)
      << refused.error().message();
  engine->step();
  EXPECT_EQ(engine->n_waiting(), 3);
  EXPECT_FALSE(add(4));
  while (engine->n_waiting() > 0) engine->step();
  // By tokens: one alone may always wait, however long.
  EXPECT_TRUE(add(49));
  EXPECT_FALSE(add(12));
  EXPECT_EQ(refusal, RefusalKind::queue_full);
  EXPECT_TRUE(add(11));
  EXPECT_EQ(engine->stats().n_refused, 3);
  EXPECT_FALSE(add(50));
  EXPECT_EQ(refusal, RefusalKind::too_long);
  EXPECT_FALSE(engine->add_request({.prompt = {}}, &refusal));
  EXPECT_EQ(refusal, RefusalKind::invalid);
  EXPECT_EQ(engine->stats().n_refused, 3);
  drain(*engine);
}

TEST_F(EngineTest, RefusalsOfTheNewParameters) {
  auto engine = make_engine({.n_ctx = 50});
  EXPECT_NE(
      refusal(*engine, {.prompt = {1}, .max_tokens = 3, .min_tokens = 4}).find("min_tokens is 4"),
      std::string::npos);
  EXPECT_NE(refusal(*engine, {.prompt = {1}, .n_top = 21}).find("from 0 to 20"), std::string::npos);
  EXPECT_NE(refusal(*engine, {.prompt = {1}, .priority = 1001}).find("priority is 1001"),
            std::string::npos);
  for (const EngineOptions& options : {EngineOptions{.n_ctx = 100, .max_queued_requests = -1},
                                       EngineOptions{.n_ctx = 100, .max_itl = -1},
                                       EngineOptions{.n_ctx = 100, .max_itl = std::nan("")},
                                       EngineOptions{.n_ctx = 100, .kv_bytes = 1000}}) {
    EXPECT_FALSE(Engine::create(*backend_, weights_, nullptr, options));
  }
}

TEST_F(EngineTest, KvMemoryIsGivenInBytes) {
  const KvShape shape{KvKind::int8_token, weights_.config.n_layers, weights_.config.n_kv_heads,
                      weights_.config.head_dim};
  auto engine = make_engine({.n_ctx = 100,
                             .kv = shape.kind,
                             .kv_bytes = 5 * kv_block_bytes(shape) + 1,
                             .occupy_kv = true});
  EXPECT_EQ(engine->stats().n_kv_blocks, 5);
  EXPECT_EQ(engine->stats().kv_block_bytes, kv_block_bytes(shape));
  EXPECT_EQ(engine->stats().kv_usage(), 0);
  ASSERT_TRUE(engine->add_request({.prompt = prompt(70), .max_tokens = 3}));
  engine->step();
  EXPECT_DOUBLE_EQ(engine->stats().kv_usage(), 1 - 3.0 / 5);
  drain(*engine);
  EXPECT_EQ(engine->stats().n_kv_blocks_cached, 1);
}

/// Numbers of two tokens that must take turns, then an end.
class Turns : public TokenConstraint {
 public:
  Turns(std::vector<std::int32_t> first, std::vector<std::int32_t> second, int n_tokens)
      : turns_{std::move(first), std::move(second)}, n_left_(n_tokens) {}
  void fill_mask(std::span<std::uint64_t> allowed) override {
    for (const std::uint64_t word : allowed) EXPECT_EQ(word, 0u);
    for (const std::int32_t token : turns_[n_accepted_ % 2]) {
      allowed[static_cast<std::size_t>(token / 64)] |= std::uint64_t{1} << (token % 64);
    }
  }
  void accept(std::int32_t token) override {
    EXPECT_EQ(std::ranges::count(turns_[n_accepted_ % 2], token), 1);
    ++n_accepted_;
    --n_left_;
  }
  bool is_complete() const override { return n_left_ == 0; }

 private:
  std::array<std::vector<std::int32_t>, 2> turns_;
  std::size_t n_accepted_ = 0;
  int n_left_;
};

TEST_F(EngineTest, AConstraintRulesEveryToken) {
  const auto request = [&](int i) {
    Request made{.prompt = prompt(30 + 9 * i, i), .max_tokens = 150};
    made.sampling.temperature = 2;
    made.sampling.seed = static_cast<std::uint64_t>(i);
    made.constraint = std::make_shared<Turns>(std::vector<std::int32_t>{3, 64, 82},
                                              std::vector<std::int32_t>{0, 63}, 100 + i);
    return made;
  };
  std::vector<std::vector<std::int32_t>> alone;
  for (int i = 0; i < 4; ++i) {
    auto engine = make_engine({.n_ctx = 260});
    const RequestId id = *engine->add_request(request(i));
    alone.push_back(drain(*engine)[id]);
    EXPECT_EQ(std::ssize(alone.back()), 100 + i);
    EXPECT_EQ(finished_[id], FinishReason::stop);
  }
  auto engine = make_engine({.n_ctx = 260, .n_kv_positions = 64 * 6, .prefill_chunk = 24});
  std::vector<RequestId> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(*engine->add_request(request(i)));
  auto together = drain(*engine);
  EXPECT_GT(engine->n_preemptions(), 0);
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(together[ids[i]], alone[i]) << i;
}

TEST_F(EngineTest, AMaskWithoutATokenEndsTheAnswer) {
  auto engine = make_engine({.n_ctx = 100});
  const RequestId id =
      *engine->add_request({.prompt = prompt(5),
                            .constraint = std::make_shared<Turns>(std::vector<std::int32_t>{7},
                                                                  std::vector<std::int32_t>{}, 9)});
  EXPECT_EQ(drain(*engine)[id], std::vector<std::int32_t>{7});
  EXPECT_EQ(finished_[id], FinishReason::stop);
}

TEST_F(EngineTest, MinTokensForbidWhatEndsAnAnswer) {
  auto engine = make_engine({.n_ctx = 100});
  Request request{.prompt = prompt(4), .max_tokens = 20};
  const RequestId free_run = *engine->add_request(request);
  const auto tokens = drain(*engine)[free_run];
  ASSERT_EQ(tokens.size(), 20u);
  request.stop_ids = {tokens[0]};
  const RequestId stopped = *engine->add_request(request);
  EXPECT_EQ(drain(*engine)[stopped].size(), 1u);
  request.min_tokens = 12;
  const RequestId longer = *engine->add_request(request);
  const auto found = drain(*engine)[longer];
  EXPECT_GE(found.size(), 12u);
  EXPECT_EQ(std::ranges::count(std::span(found).first(12), tokens[0]), 0);
}

TEST_F(EngineTest, MinTokensHoldBackStopStrings) {
  const Tokenizer tokenizer = byte_tokenizer(weights_.config.n_vocab);
  auto engine = make_engine({.n_ctx = 100}, &tokenizer);
  Request request{.prompt = prompt(6), .max_tokens = 24};
  const auto text_of = [&] {
    std::string text;
    EXPECT_TRUE(engine->add_request(request));
    while (!engine->is_idle()) {
      for (const Output& output : engine->step()) text += output.text;
    }
    return text;
  };
  const std::string whole = text_of();
  request.stop_strings = {whole.substr(9, 4)};
  EXPECT_EQ(text_of(), whole.substr(0, whole.find(whole.substr(9, 4))));
  request.min_tokens = 20;
  const std::string longer = text_of();
  EXPECT_GE(longer.size(), 19u);
  EXPECT_EQ(longer, whole.substr(0, longer.size()));
}

TEST_F(EngineTest, LogprobsAreThoseOfTheRawLogits) {
  auto engine = make_engine({.n_ctx = 100});
  Request request{.prompt = prompt(8), .max_tokens = 5, .n_top = 3};
  request.sampling.temperature = 3;
  request.sampling.logit_bias = {{2, 40.0f}};
  std::vector<float> raw;
  request.on_logits = [&](std::int64_t, std::span<const float> logits) {
    raw.assign(logits.begin(), logits.end());
  };
  ASSERT_TRUE(engine->add_request(request));
  int n_seen = 0;
  while (!engine->is_idle()) {
    for (const Output& output : engine->step()) {
      ASSERT_TRUE(output.logprobs);
      const TokenLogprobs expected = logprobs_of(raw, *output.token, 3);
      EXPECT_EQ(output.logprobs->logprob, expected.logprob);
      ASSERT_EQ(output.logprobs->top.size(), 3u);
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(output.logprobs->top[i].token, expected.top[i].token);
      }
      ++n_seen;
    }
  }
  EXPECT_EQ(n_seen, 5);
  request.n_top.reset();
  ASSERT_TRUE(engine->add_request(request));
  EXPECT_FALSE(engine->step().front().logprobs);
}

/// The mean of what the output head reads, taken from the logits of a model whose head is known:
/// here by asking the forward pass itself, one sequence at a time.
TEST_F(EngineTest, EmbeddingsAreTheMeanOfTheHiddenStates) {
  const auto expected_of = [&](const std::vector<std::int32_t>& ids) {
    auto cache = KvCache::create(*backend_,
                                 {KvKind::f16, weights_.config.n_layers, weights_.config.n_kv_heads,
                                  weights_.config.head_dim},
                                 256);
    Forward forward(*backend_, weights_, 1);
    KvSequence kv;
    EXPECT_TRUE(cache->grow(kv, std::ssize(ids)));
    std::vector<double> sum(static_cast<std::size_t>(weights_.config.d_model));
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const StepSequence step{.tokens = std::span(ids).subspan(i, 1),
                              .first_position = static_cast<std::int64_t>(i),
                              .kv = &kv,
                              .wants_hidden = true};
      forward.run({&step, 1}, *cache);
      for (std::size_t j = 0; j < sum.size(); ++j) {
        sum[j] += static_cast<double>(forward.hidden(0).row_span(0)[j]);
      }
    }
    std::vector<float> mean;
    for (const double number : sum) {
      mean.push_back(static_cast<float>(number / static_cast<double>(ids.size())));
    }
    return mean;
  };
  // In chunks, beside requests that generate and share their prompts, with preemptions.
  auto engine =
      make_engine({.n_ctx = 200, .n_kv_positions = 320, .step_tokens = 64, .prefill_chunk = 30});
  std::map<RequestId, std::vector<std::int32_t>> embedded;
  std::vector<RequestId> generated;
  for (const std::int64_t length : {1, 64, 130, 200}) {
    if (length < 200) {
      generated.push_back(*engine->add_request({.prompt = prompt(length), .max_tokens = 60}));
    }
    const RequestId id = *engine->add_request({.prompt = prompt(length), .wants_embedding = true});
    embedded[id] = prompt(length);
  }
  std::map<RequestId, std::vector<std::int32_t>> tokens;
  while (!engine->is_idle()) {
    for (const Output& output : engine->step()) {
      if (output.token) tokens[output.id].push_back(*output.token);
      EXPECT_EQ(output.embedding.empty(), !embedded.contains(output.id));
      if (output.embedding.empty()) continue;
      EXPECT_EQ(output.finish, FinishReason::stop);
      EXPECT_FALSE(output.token);
      EXPECT_EQ(output.embedding, expected_of(embedded[output.id])) << output.stats.n_prompt;
      embedded.erase(output.id);
    }
  }
  EXPECT_TRUE(embedded.empty());
  for (std::size_t i = 0; i < generated.size(); ++i) {
    auto alone = make_engine({.n_ctx = 200});
    const RequestId id =
        *alone->add_request({.prompt = prompt(std::array{1, 64, 130}[i]), .max_tokens = 60});
    EXPECT_EQ(tokens[generated[i]], drain(*alone)[id]);
  }
  RefusalKind refusal = RefusalKind::invalid;
  EXPECT_FALSE(engine->add_request({.prompt = prompt(201), .wants_embedding = true}, &refusal));
  EXPECT_EQ(refusal, RefusalKind::too_long);
}

/// A clock that goes on by a second whenever it is looked at: a step takes two.
TEST_F(EngineTest, TimeDecidesWhenButNotWhat) {
  double now = 0;
  const auto options = [&](double max_itl) {
    return EngineOptions{
        .n_ctx = 300, .n_kv_positions = 900, .max_sequences = 4, .max_itl = max_itl, .clock = [&] {
          return now += 1;
        }};
  };
  std::vector<std::vector<std::int32_t>> answers;
  std::vector<std::int64_t> chunks;
  for (const double max_itl : {0.0, 0.5, 14.05, 1000.0}) {
    auto engine = make_engine(options(max_itl));
    const RequestId stream = *engine->add_request({.prompt = prompt(20), .max_tokens = 60});
    engine->step();
    engine->step();
    const RequestId late = *engine->add_request({.prompt = prompt(250, 2), .max_tokens = 5});
    std::vector<std::int32_t> answer;
    const auto take = [&](std::span<const Output> outputs) {
      for (const Output& output : outputs) {
        if (output.id == late) answer.push_back(*output.token);
        if (output.finish) finished_[output.id] = *output.finish;
      }
    };
    take(engine->step());
    chunks.push_back(engine->stats().step.n_prompt_tokens);
    EXPECT_EQ(engine->stats().step.n_decodes, 1);
    EXPECT_EQ(engine->stats().step.seconds, 2);
    while (!engine->is_idle()) take(engine->step());
    answers.push_back(answer);
    EXPECT_EQ(answers.back(), answers.front());
    EXPECT_EQ(finished_[stream], FinishReason::length);
  }
  // A decode was seen to take 2 s and a token of the first prompt 0.1 s; a fifth is kept back.
  EXPECT_EQ(chunks, (std::vector<std::int64_t>{250, 4, 92, 250}));
}

TEST_F(EngineTest, StatsTellTheLifeOfARequest) {
  double now = 100;
  auto engine = make_engine(
      {.n_ctx = 200, .max_sequences = 1, .step_tokens = 64, .clock = [&] { return now; }});
  const RequestId first = *engine->add_request({.prompt = prompt(70), .max_tokens = 3});
  const RequestId second = *engine->add_request({.prompt = prompt(70), .max_tokens = 2});
  std::map<RequestId, RequestStats> last;
  while (!engine->is_idle()) {
    now += 1;
    for (const Output& output : engine->step()) last[output.id] = output.stats;
  }
  // Steps at 101, 102 (first token), 103, 104; then at 105 (the second finds a block), 106.
  EXPECT_EQ(last[first].queue_seconds, 1);
  EXPECT_EQ(last[first].prefill_seconds, 1);
  EXPECT_EQ(last[first].decode_seconds, 2);
  EXPECT_EQ(last[first].n_prompt, 70);
  EXPECT_EQ(last[first].n_cached, 0);
  EXPECT_EQ(last[first].n_generated, 3);
  EXPECT_EQ(last[second].queue_seconds, 5);
  EXPECT_EQ(last[second].prefill_seconds, 0);
  EXPECT_EQ(last[second].decode_seconds, 1);
  EXPECT_EQ(last[second].n_cached, 64);
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.n_steps, 6);
  EXPECT_EQ(stats.n_prompt_tokens, 140);
  EXPECT_EQ(stats.n_computed_tokens, 70 + 2 + 6 + 1);
  EXPECT_EQ(stats.n_generated_tokens, 5);
  EXPECT_EQ(stats.scheduler.n_queried_tokens, 140);
  EXPECT_EQ(stats.scheduler.n_found_tokens, 64);
  EXPECT_EQ(stats.n_running + stats.n_waiting + stats.n_waiting_tokens, 0);
}

}  // namespace
}  // namespace lowbit
