// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/model_host.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "lowbit/model/model_file.h"

namespace lowbit {
namespace {

using TimePoint = ModelHost::TimePoint;

TimePoint at(double seconds) {
  return TimePoint(
      std::chrono::duration_cast<TimePoint::duration>(std::chrono::duration<double>(seconds)));
}

/// A model with an engine, for its context; how large it says it is is the test's.
std::shared_ptr<ServedModel> tiny(std::int64_t n_bytes) {
  auto served = std::make_shared<ServedModel>();
  const auto file = ModelFile::open(LOWBIT_SOURCE_DIR "/tests/golden/models/qwen2");
  served->names = {"tiny"};
  served->pool = std::make_shared<ThreadPool>(1);
  served->model = *LoadedModel::load(*file, Recipe(), *served->pool, LoadOptions());
  served->engine = *Engine::create(served->model->backend(), served->model->weights(),
                                   &served->model->tokenizer(), {.max_sequences = 1});
  served->weight_bytes = n_bytes;
  return served;
}

/// A host of models that need these many bytes, with what it asked for and what was answered.
class Bench {
 public:
  Bench(std::int64_t memory_bytes, const std::vector<std::int64_t>& sizes, double idle_seconds = 0)
      : host_(
            sources(sizes),
            {.memory_bytes = memory_bytes,
             .idle_seconds = idle_seconds,
             .wait_seconds = 30,
             .most_waiting = 3},
            {.load =
                 [this](ModelIndex model, std::int64_t n_bytes) {
                   did += "load" + std::to_string(model) + ":" + std::to_string(n_bytes) + " ";
                 },
             .unload = [this](ModelIndex model) { did += "unload" + std::to_string(model) + " "; },
             .log = [](const std::string&) {}}) {}

  void ask(ModelIndex model, double now) {
    host_.acquire(
        model, at(now),
        [this, model](const std::shared_ptr<const ServedModel>& served, const Refusal& refusal) {
          EXPECT_NE(served == nullptr, !refusal);
          answers += served ? "got" + std::to_string(model) + " "
                            : std::to_string(refusal->status) + refusal->code + " ";
        });
  }
  void loaded(ModelIndex model, std::int64_t n_bytes, double now) {
    host_.on_loaded(model, tiny(n_bytes), "", at(now));
  }
  std::string take(std::string& said) { return std::exchange(said, ""); }
  ModelHost& host() { return host_; }

  std::string did, answers;

