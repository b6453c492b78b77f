// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/engine_loop.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <latch>
#include <map>
#include <new>
#include <string>
#include <system_error>
#include <thread>

#include "lowbit/model/model_file.h"

namespace lowbit {
namespace {

/// A tiny golden model with an engine of `max_sequences`.
Result<std::unique_ptr<ServedModel>> load_tiny(std::int64_t max_sequences) {
  auto served = std::make_unique<ServedModel>();
  auto file = ModelFile::open(LOWBIT_SOURCE_DIR "/tests/golden/models/qwen2");
  if (!file) return std::move(file).error();
  served->names = {"qwen2"};
  served->pool = std::make_unique<ThreadPool>(1);
  auto model = LoadedModel::load(*file, Recipe(), *served->pool, LoadOptions());
  if (!model) return std::move(model).error();
  served->model = *std::move(model);
  EngineOptions options;
  options.max_sequences = max_sequences;
  options.n_kv_positions = 1024;
  auto engine = Engine::create(served->model->backend(), served->model->weights(),
                               &served->model->tokenizer(), options);
  if (!engine) return std::move(engine).error();
  served->engine = *std::move(engine);
  return served;
}

/// What the loop said, kept for the test's thread.
class Listener {
 public:
  EngineLoop::Calls calls() {
    return {.on_loaded =
                [this](ModelIndex model, std::shared_ptr<const ServedModel> served,
                       std::string problem) {
                  const std::lock_guard lock(mutex_);
                  models_[model] = std::move(served);
                  problem_ = std::move(problem);
                  changed_.notify_all();
                },
            .on_step =
                [this](StepReport report) {
                  const std::lock_guard lock(mutex_);
                  for (JobOutput& output : report.outputs) {
                    order_.push_back(report.model);
                    outputs_[output.id].push_back(std::move(output));
                  }
                  states_[report.model] = report.state;
                  changed_.notify_all();
                }};
  }
  /// Null: it could not be loaded.
  const ServedModel* wait_for_model(ModelIndex model = 0) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return models_.contains(model); });
    return models_[model].get();
  }
  bool has_model(ModelIndex model) {
    const std::lock_guard lock(mutex_);
    return models_.contains(model);
  }
  /// When the last one who held it lets it go, it is gone.
  std::weak_ptr<const ServedModel> let_go(ModelIndex model) {
    const std::lock_guard lock(mutex_);
    const std::weak_ptr<const ServedModel> watched = models_[model];
    models_.erase(model);
    return watched;
  }
  /// Outputs of a job, once it has ended.
  std::vector<JobOutput> wait_for(JobId id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      const auto& outputs = outputs_[id];
      return !outputs.empty() && (outputs.back().output.finish || !outputs.back().error.empty());
    });
    return outputs_[id];
  }
  void wait_for_token(JobId id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !outputs_[id].empty(); });
  }
  EngineStats state() {
    const std::lock_guard lock(mutex_);
    return states_[0];
  }
  /// Which model each output came from, in order.
  std::vector<ModelIndex> order() {
    const std::lock_guard lock(mutex_);
    return order_;
  }
  std::string problem() {
    const std::lock_guard lock(mutex_);
    return problem_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<ModelIndex, std::shared_ptr<const ServedModel>> models_;
  std::vector<ModelIndex> order_;
  std::string problem_;
  std::map<JobId, std::vector<JobOutput>> outputs_;
  std::map<ModelIndex, EngineStats> states_;
};

Job job(JobId id, std::int64_t max_tokens, std::uint64_t seed) {
  Request request;
  request.prompt = {5, 6, 7};
  request.max_tokens = max_tokens;
  request.ignore_end = true;
  request.sampling.seed = seed;
  return {.id = id, .request = std::move(request)};
}

std::vector<Job> one(Job job) {
  std::vector<Job> jobs;
  jobs.push_back(std::move(job));
  return jobs;
}

LoadModel tiny(std::int64_t max_sequences) {
  return [max_sequences](std::int64_t) { return load_tiny(max_sequences); };
}

std::vector<std::int32_t> tokens_of(const std::vector<JobOutput>& outputs) {
  std::vector<std::int32_t> tokens;
  for (const JobOutput& output : outputs) {
    if (output.output.token) tokens.push_back(*output.output.token);
  }
  return tokens;
}

TEST(EngineLoop, GivesWhatTheEngineGivesAlone) {
  constexpr std::int64_t n_tokens = 12;
  const auto alone = load_tiny(1);
  ASSERT_TRUE(alone) << alone.error().message();
  ASSERT_TRUE((*alone)->engine->add_request(job(0, n_tokens, 3).request));
  std::vector<std::int32_t> expected;
  while (!(*alone)->engine->is_idle()) {
    for (const Output& output : (*alone)->engine->step()) expected.push_back(*output.token);
  }
  Listener listener;
  EngineLoop loop({tiny(4)}, listener.calls());
  loop.load(0, 0);
  ASSERT_NE(listener.wait_for_model(), nullptr) << listener.problem();
  constexpr JobId n_jobs = 8;  // twice what runs at once
  for (JobId id = 1; id <= n_jobs; ++id) loop.submit(0, one(job(id, n_tokens, 3)));
  for (JobId id = 1; id <= n_jobs; ++id) EXPECT_EQ(tokens_of(listener.wait_for(id)), expected);
}

