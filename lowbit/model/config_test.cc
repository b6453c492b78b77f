// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lowbit/model/tensor_names.h"

namespace lowbit {
namespace {

nlohmann::json llama() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"num_hidden_layers", 2},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 300},
          {"max_position_embeddings", 128},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0}};
}

TEST(Config, ReadsBothSpellingsOfTheRopeParameters) {
  nlohmann::json old_style = llama(), new_style = llama();
  old_style["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  old_style["rope_theta"] = 5000.0;
  new_style.erase("rope_theta");
  new_style["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 5000.0}};
  for (const auto& source : {old_style, new_style}) {
    const auto config = config_from_json(source);
    ASSERT_TRUE(config) << config.error().message();
    EXPECT_EQ(config->rope_linear_factor, 4.0f);
    EXPECT_EQ(config->rope_base, 5000.0f);
    EXPECT_EQ(config->head_dim, 16);
  }
}

// Values of transformers' _compute_llama3_parameters for head_dim 8, theta 10000, factor 8, low 1,
// high 4, original context 64: inv_freq_default / inv_freq_llama3.
TEST(Config, Llama3Divisors) {
  const auto divisors = llama3_divisors(8, 10000.0f, 8.0f, 1.0f, 4.0f, 64);
  ASSERT_EQ(divisors.size(), 4u);
  EXPECT_FLOAT_EQ(divisors[0], 1.0f);       // wavelength 6.28 < 64 / 4
  EXPECT_FLOAT_EQ(divisors[1], 7.667385f);  // 62.8: almost the long end, smooth
  EXPECT_FLOAT_EQ(divisors[2], 8.0f);       // 628 > 64
  EXPECT_FLOAT_EQ(divisors[3], 8.0f);
}

TEST(Config, GgufKeysComeBack) {
  nlohmann::json source = llama();
  source["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}};
  const auto config = config_from_json(source);
  ASSERT_TRUE(config);
  Metadata metadata;
  config_to_metadata(*config, metadata);
  const auto again = config_from_gguf(metadata);
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->n_layers, config->n_layers);
  EXPECT_EQ(again->head_dim, config->head_dim);
  EXPECT_EQ(again->n_vocab, config->n_vocab);
  EXPECT_EQ(again->norm_eps, config->norm_eps);
  EXPECT_EQ(again->rope_linear_factor, 2.0f);
}

TEST(Config, DivisorsSurviveTheFolder) {
  nlohmann::json source = llama();
  source["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 64}};
  const auto config = config_from_json(source);
  ASSERT_TRUE(config) << config.error().message();
  const auto again = config_from_json(config_to_json(*config));
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->rope_divisors, config->rope_divisors);
}

TEST(Config, RefusesWhatIsAbsurd) {
  const auto refused = [](const char* key, nlohmann::json value, const char* word) {
    nlohmann::json source = llama();
    source[key] = std::move(value);
    const auto config = config_from_json(source);
    ASSERT_FALSE(config) << key;
    EXPECT_NE(config.error().message().find(word), std::string::npos) << config.error().message();
  };
  refused("num_hidden_layers", 1000000, "layers");
  refused("num_hidden_layers", "two", "integer");
  refused("num_attention_heads", 0, "heads");
  refused("num_key_value_heads", 3, "divide");
  refused("head_dim", 15, "odd");
  refused("vocab_size", -5, "vocabulary");
  refused("hidden_act", "relu", "relu");
  refused("architectures", {"GptForCausalLM"}, "known are");
  refused("rope_scaling", {{"rope_type", "yarn"}}, "yarn");
  refused("rms_norm_eps", 0.0, "epsilon");
}

TEST(Config, ShortensTheContextToTheAttentionWindow) {
  nlohmann::json source = llama();
  source["architectures"] = {"MistralForCausalLM"};
  source["sliding_window"] = 32;
  const auto config = config_from_json(source);
  ASSERT_TRUE(config);
  EXPECT_EQ(config->n_ctx_train, 32);
}

TEST(TensorNames, GoBothWays) {
  for (const char* name :
       {"token_embd.weight", "output_norm.weight", "output.weight", "blk.0.attn_q.weight",
        "blk.11.attn_k.bias", "blk.7.ffn_down.weight", "blk.3.attn_q_norm.weight"}) {
    const auto canonical = canonical_from_gguf(name);
    ASSERT_TRUE(canonical) << name;
    EXPECT_EQ(gguf_from_canonical(*canonical), name);
  }
  EXPECT_EQ(canonical_from_gguf("blk.11.attn_k.bias"), "model.layers.11.self_attn.k_proj.bias");
  for (const char* name : {"blk.x.attn_q.weight", "blk..attn_q.weight", "blk.3.attn_q", "blk.3",
                           "vision.weight", ""}) {
    EXPECT_FALSE(canonical_from_gguf(name)) << name;
  }
  EXPECT_EQ(role_of("model.layers.11.mlp.up_proj.weight"), "mlp.up_proj");
  EXPECT_EQ(role_of("lm_head.weight"), "");
}

}  // namespace
}  // namespace lowbit
