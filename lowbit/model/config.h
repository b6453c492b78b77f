// SPDX-License-Identifier: Apache-2.0
// An architecture is a row of data, never a subclass: ArchSpec says what a family of models
// computes, ModelConfig adds the sizes of one model. The forward pass reads these fields and knows
// no model names.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/io/metadata.h"

namespace lowbit {

/// What a family computes: pre-norm decoder blocks of grouped-query attention with rotary positions
/// and a gated SiLU feed-forward. Biases of a linear layer follow from the tensors present, except
/// where a row says that they must be there. The list is in config.cc; a new family of this kind is
/// one row.
struct ArchSpec {
  std::string_view name;           // GGUF's general.architecture
  std::string_view hf_class;       // config.json's architectures[0]
  std::string_view hf_model_type;  // config.json's model_type
  bool needs_qkv_bias = false;
  bool qk_norm = false;           // RMS norm of every q and k head before the rotation
  bool gguf_permutes_qk = false;  // GGUF stores q/k rows interleaved per head: [h, d/2, 2]
};
std::span<const ArchSpec> arch_list();

struct ModelConfig {
  const ArchSpec* arch = nullptr;
  std::int64_t n_layers = 0, d_model = 0, d_ff = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0;
  std::int64_t n_vocab = 0;
  std::int64_t n_ctx_train =
      0;  // the longest context; at most the attention window where there is one
  float norm_eps = 1e-5f;
  bool tied_embeddings = false;
  float rope_base = 10000.0f;
  float rope_linear_factor = 1.0f;  // positions are divided by it
  std::vector<float>
      rope_divisors;  // (head_dim / 2) or empty: frequency i is divided by entry i (llama3)
};

/// Sizes from GGUF metadata. n_vocab comes from the token list; tied_embeddings is left to the
/// caller, who knows the tensors. Errors: unknown architecture, missing or absurd sizes,
/// unsupported rope scaling.
Result<ModelConfig> config_from_gguf(const Metadata& metadata);

/// Sizes from a Hugging Face config.json (transformers 4 and 5 spellings of the rope parameters).
Result<ModelConfig> config_from_json(const nlohmann::json& config);

/// The GGUF keys of these sizes, without tokenizer and general.* keys other than the architecture.
void config_to_metadata(const ModelConfig& config, Metadata& metadata);

/// A config.json that config_from_json reads back to the same sizes. Divisors have no field in the
/// Hugging Face convention; they are written as rope_scaling {"rope_type": "divisors", "divisors":
/// [...]}.
nlohmann::json config_to_json(const ModelConfig& config);

/// Whether every size is in range and they fit each other; the error names the first that does not.
Status check_config(const ModelConfig& config);

/// Frequency divisors of the llama3 rule: 1 for short wavelengths, `factor` for long ones, smooth
/// between. Source: the rope_type "llama3" of transformers' modeling_rope_utils.
std::vector<float> llama3_divisors(std::int64_t head_dim, float base, float factor,
                                   float low_freq_factor, float high_freq_factor,
                                   std::int64_t original_ctx);

}  // namespace lowbit
