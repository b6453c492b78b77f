// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/config.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>

#include "lowbit/base/math.h"

namespace lowbit {
namespace {

using nlohmann::json;

// clang-format off
constexpr std::array archs{
    //       GGUF      architectures[0]      model_type qkv bias        qk norm         GGUF permutes q/k
    ArchSpec{"llama", "LlamaForCausalLM",   "llama",   /*needs*/ false, /*norm*/ false, /*permutes*/ true},
    ArchSpec{"llama", "MistralForCausalLM", "mistral", /*needs*/ false, /*norm*/ false, /*permutes*/ true},
    ArchSpec{"qwen2", "Qwen2ForCausalLM",   "qwen2",   /*needs*/ true,  /*norm*/ false, /*permutes*/ false},
    ArchSpec{"qwen3", "Qwen3ForCausalLM",   "qwen3",   /*needs*/ false, /*norm*/ true,  /*permutes*/ false},
};
// clang-format on

std::string known_archs() {
  std::string names;
  for (const ArchSpec& arch : archs) {
    names += (names.empty() ? "" : ", ") + std::string(arch.hf_model_type);
  }
  return names;
}

// No model comes near these; they keep products of sizes far from overflow.
constexpr std::int64_t max_layers = 4096, max_width = std::int64_t{1} << 24;
constexpr std::int64_t max_ctx = std::int64_t{1} << 31;

// Reads fields of a JSON object and remembers the first failure, so that many reads are tested
// once.
class FieldReader {
 public:
  explicit FieldReader(const json& object) : object_(object) {}

  bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }

  std::int64_t integer(const char* key) {
    return number<std::int64_t>(key, /*fallback=*/std::nullopt);
  }
  std::int64_t integer(const char* key, std::int64_t fallback) {
    return number(key, std::optional(fallback));
  }
  float real(const char* key, float fallback) {
    if (!has(key)) return fallback;
    if (!object_[key].is_number()) return fail(key, "a number"), fallback;
    return object_[key].get<float>();
  }
  bool boolean(const char* key, bool fallback) {
    if (!has(key)) return fallback;
    if (!object_[key].is_boolean()) return fail(key, "true or false"), fallback;
    return object_[key].get<bool>();
  }
  std::string text(const char* key, std::string fallback) {
    if (!has(key)) return fallback;
    if (!object_[key].is_string()) return fail(key, "a string"), fallback;
    return object_[key].get<std::string>();
  }
  Status status() const {
    if (error_.empty()) return ok();
    return Error(error_);
  }

 private:
  template <class T>
  T number(const char* key, std::optional<T> fallback) {
    if (!has(key)) {
      if (!fallback && error_.empty()) error_ = fmt::format("config.json has no \"{}\"", key);
      return fallback.value_or(T{});
    }
    if (!object_[key].is_number_integer()) return fail(key, "an integer"), T{};
    return object_[key].get<T>();
  }
  void fail(const char* key, const char* expected) {
    if (error_.empty()) error_ = fmt::format("\"{}\" in config.json is not {}", key, expected);
  }
  const json& object_;
  std::string error_;
};

// transformers 4: rope_theta beside rope_scaling {rope_type or type, factor, ...}; transformers 5:
// rope_parameters {rope_theta, rope_type, ...}.
Status read_rope(const json& source, ModelConfig& config) {
  FieldReader top(source);
  config.rope_base = top.real("rope_theta", config.rope_base);
  json scaling = json::object();
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (source.contains(key) && source[key].is_object()) scaling = source[key];
  }
  FieldReader rope(scaling);
  config.rope_base = rope.real("rope_theta", config.rope_base);
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  if (rope.real("partial_rotary_factor", top.real("partial_rotary_factor", 1.0f)) != 1.0f) {
    return Error("partial rotary positions are not supported; the model cannot be run");
  }
  if (type == "linear") {
    config.rope_linear_factor = rope.real("factor", 1.0f);
  } else if (type == "llama3") {
    const std::int64_t original = rope.integer("original_max_position_embeddings",
                                               top.integer("original_max_position_embeddings", 0));
    if (original < 1) return Error("rope_scaling llama3 has no original_max_position_embeddings");
    config.rope_divisors = llama3_divisors(
        config.head_dim, config.rope_base, rope.real("factor", 1.0f),
        rope.real("low_freq_factor", 1.0f), rope.real("high_freq_factor", 4.0f), original);
  } else if (type == "divisors") {
    if (!scaling.contains("divisors") || !scaling["divisors"].is_array()) {
      return Error("rope_scaling of type divisors has no list of divisors");
    }
    for (const json& divisor : scaling["divisors"]) {
      if (!divisor.is_number())
        return Error("a rope frequency divisor in config.json is not a number");
      config.rope_divisors.push_back(divisor.get<float>());
    }
  } else if (type != "default") {
    return Error(
        fmt::format("rope scaling \"{}\" is not supported; known are linear and llama3", type));
  }
  if (Status status = top.status(); !status) return status;
  return rope.status();
}

}  // namespace

