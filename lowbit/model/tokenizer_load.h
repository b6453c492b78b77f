// SPDX-License-Identifier: Apache-2.0
// Where a TokenizerData comes from: the metadata of a GGUF file, or the tokenizer.json of a Hugging
// Face folder with its two companions. What a file asks for and we cannot do is an Error, never
// left out in silence.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "lowbit/base/result.h"
#include "lowbit/model/tokenizer.h"

namespace lowbit {

class Metadata;

/// Reads tokenizer.ggml.*: byte-level BPE (tokenizer.ggml.model "gpt2") only. As the format's
/// reference does, special ids outside the vocabulary count as absent.
Result<TokenizerData> tokenizer_from_gguf(const Metadata& metadata);

/// Reads a parsed tokenizer.json; the configs may be nullptr. End tokens come from eos_token_id of
/// generation_config (a number or a list), eos_token of tokenizer_config, and known names. A BOS is
/// added if the post-processor's template begins with one, unless add_bos_token of tokenizer_config
/// says otherwise; an EOS at the end of the template is not, a prompt goes on.
Result<TokenizerData> tokenizer_from_json(const nlohmann::json& tokenizer,
                                          const nlohmann::json* tokenizer_config,
                                          const nlohmann::json* generation_config);

/// Adds the tokens whose name says that they end a turn or a text ("<|im_end|>") to end_ids, and
/// makes them control tokens where a file forgot to. Both loaders call it.
void find_end_tokens(TokenizerData& data);

}  // namespace lowbit
