// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/metrics.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace lowbit {
namespace {

using TimePoint = std::chrono::steady_clock::time_point;
constexpr double giga = 1e9;

/// 100 bytes of weights, 10 int8 operations a token and 4 more where logits are wanted.
StepRoof roof() {
  StepRoof roof;
  roof.work.decode_bytes = 100;
  roof.work.int8_ops = 10;
  roof.work.head_int8_ops = 4;
  roof.roofs = {.read_gbs = 10, .int8_gops = 1, .f32_gflops = 1};
  return roof;
}

TEST(StepRoof, IsTheSlowerOfReadingAndComputing) {
  // One decode: 150 bytes at 10 GB/s are 15 ns, 14 operations at 1 GOP/s 14 ns.
  EXPECT_DOUBLE_EQ(roof().least_seconds({.n_decodes = 1}, 50), 15 / giga);
  // Two decodes compute for 28 ns; five tokens of a prompt beside one for 64.
  EXPECT_DOUBLE_EQ(roof().least_seconds({.n_decodes = 2}, 50), 28 / giga);
  EXPECT_DOUBLE_EQ(roof().least_seconds({.n_decodes = 1, .n_prompt_tokens = 5}, 50), 64 / giga);
  StepRoof unknown = roof();
  unknown.roofs = {};
  EXPECT_EQ(unknown.least_seconds({.n_decodes = 1}, 50), 0);
}

TEST(StepRoof, IsAtLeastWhatWasReached) {
  StepRoof disturbed = roof();
  disturbed.raise_to({.n_decodes = 1, .n_prompt_tokens = 0, .seconds = 20 / giga}, 50);  // slower
  EXPECT_DOUBLE_EQ(disturbed.roofs.read_gbs, 10);
  EXPECT_DOUBLE_EQ(disturbed.roofs.int8_gops, 1);
  const StepSample fast{.n_decodes = 1, .n_prompt_tokens = 5, .seconds = 10 / giga};
  disturbed.raise_to(fast, 50);
  EXPECT_DOUBLE_EQ(disturbed.roofs.read_gbs, 15);
  EXPECT_DOUBLE_EQ(disturbed.roofs.int8_gops, 6.4);
  EXPECT_DOUBLE_EQ(disturbed.least_seconds(fast, 50), fast.seconds);
}

TEST(RecentRoof, ForgetsWhatIsLongAgo) {
  RecentRoof recent;
  const TimePoint start{};
  EXPECT_EQ(recent.fraction(start), 0);
  recent.add(0.5, 3e9, 1, start);
  EXPECT_DOUBLE_EQ(recent.fraction(start), 0.5);
  EXPECT_DOUBLE_EQ(recent.gbs(start), 3);
  EXPECT_EQ(recent.fraction(start + std::chrono::seconds(6)), 0);
  for (int i = 0; i < 1000; ++i) recent.add(0.9, 1e9, 1, start);
  EXPECT_NEAR(recent.fraction(start), 0.9, 1e-6);  // (1 - 1/64)^1000 of the first step is left
  recent.add(0.1, 1e9, 1, start + std::chrono::seconds(60));
  EXPECT_DOUBLE_EQ(recent.fraction(start + std::chrono::seconds(60)), 0.1);
}

StepReport step(std::int64_t n_steps, std::int64_t n_preemptions) {
  StepReport report;
  report.state.n_steps = n_steps;
  report.state.step = {.n_decodes = 1, .n_prompt_tokens = 0, .seconds = 30 / giga};
  report.state.scheduler.n_preemptions = n_preemptions;
  report.state.n_kv_blocks = 4;
  report.state.n_kv_blocks_free = 3;
  report.state.kv_block_bytes = 50;
  return report;
}

TEST(ModelMetrics, CountersOutliveTheEngine) {
  ModelMetrics metrics;
  ServedModel served;
  served.roof = roof();
  served.weight_bytes = 100;
  metrics.on_loaded(served);
  metrics.on_step(step(1, 2));
  metrics.on_step(step(1, 3));  // nothing was computed: the step is counted once
  EXPECT_DOUBLE_EQ(metrics.roof_seconds, 15 / giga);
  EXPECT_DOUBLE_EQ(metrics.recent.fraction({}), 0.5);
  EXPECT_EQ(metrics.scheduler().n_preemptions, 3);
  metrics.on_unloaded();
  metrics.on_step(step(2, 3));  // a last word
  EXPECT_EQ(metrics.scheduler().n_preemptions, 3);
  EXPECT_EQ(metrics.weight_bytes, 0);
  EXPECT_EQ(metrics.engine.kv_usage(), 0);
  metrics.on_loaded(served);
  metrics.on_step(step(1, 4));
  EXPECT_EQ(metrics.scheduler().n_preemptions, 7);
  EXPECT_EQ(metrics.n_loads, 2);
}

TEST(Metrics, GroupTheModelsOfAFamily) {
  Metrics metrics;
  metrics.models.resize(2);
  metrics.models[1].finished["stop"] = 3;
  metrics.models[1].ttft.add(0.003);
  const std::array<std::string, 2> names{"plain", "odd\"\\\nname"};
  const std::string text = metrics.text(names, {});
  EXPECT_NE(
      text.find("# TYPE vllm:num_requests_running gauge\n"
                "vllm:num_requests_running{model_name=\"plain\",engine=\"0\"} 0\n"
                "vllm:num_requests_running{model_name=\"odd\\\"\\\\\\nname\",engine=\"0\"} 0\n"),
      std::string::npos)
      << text;
  EXPECT_NE(text.find("engine=\"0\",finished_reason=\"stop\"} 3\n"), std::string::npos);
  EXPECT_NE(text.find("engine=\"0\",le=\"0.005\"} 1\n"), std::string::npos);
  EXPECT_EQ(text.find("le=\"0.002\"} 1"), std::string::npos);
}

}  // namespace
}  // namespace lowbit
