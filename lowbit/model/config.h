// SPDX-License-Identifier: Apache-2.0
// An architecture is a row of data, never a subclass: ArchSpec says what a family of models
// computes, ModelConfig adds the sizes of one model. The forward pass reads these fields and knows
// no model names.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace lowbit {

/// What a family computes. The list of rows is in config.cc; adding a family of this kind is one
/// row.
struct ArchSpec {
  std::string_view name;           // GGUF's general.architecture
  std::string_view hf_class;       // config.json's architectures[0]
  std::string_view hf_model_type;  // config.json's model_type
  bool qkv_bias = false;
  bool qk_norm = false;           // RMS norm of every q and k head before rope
  bool gguf_permutes_qk = false;  // GGUF stores q/k rows interleaved per head: [h, d/2, 2]
};
std::span<const ArchSpec> arch_list();

enum class RopeScaling : std::uint8_t { none, linear, llama3 };

struct ModelConfig {
  const ArchSpec* arch = nullptr;
  std::int64_t n_layers = 0, d_model = 0, d_ff = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0;
  std::int64_t n_vocab = 0, n_ctx_train = 0;
  float norm_eps = 1e-5f;
  bool tied_embeddings = false;
  float rope_base = 10000.0f;
  RopeScaling rope_scaling = RopeScaling::none;
  float rope_factor = 1.0f;                                         // linear and llama3
  float rope_low_freq_factor = 1.0f, rope_high_freq_factor = 4.0f;  // llama3
  std::int64_t rope_original_ctx = 0;                               // llama3
};

}  // namespace lowbit
