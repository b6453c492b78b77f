// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/tensor_names.h"

#include <array>
#include <cctype>

namespace lowbit {
namespace {

struct NamePair {
  std::string_view gguf, canonical;
};

// Outside the layers, names are whole; inside, "blk.N." and "model.layers.N." stand before them.
constexpr std::array outer_names{
    NamePair{"token_embd", "model.embed_tokens"},
    NamePair{"output_norm", "model.norm"},
    NamePair{"output", "lm_head"},
};
constexpr std::array layer_names{
    NamePair{"attn_norm", "input_layernorm"},    NamePair{"attn_q", "self_attn.q_proj"},
    NamePair{"attn_k", "self_attn.k_proj"},      NamePair{"attn_v", "self_attn.v_proj"},
    NamePair{"attn_output", "self_attn.o_proj"}, NamePair{"attn_q_norm", "self_attn.q_norm"},
    NamePair{"attn_k_norm", "self_attn.k_norm"}, NamePair{"ffn_norm", "post_attention_layernorm"},
    NamePair{"ffn_gate", "mlp.gate_proj"},       NamePair{"ffn_up", "mlp.up_proj"},
    NamePair{"ffn_down", "mlp.down_proj"},
};

constexpr std::string_view gguf_layer_prefix = "blk.";
constexpr std::string_view canonical_layer_prefix = "model.layers.";

struct SplitName {
  std::string_view layer, body,
      suffix;  // "3", "attn_q", ".weight"; layer is empty outside the layers
};

std::optional<SplitName> split(std::string_view name, std::string_view layer_prefix) {
  SplitName parts;
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  parts.suffix = name.substr(dot);
  if (parts.suffix != ".weight" && parts.suffix != ".bias") return std::nullopt;
  parts.body = name.substr(0, dot);
  if (parts.body.starts_with(layer_prefix)) {
    std::string_view rest = parts.body.substr(layer_prefix.size());
    std::size_t n_digits = 0;
    while (n_digits < rest.size() && std::isdigit(static_cast<unsigned char>(rest[n_digits]))) {
      ++n_digits;
    }
    if (n_digits == 0 || n_digits >= rest.size() || rest[n_digits] != '.') return std::nullopt;
    parts.layer = rest.substr(0, n_digits);
    parts.body = rest.substr(n_digits + 1);
  }
  return parts;
}

}  // namespace

std::optional<std::string> canonical_from_gguf(std::string_view name) {
  const auto parts = split(name, gguf_layer_prefix);
  if (!parts) return std::nullopt;
  if (parts->layer.empty()) {
    for (const NamePair& pair : outer_names) {
      if (pair.gguf == parts->body) return std::string(pair.canonical) + std::string(parts->suffix);
    }
    return std::nullopt;
  }
  for (const NamePair& pair : layer_names) {
    if (pair.gguf == parts->body) {
      return std::string(canonical_layer_prefix) + std::string(parts->layer) + "." +
             std::string(pair.canonical) + std::string(parts->suffix);
    }
  }
  return std::nullopt;
}

std::optional<std::string> gguf_from_canonical(std::string_view name) {
  const auto parts = split(name, canonical_layer_prefix);
  if (!parts) return std::nullopt;
  if (parts->layer.empty()) {
    for (const NamePair& pair : outer_names) {
      if (pair.canonical == parts->body) return std::string(pair.gguf) + std::string(parts->suffix);
    }
    return std::nullopt;
  }
  for (const NamePair& pair : layer_names) {
    if (pair.canonical == parts->body) {
      return std::string(gguf_layer_prefix) + std::string(parts->layer) + "." +
             std::string(pair.gguf) + std::string(parts->suffix);
    }
  }
  return std::nullopt;
}

std::string_view role_of(std::string_view canonical_name) {
  const auto parts = split(canonical_name, canonical_layer_prefix);
  return parts && !parts->layer.empty() ? parts->body : std::string_view{};
}

}  // namespace lowbit