std::span<const ArchSpec> arch_list() {
  return archs;
}

Status check_config(const ModelConfig& config) {
  struct Limit {
    std::string_view name;
    std::int64_t value, most;
  };
  const std::array limits{
      Limit{"number of layers (num_hidden_layers)", config.n_layers, max_layers},
      Limit{"embedding length (hidden_size)", config.d_model, max_width},
      Limit{"feed-forward length (intermediate_size)", config.d_ff, max_width},
      Limit{"number of attention heads (num_attention_heads)", config.n_heads, max_width},
      Limit{"number of key/value heads (num_key_value_heads)", config.n_kv_heads, max_width},
      Limit{"head dimension", config.head_dim, max_width},
      Limit{"vocabulary size", config.n_vocab, max_width},
      Limit{"context length", config.n_ctx_train, max_ctx},
  };
  for (const Limit& limit : limits) {
    if (limit.value < 1 || limit.value > limit.most) {
      return Error(
          fmt::format("the {} is {}, expected 1 to {}; the file is damaged or not a language model",
                      limit.name, limit.value, limit.most));
    }
  }
  if (config.n_heads % config.n_kv_heads != 0) {
    return Error(
        fmt::format("{} attention heads do not divide into {} key/value heads; the file is damaged",
                    config.n_heads, config.n_kv_heads));
  }
  if (config.head_dim % 2 != 0) {
    return Error(
        fmt::format("the head dimension {} is odd; rotary positions need pairs", config.head_dim));
  }
  if (!(config.norm_eps > 0) || !(config.norm_eps < 1)) {
    return Error(fmt::format("the norm epsilon is {}, expected between 0 and 1", config.norm_eps));
  }
  if (!(config.rope_base > 1) || !std::isfinite(config.rope_base)) {
    return Error(fmt::format("the rope base is {}, expected above 1", config.rope_base));
  }
  if (!(config.rope_linear_factor > 0) || !std::isfinite(config.rope_linear_factor)) {
    return Error(
        fmt::format("the rope scaling factor is {}, expected above 0", config.rope_linear_factor));
  }
  if (!config.rope_divisors.empty() &&
      static_cast<std::int64_t>(config.rope_divisors.size()) != config.head_dim / 2) {
    return Error(
        fmt::format("there are {} rope frequency divisors, expected {} (half the head dimension)",
                    config.rope_divisors.size(), config.head_dim / 2));
  }
  for (const float divisor : config.rope_divisors) {
    if (!(divisor > 0) || !std::isfinite(divisor)) {
      return Error(fmt::format("a rope frequency divisor is {}, expected above 0", divisor));
    }
  }
  return ok();
}

