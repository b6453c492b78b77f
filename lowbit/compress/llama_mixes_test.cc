// SPDX-License-Identifier: Apache-2.0
// The mixes against tests/golden/llama_mixes.txt: what llama-quantize does to every matrix of
// models of several shapes, with and without an imatrix (tests/golden/make_llama_mixes.py).
#include "lowbit/compress/llama_mixes.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "lowbit/io/checkpoint_writer.h"

namespace lowbit {
namespace {

ModelConfig config_of(const char* arch, std::int64_t n_layers, std::int64_t d_model,
                      std::int64_t d_ff, std::int64_t n_heads, std::int64_t n_kv_heads, bool tied) {
  ModelConfig config;
  for (const ArchSpec& spec : arch_list()) {
    if (config.arch == nullptr && spec.name == arch) config.arch = &spec;
  }
  config.n_layers = n_layers;
  config.d_model = d_model;
  config.d_ff = d_ff;
  config.n_heads = n_heads;
  config.n_kv_heads = n_kv_heads;
  config.tied_embeddings = tied;
  return config;
}

// As make_llama_mixes.py has them.
const std::map<std::string, ModelConfig>& models() {
  static const std::map<std::string, ModelConfig> all{
      {"smollm", config_of("llama", 30, 576, 1536, 9, 3, true)},
      {"wide", config_of("llama", 30, 768, 1536, 12, 4, true)},
      {"qwen", config_of("qwen2", 24, 896, 4864, 14, 2, false)},
      {"odd", config_of("llama", 13, 200, 344, 4, 4, false)},
      {"large", config_of("llama", 80, 256, 512, 4, 2, false)},
      {"grouped", config_of("llama", 19, 256, 512, 8, 1, false)}};
  return all;
}

/// The mix's scheme, or what llama.cpp falls back to for rows of this length.
std::string type_of(const LlamaMix& mix, const ModelConfig& config, const std::string& name,
                    std::int64_t cols, bool calibrated) {
  std::optional<Scheme> scheme = llama_mix_scheme(mix, config, name, cols, calibrated);
  while (scheme && !fits_gguf(*scheme, {2, cols})) scheme = llama_fallback(*scheme);
  return scheme ? to_string(*scheme) : "nothing";
}

/// "ROLE=TYPE*N,TYPE*N ROLE=...", as the golden file has it.
std::string types_of(const LlamaMix& mix, const ModelConfig& config, bool calibrated) {
  const std::int64_t d = config.d_model;
  std::string text =
      "token_embd=" + type_of(mix, config, "model.embed_tokens.weight", d, calibrated) + "*1";
  if (!config.tied_embeddings) {
    text += " output=" + type_of(mix, config, "lm_head.weight", d, calibrated) + "*1";
  }
  const struct {
    const char *role, *name;
    std::int64_t cols;
  } roles[] = {{"q", "self_attn.q_proj", d},          {"k", "self_attn.k_proj", d},
               {"v", "self_attn.v_proj", d},          {"o", "self_attn.o_proj", d},
               {"gate", "mlp.gate_proj", d},          {"up", "mlp.up_proj", d},
               {"down", "mlp.down_proj", config.d_ff}};
  for (const auto& [role, name, cols] : roles) {
    std::string previous, runs;
    int n = 0;
    const auto end_run = [&] {
      if (n != 0) runs += fmt::format("{}{}*{}", runs.empty() ? "" : ",", previous, n);
      n = 0;
    };
    for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
      const std::string type = type_of(
          mix, config, fmt::format("model.layers.{}.{}.weight", layer, name), cols, calibrated);
      if (type != previous) end_run();
      previous = type;
      ++n;
    }
    end_run();
    text += fmt::format(" {}={}", role, runs);
  }
  return text;
}

TEST(LlamaMixes, GiveEveryTensorTheTypeOfLlamaQuantize) {
  std::ifstream file(LOWBIT_SOURCE_DIR "/tests/golden/llama_mixes.txt");
  std::map<std::string, std::string> plain;  // by "MODEL MIX"
  std::set<std::string> mixes_seen;
  std::string line;
  std::size_t n_lines = 0;
  while (std::getline(file, line)) {
    SCOPED_TRACE(line);
    ++n_lines;
    std::istringstream words(line);
    std::string model, name, types;
    words >> model >> name >> std::ws;
    std::getline(words, types);
    const std::string_view marker = "imatrix ";
    const bool calibrated = types.starts_with(marker);
    if (calibrated) types.erase(0, marker.size());
    const LlamaMix* mix = llama_mix_named(name);
    ASSERT_NE(mix, nullptr);
    mixes_seen.insert(name);
    const ModelConfig& config = models().at(model);
    if (types == "refused") continue;  // llama-quantize has no fallback there
    EXPECT_EQ(types_of(*mix, config, calibrated), types);
    if (!calibrated) plain[model + " " + name] = types;
  }
  EXPECT_EQ(mixes_seen.size(), llama_mix_list().size());
  EXPECT_GE(n_lines, llama_mix_list().size() * models().size());
  // Where the file has no line of its own for an imatrix, it makes no difference.
  std::ifstream again(LOWBIT_SOURCE_DIR "/tests/golden/llama_mixes.txt");
  std::set<std::string> differs;
  while (std::getline(again, line)) {
    const std::size_t at = line.find(" imatrix ");
    if (at != std::string::npos) differs.insert(line.substr(0, at));
  }
  for (const auto& [key, types] : plain) {
    if (differs.contains(key)) continue;
    SCOPED_TRACE(key);
    const std::size_t blank = key.find(' ');
    EXPECT_EQ(types_of(*llama_mix_named(key.substr(blank + 1)), models().at(key.substr(0, blank)),
                       /*calibrated=*/true),
              types);
  }
}

TEST(LlamaMixes, HaveNamesInAnyCase) {
  EXPECT_EQ(llama_mix_named("q4_k_m"), llama_mix_named("Q4_K_M"));
  EXPECT_EQ(llama_mix_named("Q4_K"), llama_mix_named("Q4_K_M"));
  EXPECT_EQ(llama_mix_named("iq3_xs")->name, "IQ3_XS");
  EXPECT_EQ(llama_mix_named("Q4_K_X"), nullptr);
  EXPECT_EQ(llama_mix_named(""), nullptr);
}

TEST(LlamaMixes, SayWhatWantsAnImatrix) {
  const LlamaMix& q2_k_s = *llama_mix_named("Q2_K_S");
  const LlamaMix& q2_k = *llama_mix_named("Q2_K");
  const std::string name = "model.layers.3.mlp.up_proj.weight";
  EXPECT_TRUE(llama_wants_imatrix(q2_k_s, *parse_scheme("q2_k"), name));
  EXPECT_FALSE(llama_wants_imatrix(q2_k, *parse_scheme("q2_k"), name));
  EXPECT_TRUE(llama_wants_imatrix(q2_k, *parse_scheme("iq2_xs"), name));
  EXPECT_FALSE(llama_wants_imatrix(q2_k, *parse_scheme("iq2_xs"), "model.embed_tokens.weight"));
}

}  // namespace
}  // namespace lowbit