TEST(EngineLoop, LogprobsBelongToTheirTokens) {
  Listener listener;
  EngineLoop loop({tiny(4)}, listener.calls());
  loop.load(0, 0);
  ASSERT_NE(listener.wait_for_model(), nullptr);
  std::vector<Job> jobs;
  for (JobId id = 1; id <= 3; ++id) {
    jobs.push_back(job(id, 6, id));
    jobs.back().request.sampling.temperature = 0;
    jobs.back().request.n_top = 2;
  }
  loop.submit(0, std::move(jobs));
  for (JobId id = 1; id <= 3; ++id) {
    for (const JobOutput& output : listener.wait_for(id)) {
      ASSERT_TRUE(output.output.logprobs);
      EXPECT_EQ(output.output.logprobs->token, *output.output.token);
      ASSERT_EQ(output.output.logprobs->top.size(), 2u);
      EXPECT_EQ(output.output.logprobs->top[0].token, *output.output.token);  // greedy
      EXPECT_EQ(output.output.logprobs->top[0].logprob, output.output.logprobs->logprob);
      EXPECT_GE(output.output.logprobs->top[0].logprob, output.output.logprobs->top[1].logprob);
    }
  }
}

TEST(EngineLoop, CancelFreesAtOnce) {
  Listener listener;
  EngineLoop loop({tiny(1)}, listener.calls());
  loop.load(0, 0);
  ASSERT_NE(listener.wait_for_model(), nullptr);
  constexpr std::int64_t n_many = 250;
  loop.submit(0, one(job(1, n_many, 1)));
  loop.submit(0, one(job(2, n_many, 2)));  // waits behind the first
  listener.wait_for_token(1);
  loop.cancel(2);
  loop.cancel(1);
  loop.cancel(77);  // nobody
  EXPECT_EQ(listener.wait_for(1).back().output.finish, FinishReason::cancelled);
  EXPECT_EQ(listener.wait_for(2).back().output.finish, FinishReason::cancelled);
  EXPECT_EQ(listener.state().n_kv_blocks_free, listener.state().n_kv_blocks);
  loop.submit(0, one(job(3, 2, 3)));
  EXPECT_EQ(tokens_of(listener.wait_for(3)).size(), 2u);
}

TEST(EngineLoop, ARequestTheEngineRefusesEndsAlone) {
  Listener listener;
  EngineLoop loop({tiny(2)}, listener.calls());
  loop.load(0, 0);
  ASSERT_NE(listener.wait_for_model(), nullptr);
  Job bad = job(1, 2, 1);
  bad.request.prompt = {-1};
  std::vector<Job> jobs = one(std::move(bad));
  jobs.push_back(job(2, 2, 1));
  loop.submit(0, std::move(jobs));
  EXPECT_NE(listener.wait_for(1).back().error.find("token id -1"), std::string::npos);
  EXPECT_EQ(tokens_of(listener.wait_for(2)).size(), 2u);
}

TEST(EngineLoop, SaysWhyThereIsNoModel) {
  Listener listener;
  const LoadModel fail = [](std::int64_t) -> Result<std::unique_ptr<ServedModel>> {
    return Error("no file");
  };
  const LoadModel exhaust = [](std::int64_t) -> Result<std::unique_ptr<ServedModel>> {
    throw std::bad_alloc();
  };
  EngineLoop loop({fail, exhaust, tiny(1)}, listener.calls());
  loop.load(0, 0);
  EXPECT_EQ(listener.wait_for_model(0), nullptr);
  EXPECT_EQ(listener.problem(), "no file");
  loop.load(1, 0);
  EXPECT_EQ(listener.wait_for_model(1), nullptr);
  EXPECT_EQ(listener.problem(), "out of memory while loading");
  loop.load(2, 0);
  EXPECT_NE(listener.wait_for_model(2), nullptr);
}

TEST(EngineLoop, EndsWithWorkLeft) {
  Listener listener;
  EngineLoop loop({tiny(1)}, listener.calls());
  loop.load(0, 0);
  ASSERT_NE(listener.wait_for_model(), nullptr);
  loop.submit(0, one(job(1, 250, 1)));
  listener.wait_for_token(1);
}