std::vector<float> llama3_divisors(std::int64_t head_dim, float base, float factor,
                                   float low_freq_factor, float high_freq_factor,
                                   std::int64_t original_ctx) {
  const double low_wavelength = static_cast<double>(original_ctx) / low_freq_factor;
  const double high_wavelength = static_cast<double>(original_ctx) / high_freq_factor;
  std::vector<float> divisors;
  for (std::int64_t i = 0; i < head_dim / 2; ++i) {
    const double frequency = math::pow(
        static_cast<double>(base), -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    const double wavelength = 2 * std::numbers::pi / frequency;
    double divisor = 1;
    if (wavelength > low_wavelength) {
      divisor = factor;
    } else if (wavelength >= high_wavelength) {
      const double smooth = (static_cast<double>(original_ctx) / wavelength - low_freq_factor) /
                            (static_cast<double>(high_freq_factor) - low_freq_factor);
      divisor = 1 / ((1 - smooth) / factor + smooth);
    }
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

Result<ModelConfig> config_from_gguf(const Metadata& metadata) {
  const auto arch_name = metadata.string("general.architecture");
  if (!arch_name) return Error(arch_name.error());
  ModelConfig config;
  for (const ArchSpec& arch : archs) {
    if (config.arch == nullptr && arch.name == *arch_name) config.arch = &arch;
  }
  if (config.arch == nullptr) {
    return Error(fmt::format("architecture \"{}\" is not supported; known are {}", *arch_name,
                             known_archs()));
  }
  const std::string prefix = std::string(*arch_name) + ".";
  const auto key = [&](std::string_view name) { return prefix + std::string(name); };

  struct Size {
    std::string_view name;
    std::int64_t* value;
  };
  const std::array sizes{
      Size{"block_count", &config.n_layers},       Size{"embedding_length", &config.d_model},
      Size{"feed_forward_length", &config.d_ff},   Size{"attention.head_count", &config.n_heads},
      Size{"context_length", &config.n_ctx_train},
  };
  for (const Size& size : sizes) {
    const auto value = metadata.integer(key(size.name));
    if (!value) return Error(value.error());
    *size.value = *value;
  }
  const auto integer_or = [&](std::string_view name,
                              std::int64_t fallback) -> Result<std::int64_t> {
    if (metadata.find(key(name)) == nullptr) return fallback;
    return metadata.integer(key(name));
  };
  const auto number_or = [&](std::string_view name, double fallback) -> Result<double> {
    if (metadata.find(key(name)) == nullptr) return fallback;
    return metadata.number(key(name));
  };
  const auto n_kv_heads = integer_or("attention.head_count_kv", config.n_heads);
  if (!n_kv_heads) return Error(n_kv_heads.error());
  config.n_kv_heads = *n_kv_heads;
  const auto head_dim =
      integer_or("attention.key_length", config.n_heads > 0 ? config.d_model / config.n_heads : 0);
  if (!head_dim) return Error(head_dim.error());
  config.head_dim = *head_dim;
  const auto value_dim = integer_or("attention.value_length", config.head_dim);
  const auto rope_dim = integer_or("rope.dimension_count", config.head_dim);
  if (!value_dim) return Error(value_dim.error());
  if (!rope_dim) return Error(rope_dim.error());
  if (*value_dim != config.head_dim || *rope_dim != config.head_dim) {
    return Error(fmt::format(
        "keys of {} numbers with values of {} and rotary positions over {} are not supported; "
        "all three must be equal",
        config.head_dim, *value_dim, *rope_dim));
  }
  const auto eps = metadata.number(key("attention.layer_norm_rms_epsilon"));
  if (!eps) return Error(eps.error());
  config.norm_eps = static_cast<float>(*eps);
  const auto base = number_or("rope.freq_base", 10000.0);
  if (!base) return Error(base.error());
  config.rope_base = static_cast<float>(*base);

  if (metadata.find(key("rope.scaling.type")) != nullptr) {
    const auto type = metadata.string(key("rope.scaling.type"));
    if (!type) return Error(type.error());
    if (*type == "linear") {
      const auto factor = number_or("rope.scaling.factor", 1.0);
      if (!factor) return Error(factor.error());
      config.rope_linear_factor = static_cast<float>(*factor);
    } else if (*type != "none") {
      return Error(
          fmt::format("rope scaling \"{}\" is not supported; known are linear and llama3", *type));
    }
  } else if (const auto factor = number_or("rope.scale_linear", 1.0); !factor) {
    return Error(factor.error());
  } else {
    config.rope_linear_factor = static_cast<float>(*factor);
  }
  const auto tokens = metadata.strings("tokenizer.ggml.tokens");
  const auto n_vocab =
      integer_or("vocab_size", tokens ? static_cast<std::int64_t>((*tokens)->size()) : 0);
  if (!n_vocab) return Error(n_vocab.error());
  config.n_vocab = *n_vocab;
  if (Status status = check_config(config); !status) return std::move(status).error();
  return config;
}

Result<ModelConfig> config_from_json(const json& source) {
  if (!source.is_object()) return Error("config.json is not a JSON object");
  ModelConfig config;
  std::string class_name, type_name;
  if (source.contains("architectures") && source["architectures"].is_array() &&
      !source["architectures"].empty() && source["architectures"][0].is_string()) {
    class_name = source["architectures"][0].get<std::string>();
  }
  FieldReader fields(source);
  type_name = fields.text("model_type", "");
  for (const ArchSpec& arch : archs) {
    if (class_name.empty() ? arch.hf_model_type == type_name : arch.hf_class == class_name) {
      config.arch = &arch;
    }
  }
  if (config.arch == nullptr) {
    return Error(fmt::format("architecture \"{}\" is not supported; known are {}",
                             class_name.empty() ? type_name : class_name, known_archs()));
  }
  config.n_layers = fields.integer("num_hidden_layers");
  config.d_model = fields.integer("hidden_size");
  config.d_ff = fields.integer("intermediate_size");
  config.n_heads = fields.integer("num_attention_heads");
  config.n_kv_heads = fields.integer("num_key_value_heads", config.n_heads);
  config.head_dim =
      fields.integer("head_dim", config.n_heads > 0 ? config.d_model / config.n_heads : 0);
  config.n_vocab = fields.integer("vocab_size");
  config.n_ctx_train = fields.integer("max_position_embeddings");
  config.norm_eps = fields.real("rms_norm_eps", 1e-6f);
  config.tied_embeddings = fields.boolean("tie_word_embeddings", false);
  const std::string activation = fields.text("hidden_act", "silu");
  // A window is never wider than the context it is used for: shorter contexts need no window at
  // all.
  const std::int64_t window = fields.integer("sliding_window", 0);
  const bool uses_window =
      fields.boolean("use_sliding_window", config.arch->hf_model_type == "mistral");
  if (Status status = fields.status(); !status) return std::move(status).error();
  if (activation != "silu") {
    return Error(fmt::format("activation \"{}\" is not supported; known is silu", activation));
  }
  if (uses_window && window > 0 && window < config.n_ctx_train) config.n_ctx_train = window;
  // The sizes first: the rope divisors are as many as half a head.
  if (Status status = check_config(config); !status) return std::move(status).error();
  if (Status status = read_rope(source, config); !status) return std::move(status).error();
  if (Status status = check_config(config); !status) return std::move(status).error();
  return config;
}

void config_to_metadata(const ModelConfig& config, Metadata& metadata) {
  const std::string prefix = std::string(config.arch->name) + ".";
  const auto u32 = [&](std::string_view name, std::int64_t value) {
    metadata.set(prefix + std::string(name), Value::integer(value));
  };
  const auto f32 = [&](std::string_view name, float value) {
    metadata.set(prefix + std::string(name), Value::number(static_cast<double>(value)));
  };
  metadata.set("general.architecture", Value::string(std::string(config.arch->name)));
  u32("block_count", config.n_layers);
  u32("context_length", config.n_ctx_train);
  u32("embedding_length", config.d_model);
  u32("feed_forward_length", config.d_ff);
  u32("attention.head_count", config.n_heads);
  u32("attention.head_count_kv", config.n_kv_heads);
  u32("attention.key_length", config.head_dim);
  u32("attention.value_length", config.head_dim);
  u32("rope.dimension_count", config.head_dim);
  u32("vocab_size", config.n_vocab);
  f32("attention.layer_norm_rms_epsilon", config.norm_eps);
  f32("rope.freq_base", config.rope_base);
  if (config.rope_linear_factor != 1.0f) {
    metadata.set(prefix + "rope.scaling.type", Value::string("linear"));
    f32("rope.scaling.factor", config.rope_linear_factor);
  }
}

json config_to_json(const ModelConfig& config) {
  json out = {
      {"architectures", json::array({config.arch->hf_class})},
      {"model_type", config.arch->hf_model_type},
      {"hidden_act", "silu"},
      {"num_hidden_layers", config.n_layers},
      {"hidden_size", config.d_model},
      {"intermediate_size", config.d_ff},
      {"num_attention_heads", config.n_heads},
      {"num_key_value_heads", config.n_kv_heads},
      {"head_dim", config.head_dim},
      {"vocab_size", config.n_vocab},
      {"max_position_embeddings", config.n_ctx_train},
      {"rms_norm_eps", config.norm_eps},
      {"tie_word_embeddings", config.tied_embeddings},
      {"rope_theta", config.rope_base},
  };
  if (config.rope_linear_factor != 1.0f) {
    out["rope_scaling"] = {{"rope_type", "linear"}, {"factor", config.rope_linear_factor}};
  }
  if (!config.rope_divisors.empty()) {
    out["rope_scaling"] = {{"rope_type", "divisors"}, {"divisors", config.rope_divisors}};
  }
  return out;
}

}  // namespace lowbit
