// SPDX-License-Identifier: Apache-2.0
// The way back of tokenizer_load.h: a tokenizer as the metadata of a GGUF file, or as the three
// JSON files of a Hugging Face folder.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "lowbit/base/result.h"
#include "lowbit/io/metadata.h"
#include "lowbit/model/tokenizer.h"

namespace lowbit {

/// Sets tokenizer.ggml.*. Error: GGUF names its pre-tokenizers, and none of the names means this
/// one.
Status tokenizer_to_metadata(const TokenizerData& data, Metadata& metadata);

/// tokenizer.json; loading it gives the same ids.
nlohmann::ordered_json tokenizer_to_json(const TokenizerData& data);
/// tokenizer_config.json, with the chat template where there is one.
nlohmann::ordered_json tokenizer_config_to_json(const TokenizerData& data,
                                                std::string_view chat_template);
/// generation_config.json: the ids that end a generation.
nlohmann::ordered_json generation_config_to_json(const TokenizerData& data);

}  // namespace lowbit