TEST(EngineLoop, TwoModelsTakeTurnsAndChangeNothing) {
  constexpr std::int64_t n_tokens = 40;
  std::vector<std::int32_t> alone;
  {
    Listener listener;
    EngineLoop loop({tiny(4)}, listener.calls());
    loop.load(0, 0);
    ASSERT_NE(listener.wait_for_model(0), nullptr);
    loop.submit(0, one(job(1, n_tokens, 3)));
    alone = tokens_of(listener.wait_for(1));
  }
  Listener listener;
  std::latch held(1), may_go_on(1);
  // Its start holds the loop until both have their work.
  const LoadModel holds = [&](std::int64_t) {
    auto served = load_tiny(1);
    (*served)->start = [&](ServedModel&) {
      held.count_down();
      may_go_on.wait();
      return ok();
    };
    return served;
  };
  EngineLoop loop({tiny(4), tiny(4), holds}, listener.calls());
  for (const ModelIndex model : {0, 1, 2}) loop.load(model, 0);
  held.wait();
  loop.submit(0, one(job(1, n_tokens, 3)));
  loop.submit(1, one(job(2, n_tokens, 3)));
  may_go_on.count_down();
  EXPECT_EQ(tokens_of(listener.wait_for(1)), alone);
  EXPECT_EQ(tokens_of(listener.wait_for(2)), alone);
  // While both have work, each takes every other step.
  std::vector<ModelIndex> order = listener.order();
  ASSERT_EQ(order.size(), static_cast<std::size_t>(2 * n_tokens));
  int n_changes = 0;
  for (std::size_t i = 1; i < order.size(); ++i) n_changes += order[i] != order[i - 1] ? 1 : 0;
  EXPECT_GE(n_changes, n_tokens);
}

TEST(EngineLoop, OthersAnswerWhileAModelIsLoaded) {
  Listener listener;
  std::latch may_load(1);
  const LoadModel slow = [&](std::int64_t) {
    may_load.wait();
    return load_tiny(1);
  };
  EngineLoop loop({tiny(1), slow, tiny(1)}, listener.calls());
  for (const ModelIndex model : {0, 1, 2}) loop.load(model, 0);
  EXPECT_NE(listener.wait_for_model(0), nullptr);
  loop.submit(0, one(job(1, 5, 3)));
  EXPECT_EQ(tokens_of(listener.wait_for(1)).size(), 5u);
  EXPECT_FALSE(listener.has_model(1));
  EXPECT_FALSE(listener.has_model(2));  // one after another
  may_load.count_down();
  EXPECT_NE(listener.wait_for_model(1), nullptr);
  EXPECT_NE(listener.wait_for_model(2), nullptr);
}

TEST(EngineLoop, AModelThatCannotStartIsNotLoaded) {
  Listener listener;
  const LoadModel unfit = [](std::int64_t) {
    auto served = load_tiny(1);
    (*served)->start = [](ServedModel&) { return Status(Error("no roof")); };
    return served;
  };
  const LoadModel too_large = [](std::int64_t) {
    auto served = load_tiny(1);
    (*served)->start = [](ServedModel&) -> Status { throw std::bad_alloc(); };
    return served;
  };
  const LoadModel without_threads = [](std::int64_t) -> Result<std::unique_ptr<ServedModel>> {
    throw std::system_error(EAGAIN, std::generic_category());
  };
  EngineLoop loop({unfit, too_large, without_threads}, listener.calls());
  loop.load(0, 0);
  EXPECT_EQ(listener.wait_for_model(0), nullptr);
  EXPECT_EQ(listener.problem(), "no roof");
  loop.load(1, 0);
  EXPECT_EQ(listener.wait_for_model(1), nullptr);
  EXPECT_EQ(listener.problem(), "out of memory while loading");
  loop.load(2, 0);
  EXPECT_EQ(listener.wait_for_model(2), nullptr);
  EXPECT_EQ(listener.problem(), "Resource temporarily unavailable");
}

TEST(EngineLoop, EndsWhileAModelIsLoaded) {
  Listener listener;
  std::latch begun(1);
  const LoadModel slow = [&](std::int64_t) {
    begun.count_down();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return load_tiny(1);
  };
  EngineLoop loop({slow}, listener.calls());
  loop.load(0, 0);
  begun.wait();
}

TEST(EngineLoop, AnUnloadedModelIsGoneAndComesBack) {
  Listener listener;
  EngineLoop loop({tiny(2), tiny(2)}, listener.calls());
  loop.load(0, 0);
  loop.load(1, 0);
  ASSERT_NE(listener.wait_for_model(0), nullptr);
  ASSERT_NE(listener.wait_for_model(1), nullptr);
  loop.submit(0, one(job(1, 5, 3)));
  const auto first = tokens_of(listener.wait_for(1));
  const auto watched = listener.let_go(0);
  loop.unload(0);
  loop.submit(1, one(job(2, 5, 3)));  // obeyed after it
  EXPECT_EQ(tokens_of(listener.wait_for(2)), first);
  EXPECT_TRUE(watched.expired());
  loop.submit(0, one(job(3, 5, 3)));
  EXPECT_EQ(listener.wait_for(3).back().error, "the model has gone");
  loop.load(0, 0);
  ASSERT_NE(listener.wait_for_model(0), nullptr);
  loop.submit(0, one(job(4, 5, 3)));
  EXPECT_EQ(tokens_of(listener.wait_for(4)), first);
}

}  // namespace
}  // namespace lowbit
