// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "lowbit/measure/random_tensor.h"

namespace lowbit {
namespace {

// clang-format off
constexpr std::array shapes{
    //         name            family  layers     d   d_ff heads  kv  head   vocab     ctx  tied      eps  rope base
    ModelShape{"smollm2-135m", "llama",    30,  576,  1536,    9,  3,   64,  49152,   8192, true,  1e-5f,     1e5f},
    ModelShape{"qwen2.5-0.5b", "qwen2",    24,  896,  4864,   14,  2,   64, 151936,  32768, true,  1e-6f,     1e6f},
    ModelShape{"qwen3-0.6b",   "qwen3",    28, 1024,  3072,   16,  8,  128, 151936,  40960, true,  1e-6f,     1e6f},
    ModelShape{"llama-1b",     "llama",    16, 2048,  8192,   32,  8,   64, 128256, 131072, true,  1e-5f,     5e5f},
    ModelShape{"qwen3-1.7b",   "qwen3",    28, 2048,  6144,   16,  8,  128, 151936,  40960, true,  1e-6f,     1e6f},
    ModelShape{"llama-3b",     "llama",    28, 3072,  8192,   24,  8,  128, 128256, 131072, true,  1e-5f,     5e5f},
    ModelShape{"qwen3-4b",     "qwen3",    36, 2560,  9728,   32,  8,  128, 151936,  40960, true,  1e-6f,     1e6f},
    ModelShape{"qwen2.5-7b",   "qwen2",    28, 3584, 18944,   28,  4,  128, 152064,  32768, false, 1e-6f,     1e6f},
    ModelShape{"llama-8b",     "llama",    32, 4096, 14336,   32,  8,  128, 128256, 131072, false, 1e-5f,     5e5f},
    ModelShape{"qwen3-8b",     "qwen3",    36, 4096, 12288,   32,  8,  128, 151936,  40960, false, 1e-6f,     1e6f},
    // No published model: every part of one, small enough for tests.
    ModelShape{"tiny",         "qwen3",     2,  256,   512,    4,  2,   64,    512,   4096, false, 1e-6f,     1e6f},
};
// clang-format on

/// FNV-1a: each tensor has numbers of its own.
std::uint64_t seed_of(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace

std::span<const ModelShape> model_shapes() {
  return shapes;
}

Result<ModelConfig> config_of_shape(std::string_view name) {
  std::string names;
  for (const ModelShape& shape : shapes) {
    if (shape.name != name) {
      names += (names.empty() ? "" : ", ") + std::string(shape.name);
      continue;
    }
    ModelConfig config;
    const auto archs = arch_list();
    config.arch = &*std::ranges::find(archs, shape.family, &ArchSpec::hf_model_type);
    config.n_layers = shape.n_layers;
    config.d_model = shape.d_model;
    config.d_ff = shape.d_ff;
    config.n_heads = shape.n_heads;
    config.n_kv_heads = shape.n_kv_heads;
    config.head_dim = shape.head_dim;
    config.n_vocab = shape.n_vocab;
    config.n_ctx_train = shape.n_ctx_train;
    config.tied_embeddings = shape.tied;
    config.norm_eps = shape.norm_eps;
    config.rope_base = shape.rope_base;
    return config;
  }
  return Error(fmt::format("there is no shape \"{}\"; choose from {}", name, names));
}

Result<std::unique_ptr<RandomWeights>> RandomWeights::create(const ModelConfig& config,
                                                             const Scheme& scheme,
                                                             ThreadPool& pool) {
  std::unique_ptr<RandomWeights> weights(new RandomWeights(config, scheme, pool));
  const std::int64_t unit = required_multiple(scheme);
  for (const Named& tensor : weights->tensors_) {
    if (!tensor.is_vector && tensor.shape.cols % unit != 0) {
      return Error(fmt::format("{} has rows of {}, no multiple of {}, the block of {}", tensor.name,
                               tensor.shape.cols, unit, to_string(scheme)));
    }
  }
  return weights;
}

RandomWeights::RandomWeights(const ModelConfig& config, const Scheme& scheme, ThreadPool& pool)
    : config_(config), scheme_(scheme), plain_(*parse_scheme("f32")), pool_(pool) {
  const std::int64_t d_model = config.d_model, d_ff = config.d_ff;
  const std::int64_t d_q = config.n_heads * config.head_dim;
  const std::int64_t d_kv = config.n_kv_heads * config.head_dim;
  const auto add = [&](std::string name, std::int64_t rows, std::int64_t cols) {
    tensors_.push_back({std::move(name), {rows, cols}, false});
  };
  const auto add_vector = [&](std::string name, std::int64_t n_numbers) {
    tensors_.push_back({std::move(name), {1, n_numbers}, true});
  };
  const auto add_projection = [&](const std::string& name, std::int64_t rows) {
    add(name + ".weight", rows, d_model);
    if (config.arch->needs_qkv_bias) add_vector(name + ".bias", rows);
  };
  add("model.embed_tokens.weight", config.n_vocab, d_model);
  for (std::int64_t i = 0; i < config.n_layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    const std::string attention = layer + "self_attn.";
    add_vector(layer + "input_layernorm.weight", d_model);
    add_projection(attention + "q_proj", d_q);
    add_projection(attention + "k_proj", d_kv);
    add_projection(attention + "v_proj", d_kv);
    if (config.arch->qk_norm) {
      add_vector(attention + "q_norm.weight", config.head_dim);
      add_vector(attention + "k_norm.weight", config.head_dim);
    }
    add(attention + "o_proj.weight", d_model, d_q);
    add_vector(layer + "post_attention_layernorm.weight", d_model);
    add(layer + "mlp.gate_proj.weight", d_ff, d_model);
    add(layer + "mlp.up_proj.weight", d_ff, d_model);
    add(layer + "mlp.down_proj.weight", d_model, d_ff);
  }
  add_vector("model.norm.weight", d_model);
  if (!config.tied_embeddings) add("lm_head.weight", config.n_vocab, d_model);
}

const RandomWeights::Named* RandomWeights::find(std::string_view name) const {
  const auto at = std::ranges::find(tensors_, name, &Named::name);
  return at == tensors_.end() ? nullptr : &*at;
}

const Scheme& RandomWeights::scheme_of(const Named& tensor) const {
  return tensor.is_vector ? plain_ : scheme_;
}

std::optional<TensorSource::Shape> RandomWeights::shape(std::string_view name) const {
  const Named* tensor = find(name);
  return tensor == nullptr ? std::nullopt : std::optional(tensor->shape);
}

Result<QuantizedTensor> RandomWeights::load(std::string_view name) const {
  const Named* tensor = find(name);
  if (tensor == nullptr) return Error(fmt::format("there is no tensor {}", name));
  const auto [rows, cols] = tensor->shape;
  if (!tensor->is_vector) return random_tensor(scheme_, rows, cols, seed_of(name), pool_);
  // Norms multiply by one, biases add little.
  const float number = name.ends_with(".bias") ? 0.01f : 1.0f;
  const std::vector<float> numbers(static_cast<std::size_t>(cols), number);
  return encode_plain(numbers, plain_, rows, cols);
}

}  // namespace lowbit
