// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/bench.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "lowbit/measure/shapes.h"

namespace lowbit {
namespace {

TEST(ModelShapes, AreModels) {
  for (const ModelShape& shape : model_shapes()) {
    SCOPED_TRACE(shape.name);
    const auto config = config_of_shape(shape.name);
    ASSERT_TRUE(config) << config.error().message();
    EXPECT_TRUE(check_config(*config));
  }
  const auto unknown = config_of_shape("llama-1000b");
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message().find("llama-1b"), std::string::npos);
}

/// Against the published numbers of parameters.
TEST(ModelShapes, HaveThePublishedNumberOfParameters) {
  ThreadPool pool(1);
  const std::pair<const char*, std::int64_t> published[] = {{"smollm2-135m", 134'515'008},
                                                            {"qwen2.5-0.5b", 494'032'768},
                                                            {"llama-1b", 1'235'814'400},
                                                            {"llama-8b", 8'030'261'248},
                                                            {"qwen3-8b", 8'190'735'360}};
  for (const auto& [name, n_published] : published) {
    const auto weights = RandomWeights::create(*config_of_shape(name), *parse_scheme("q4_0"), pool);
    ASSERT_TRUE(weights);
    std::int64_t n_numbers = 0;
    for (const auto& tensor : (*weights)->tensors()) {
      n_numbers += tensor.shape.rows * tensor.shape.cols;
    }
    EXPECT_EQ(n_numbers, n_published) << name;
  }
}

TEST(RandomWeights, RefuseRowsThatBlocksDoNotFill) {
  ThreadPool pool(1);
  const auto weights =
      RandomWeights::create(*config_of_shape("qwen2.5-0.5b"), *parse_scheme("q4_k"), pool);
  ASSERT_FALSE(weights);
  EXPECT_NE(weights.error().message().find("no multiple of 256"), std::string::npos);
}

class BenchModel : public testing::Test {
 protected:
  std::unique_ptr<LoadedModel> tiny() {
    const auto weights =
        RandomWeights::create(*config_of_shape("tiny"), *parse_scheme("q4_0"), pool_);
    auto model = LoadedModel::load(**weights, Recipe(), pool_, LoadOptions());
    EXPECT_TRUE(model) << model.error().message();
    return *std::move(model);
  }
  ThreadPool pool_{2};
  const Roofs roofs_{.read_gbs = 50, .int8_gops = 1000, .f32_gflops = 200};
};

TEST_F(BenchModel, MakesARowForEachOfManyValues) {
  const auto model = tiny();
  BenchOptions options{.prompts = {16, 600}, .depths = {0, 70}, .batches = {1, 3}};
  options.n_generate = 4;
  options.n_repetitions = 2;
  std::int64_t n_last = 0, n_all = 0;
  options.progress = [&](std::int64_t n_done, std::int64_t n_total) {
    n_last = n_done;
    n_all = n_total;
    return true;
  };
  const auto rows = bench_model(*model, roofs_, options);
  ASSERT_TRUE(rows) << rows.error().message();
  EXPECT_EQ(n_last + 1, n_all);
  ASSERT_EQ(rows->size(), 8u);
  const BenchRow& last = rows->back();
  EXPECT_EQ(last.phase, "decode");
  EXPECT_EQ(last.n_depth, 70);
  EXPECT_EQ(last.n_batch, 3);
  EXPECT_EQ(last.n_all_tokens(), 12);
  EXPECT_FALSE(last.joules_per_token());
  for (const BenchRow& row : *rows) {
    EXPECT_EQ(row.seconds.size(), 2u);
    EXPECT_GT(row.tokens_per_second(), 0);
    EXPECT_GT(row.of_roof, 0);
    EXPECT_LE(row.least_tokens_per_second(), row.most_tokens_per_second());
  }
  // Reading 70 tokens more per step, of every sequence.
  const KvShape kv = model->kv_shape();
  const double per_position =
      static_cast<double>(2 * kv.n_layers * kv.n_kv_heads * kv.head_dim * 2);
  const double weights = static_cast<double>(work_of(*model).decode_bytes);
  EXPECT_NEAR(last.gbs * last.median_seconds() * 1e9, 4 * (weights + 3 * 72.5 * per_position), 1);
}

TEST_F(BenchModel, SaysWhatDoesNotFit) {
  const auto model = tiny();
  BenchOptions options{.prompts = {4000}, .depths = {100}, .batches = {1}};
  const auto rows = bench_model(*model, roofs_, options);
  ASSERT_FALSE(rows);
  EXPECT_NE(rows.error().message().find("beyond the model's context of 4096"), std::string::npos);
}

TEST_F(BenchModel, StopsWhenAsked) {
  const auto model = tiny();
  BenchOptions options;
  options.progress = [](std::int64_t n_done, std::int64_t) { return n_done < 1; };
  EXPECT_FALSE(bench_model(*model, roofs_, options));
}

TEST_F(BenchModel, CountsEnergy) {
  namespace fs = std::filesystem;
  const fs::path root = fs::path(testing::TempDir()) / "bench_energy";
  fs::remove_all(root);
  fs::create_directories(root / "intel-rapl:0");
  const auto write = [&](const char* file, const std::string& text) {
    std::ofstream(root / "intel-rapl:0" / file) << text << "\n";
  };
  write("name", "package-0");
  write("max_energy_range_uj", "1000000000");
  write("energy_uj", "0");
  auto meter = EnergyMeter::open(root.string());
  ASSERT_TRUE(meter) << meter.error().message();
  const auto model = tiny();
  BenchOptions options{.prompts = {}, .depths = {0}, .batches = {2}};
  options.n_generate = 5;
  options.n_repetitions = 1;
  options.energy = &*meter;
  const auto rows = bench_model(*model, roofs_, options);
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 1u);
  ASSERT_TRUE(rows->front().joules_per_token());  // readable, and the counter stood still
  EXPECT_EQ(*rows->front().joules_per_token(), 0);
  BenchRow row = rows->front();
  row.joules = 30.0;
  EXPECT_EQ(*row.joules_per_token(), 3.0);
  fs::remove_all(root);
}

}  // namespace
}  // namespace lowbit
