// SPDX-License-Identifier: Apache-2.0
// The graph that the forward pass gives, written out by hand for each kind of model.
#include "lowbit/compress/graph.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "lowbit/runtime/random_model.h"

namespace lowbit {
namespace {

struct Case {
  const char* name;
  RandomModel::Options options;
};
std::vector<Case> cases() {
  return {{"llama", {.biases = false, .qk_norm = false}},
          {"llama, tied", {.biases = false, .qk_norm = false, .tied = true}},
          {"qwen2", {.biases = true, .qk_norm = false}},
          {"qwen3, tied", {.biases = false, .qk_norm = true, .tied = true}},
          {"all", {.biases = true, .qk_norm = true}}};
}

std::vector<Fold> expected_folds(const RandomModel& model, bool biases, bool with_head) {
  std::vector<Fold> folds;
  const ModelConfig& config = model.config();
  for (int i = 0; i < config.n_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string attention = layer + "self_attn.";
    folds.push_back(
        {Fold::Path::norm,
         layer + "input_layernorm.weight",
         "",
         {attention + "q_proj.weight", attention + "k_proj.weight", attention + "v_proj.weight"},
         config.d_model});
    folds.push_back({Fold::Path::attention,
                     attention + "v_proj.weight",
                     biases ? attention + "v_proj.bias" : "",
                     {attention + "o_proj.weight"},
                     config.n_kv_heads * config.head_dim,
                     config.head_dim,
                     config.n_heads / config.n_kv_heads});
    folds.push_back({Fold::Path::norm,
                     layer + "post_attention_layernorm.weight",
                     "",
                     {layer + "mlp.gate_proj.weight", layer + "mlp.up_proj.weight"},
                     config.d_model});
    folds.push_back({Fold::Path::gate,
                     layer + "mlp.up_proj.weight",
                     "",
                     {layer + "mlp.down_proj.weight"},
                     config.d_ff});
  }
  if (with_head) {
    folds.push_back(
        {Fold::Path::norm, "model.norm.weight", "", {"lm_head.weight"}, config.d_model});
  }
  return folds;
}

TEST(ModelGraph, FindsEveryFold) {
  for (const Case& c : cases()) {
    const RandomModel model(c.options);
    const auto graph = trace_model(model);
    ASSERT_TRUE(graph) << graph.error().message();
    EXPECT_EQ(graph->folds, expected_folds(model, c.options.biases, !c.options.tied)) << c.name;
    EXPECT_EQ(graph->shared, c.options.tied ? std::vector<std::string>{"model.embed_tokens.weight"}
                                            : std::vector<std::string>{})
        << c.name;
  }
}

TEST(ModelGraph, FindsTheResidualStream) {
  for (const Case& c : cases()) {
    const RandomModel model(c.options);
    const auto graph = trace_model(model);
    ASSERT_TRUE(graph) << graph.error().message();
    ASSERT_EQ(graph->streams.size(), 1u) << c.name;
    const Stream& stream = graph->streams[0];
    EXPECT_EQ(stream.width, model.config().d_model);
    EXPECT_EQ(stream.tables, std::vector<std::string>{"model.embed_tokens.weight"});
    std::vector<std::string> writers;
    std::vector<Fold> norms;
    for (int i = 0; i < model.config().n_layers; ++i) {
      writers.push_back("model.layers." + std::to_string(i) + ".self_attn.o_proj.weight");
      writers.push_back("model.layers." + std::to_string(i) + ".mlp.down_proj.weight");
    }
    for (Fold fold : expected_folds(model, c.options.biases, /*with_head=*/true)) {
      if (fold.path != Fold::Path::norm) continue;
      if (c.options.tied && fold.consumers[0] == "lm_head.weight") {
        fold.consumers[0] = "model.embed_tokens.weight";
      }
      norms.push_back(std::move(fold));
    }
    EXPECT_EQ(stream.writers, writers) << c.name;
    EXPECT_TRUE(stream.biases.empty()) << c.name;
    EXPECT_EQ(stream.norms.size(), norms.size());
    for (const Fold& norm : norms) {
      EXPECT_EQ(std::ranges::count(stream.norms, norm), 1) << c.name << ", " << norm.producer;
    }
  }
}

TEST(ModelGraph, QueryHeadsReadTheirKvHead) {
  const Fold fold{.path = Fold::Path::attention,
                  .producer = "v",
                  .bias = {},
                  .consumers = {"o"},
                  .n_channels = 6,
                  .head_dim = 3,
                  .n_repeats = 2};
  const std::vector<std::int64_t> expected = {0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5};
  ASSERT_EQ(fold.n_columns(), 12);
  for (std::int64_t c = 0; c < 12; ++c) {
    EXPECT_EQ(fold.channel_of(c), expected[static_cast<std::size_t>(c)]);
  }
}

TEST(ModelGraph, SaysWhichTensorIsMissing) {
  RandomModel model({});
  model.tensors().erase("model.layers.1.mlp.up_proj.weight");
  const auto graph = trace_model(model);
  ASSERT_FALSE(graph);
  EXPECT_NE(graph.error().message().find("model.layers.1.mlp.up_proj.weight"), std::string::npos);
}

}  // namespace
}  // namespace lowbit