 private:
  static std::vector<ModelSource> sources(const std::vector<std::int64_t>& sizes) {
    std::vector<ModelSource> all;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      all.push_back({.names = {"model" + std::to_string(i), "other" + std::to_string(i)},
                     .description = "",
                     .n_bytes = sizes[i],
                     .load = {}});
    }
    return all;
  }
  ModelHost host_;
};

TEST(ModelHost, FindsModelsByAnyOfTheirNames) {
  Bench bench(100, {10, 10});
  EXPECT_EQ(bench.host().find(""), 0u);
  EXPECT_EQ(bench.host().find("other1"), 1u);
  EXPECT_FALSE(bench.host().find("model2"));
}

TEST(ModelHost, LoadsOnFirstUseOneAtATime) {
  Bench bench(100, {10, 20});
  bench.ask(1, 1);
  bench.ask(0, 2);
  bench.ask(1, 3);
  EXPECT_EQ(bench.take(bench.did), "load1:100 ");
  EXPECT_EQ(bench.answers, "");
  bench.loaded(1, 25, 4);
  EXPECT_EQ(bench.take(bench.answers), "got1 got1 ");
  EXPECT_EQ(bench.take(bench.did), "load0:75 ");  // what the first one really took is not there
  bench.loaded(0, 10, 5);
  EXPECT_EQ(bench.take(bench.answers), "got0 ");
  bench.ask(1, 6);
  EXPECT_EQ(bench.take(bench.answers), "got1 ");
  EXPECT_EQ(bench.host().used_bytes(), 35);
  EXPECT_EQ(bench.host().n_loads(1), 1);
  EXPECT_GT(bench.host().n_ctx(1), 0);
}

TEST(ModelHost, UnloadsTheLeastRecentlyUsed) {
  Bench bench(100, {40, 40, 40});
  bench.ask(0, 1);
  bench.loaded(0, 40, 1);
  bench.ask(1, 2);
  bench.loaded(1, 40, 2);
  bench.host().release(1, at(3));
  bench.host().release(0, at(4));  // used later than the other
  bench.take(bench.did);
  bench.ask(2, 5);
  EXPECT_EQ(bench.take(bench.did), "unload1 load2:60 ");
  EXPECT_EQ(bench.host().state(1), ModelHost::State::absent);
  EXPECT_EQ(bench.host().state(0), ModelHost::State::loaded);
}

TEST(ModelHost, NeverUnloadsWhatIsInUse) {
  Bench bench(100, {60, 60}, /*idle_seconds=*/5);
  bench.ask(0, 1);
  bench.loaded(0, 60, 1);
  bench.ask(0, 2);
  bench.take(bench.did);
  bench.ask(1, 3);
  bench.host().release(0, at(4));
  bench.host().tick(at(20));
  EXPECT_EQ(bench.take(bench.did), "");  // one answer is still in work
  bench.host().release(0, at(21));
  EXPECT_EQ(bench.take(bench.did), "unload0 load1:100 ");
}

TEST(ModelHost, WaitsForRoomOnlySoLong) {
  Bench bench(100, {60, 60});
  bench.ask(0, 1);
  bench.loaded(0, 60, 1);
  bench.take(bench.answers);
  bench.ask(1, 3);
  bench.ask(1, 20);
  bench.host().tick(at(32));
  EXPECT_EQ(bench.take(bench.answers), "");
  bench.host().tick(at(34));
  EXPECT_EQ(bench.take(bench.answers), "503overloaded ");
  bench.ask(1, 35);
  bench.ask(1, 35);
  bench.ask(1, 35);  // the fourth
  EXPECT_EQ(bench.take(bench.answers), "503overloaded ");
}

TEST(ModelHost, RefusesWhatCanNeverFit) {
  Bench bench(100, {60, 101});
  bench.ask(0, 1);
  bench.loaded(0, 60, 1);
  bench.host().release(0, at(2));
  bench.take(bench.did);
  bench.take(bench.answers);
  bench.ask(1, 3);
  EXPECT_EQ(bench.take(bench.answers), "503model_does_not_fit ");
  EXPECT_EQ(bench.take(bench.did), "");  // nobody was unloaded for it
}

TEST(ModelHost, IdleModelsGo) {
  Bench bench(100, {10}, /*idle_seconds=*/5);
  bench.ask(0, 1);
  bench.loaded(0, 10, 1);
  bench.host().release(0, at(2));
  bench.take(bench.did);
  bench.host().tick(at(6.5));
  EXPECT_EQ(bench.take(bench.did), "");
  bench.host().tick(at(7));
  EXPECT_EQ(bench.take(bench.did), "unload0 ");
  EXPECT_EQ(bench.host().used_bytes(), 0);
  EXPECT_GT(bench.host().n_ctx(0), 0);  // still known
  bench.ask(0, 8);
  EXPECT_EQ(bench.take(bench.did), "load0:100 ");
}

TEST(ModelHost, AFailureIsToldToAllAndTriedAgainLater) {
  Bench bench(100, {10});
  bench.ask(0, 1);
  bench.ask(0, 1);
  bench.take(bench.did);
  bench.host().on_loaded(0, nullptr, "no such file", at(2));
  EXPECT_EQ(bench.take(bench.answers), "500model_not_loadable 500model_not_loadable ");
  bench.ask(0, 3);
  EXPECT_EQ(bench.take(bench.answers), "500model_not_loadable ");
  EXPECT_EQ(bench.take(bench.did), "");
  bench.ask(0, 8);
  EXPECT_EQ(bench.take(bench.did), "load0:100 ");
}

}  // namespace
}  // namespace lowbit
