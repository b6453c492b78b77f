// SPDX-License-Identifier: Apache-2.0
// One table of names: what a tensor is called in a Hugging Face folder (canonical) and in GGUF.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace lowbit {

/// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; nothing for names not in the
/// table.
std::optional<std::string> canonical_from_gguf(std::string_view name);
std::optional<std::string> gguf_from_canonical(std::string_view name);

/// "model.layers.3.self_attn.q_proj.weight" -> "self_attn.q_proj"; empty outside a layer.
std::string_view role_of(std::string_view canonical_name);

}  // namespace lowbit
