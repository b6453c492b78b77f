// SPDX-License-Identifier: Apache-2.0
// A small model with random weights, made in memory for tests: sizes that fill no vector, several
// schemes side by side, every optional tensor on request.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/formats/scheme.h"
#include "lowbit/model/config.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

class RandomModel : public TensorSource {
 public:
  struct Options {
    std::uint64_t seed = 1;
    bool biases = true, qk_norm = true, tied = false;
    std::vector<std::string> schemes = {"f32"};  // matrices take them in turn
  };

  explicit RandomModel(const Options& options) : random_(options.seed) {
    arch_.name = "random";
    arch_.needs_qkv_bias = options.biases;
    arch_.qk_norm = options.qk_norm;
    config_.arch = &arch_;
    config_.n_layers = 2;
    config_.d_model = 72;
    config_.d_ff = 104;
    config_.n_heads = 4;
    config_.n_kv_heads = 2;
    config_.head_dim = 20;
    config_.n_vocab = 83;
    config_.n_ctx_train = 400;
    config_.tied_embeddings = options.tied;
    config_.rope_base = 500.0f;
    for (const std::string& name : options.schemes) schemes_.push_back(*parse_scheme(name));
    make_tensors(options);
  }

  const ModelConfig& config() const override { return config_; }
  std::optional<Shape> shape(std::string_view name) const override {
    const auto at = tensors_.find(std::string(name));
    if (at == tensors_.end()) return std::nullopt;
    return Shape{at->second.rows, at->second.cols};
  }
  Result<QuantizedTensor> load(std::string_view name) const override {
    return tensors_.at(std::string(name)).clone();
  }
  Basis input(std::string_view name) const override {
    const auto at = tensors_.find(std::string(name));
    return at == tensors_.end() ? Basis() : at->second.input;
  }
  void drop(std::string_view) const override {}

  ModelConfig& config() { return config_; }
  std::map<std::string, QuantizedTensor>& tensors() { return tensors_; }

 private:
  void make_tensors(const Options& options) {
    const std::int64_t d_model = config_.d_model, d_ff = config_.d_ff;
    const std::int64_t d_q = config_.n_heads * config_.head_dim;
    const std::int64_t d_kv = config_.n_kv_heads * config_.head_dim;
    const auto linear = [&](const std::string& name, std::int64_t n_out, std::int64_t n_in,
                            bool has_bias) {
      add_matrix(name + ".weight", n_out, n_in);
      if (has_bias) add_vector(name + ".bias", n_out, 0.0f, 0.3f);
    };
    add_matrix("model.embed_tokens.weight", config_.n_vocab, d_model);
    for (std::int64_t i = 0; i < config_.n_layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      add_vector(layer + "input_layernorm.weight", d_model, 1.0f, 0.2f);
      add_vector(layer + "post_attention_layernorm.weight", d_model, 1.0f, 0.2f);
      linear(layer + "self_attn.q_proj", d_q, d_model, options.biases);
      linear(layer + "self_attn.k_proj", d_kv, d_model, options.biases);
      linear(layer + "self_attn.v_proj", d_kv, d_model, options.biases);
      linear(layer + "self_attn.o_proj", d_model, d_q, false);
      if (options.qk_norm) {
        add_vector(layer + "self_attn.q_norm.weight", config_.head_dim, 1.0f, 0.2f);
        add_vector(layer + "self_attn.k_norm.weight", config_.head_dim, 1.0f, 0.2f);
      }
      linear(layer + "mlp.gate_proj", d_ff, d_model, false);
      linear(layer + "mlp.up_proj", d_ff, d_model, false);
      linear(layer + "mlp.down_proj", d_model, d_ff, false);
    }
    add_vector("model.norm.weight", d_model, 1.0f, 0.2f);
    if (!options.tied) add_matrix("lm_head.weight", config_.n_vocab, d_model);
  }

  std::vector<float> normal(std::int64_t n_numbers, float mean, float deviation) {
    std::normal_distribution<float> distribution(mean, deviation);
    std::vector<float> numbers(static_cast<std::size_t>(n_numbers));
    for (float& number : numbers) number = distribution(random_);
    return numbers;
  }

  void add_vector(const std::string& name, std::int64_t n_numbers, float mean, float deviation) {
    const auto numbers = normal(n_numbers, mean, deviation);
    tensors_[name] = encode_plain(numbers, *parse_scheme("f32"), 1, n_numbers);
  }

  void add_matrix(const std::string& name, std::int64_t n_rows, std::int64_t n_cols) {
    const Scheme& scheme = schemes_[next_scheme_++ % schemes_.size()];
    const float deviation = 1.0f / std::sqrt(static_cast<float>(n_cols));
    const auto numbers = normal(n_rows * n_cols, 0.0f, deviation);
    if (is_plain_float(scheme)) {
      tensors_[name] = encode_plain(numbers, scheme, n_rows, n_cols);
      return;
    }
    QuantizedTensor tensor(scheme, n_rows, n_cols);
    const auto [least, largest] = std::ranges::minmax(finite_values(*scheme.code));
    const float middle = tensor.zero ? (least + largest) / 2 : 0.0f;
    const float reach = std::max(largest - middle, middle - least);
    const float scale = 3 * deviation / reach;
    set_all(*tensor.scale, scale);
    if (tensor.zero) {
      set_all(*tensor.zero, scheme.zero_unit == ZeroUnit::code ? middle : -scale * middle);
    }
    encode_with_scales(numbers, tensor);
    tensors_[name] = std::move(tensor);
  }

  static std::vector<float> finite_values(const Code& code) {
    std::vector<float> values;
    for (const float value : code.values) {
      if (std::isfinite(value)) values.push_back(value);
    }
    return values;
  }

  /// Scales and zeros that vary around `value` by up to a quarter, through every level.
  void set_all(QuantizedTensor& plane, float value) {
    float unit = 1;
    if (plane.scale) {
      constexpr float steps = 24;  // of the inner scale; codes of six bits and more reach it
      unit = value / steps;
      set_all(*plane.scale, unit);
      unit = decode(*plane.scale).front();
    }
    std::uniform_real_distribution<float> factor(0.75f, 1.25f);
    for (std::int64_t row = 0; row < plane.codes.n_rows(); ++row) {
      for (std::int64_t i = 0; i < plane.codes.n_per_row(); ++i) {
        plane.codes.set(row, i, nearest_code(*plane.scheme.code, value * factor(random_) / unit));
      }
    }
  }

  std::mt19937_64 random_;
  ArchSpec arch_;
  ModelConfig config_;
  std::vector<Scheme> schemes_;
  std::size_t next_scheme_ = 0;
  std::map<std::string, QuantizedTensor> tensors_;
};

}  // namespace lowbit
