// SPDX-License-Identifier: Apache-2.0
// From parsed requests to token ids, and the checks that need the model: its name, its vocabulary,
// its context. Nothing is ever cut off silently.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "lowbit/server/openai_request.h"
#include "lowbit/server/served_model.h"

namespace lowbit {

/// 404 for a model that is not served; "" is the one that is.
Refusal check_model(const std::string& name, const ServedModel& model);

/// What the template makes of the messages.
Refusal render(const ChatRequest& request, const ServedModel& model, MarkedText& text);
/// The same as ids.
Refusal chat_ids(const ChatRequest& request, const ServedModel& model,
                 std::vector<std::int32_t>& ids);
/// Text is tokenized as a user's: special tokens in it are recognised, as in a raw completion.
Refusal prompt_ids(const Prompt& prompt, const ServedModel& model, std::vector<std::int32_t>& ids);

/// Whether prompt and answer fit into the context, and the sampling parameters into the vocabulary.
Refusal check_generation(std::int64_t n_prompt, const Generation& generation,
                         const ServedModel& model);

/// The engine's request for one answer. `seed` belongs to the first; others follow from it. `salt`:
/// cache_salt of the request and of its key.
Request engine_request(std::vector<std::int32_t> ids, const Generation& generation,
                       std::uint64_t seed, std::int64_t choice, std::string salt);

}  // namespace lowbit
