// SPDX-License-Identifier: Apache-2.0
// What the worker makes of a request: first its body as JSON, which says what model it is for;
// then, with the model, either the whole answer (an error, token ids, a rendered template), or the
// jobs for the engine and how their answer looks. Pure: it reads the model and touches nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/server/engine_loop.h"
#include "lowbit/server/openai_request.h"

namespace lowbit {

struct Prepared {
  Refusal refusal = {};
  std::optional<Json> reply = {};  // otherwise:
  Endpoint endpoint = Endpoint::chat;
  Generation generation = {};
  std::vector<Job> jobs = {};            // one per choice, without ids
  std::vector<std::string> echoes = {};  // one per choice, or none
  bool has_tools = false;
  bool as_base64 = false;                 // embeddings
  std::int64_t n_prompt = 0;              // tokens of all prompts, each counted once
  std::vector<std::string> ignored = {};  // fields nobody looked at
};

/// A body that could be read and whose fields are of the right types.
struct ParsedBody {
  Refusal refusal = {};
  Json json = nullptr;
  std::string model = {};  // "": none was named
};
ParsedBody parse_body(Endpoint endpoint, std::string_view body);

/// What a request inherits from where it came.
struct RequestScope {
  std::uint64_t random_seed = 0;  // for requests that name none
  std::string key_salt = {};      // of its API key: its prompts are shared with no other's
};
Prepared prepare(Endpoint endpoint, const Json& body, const ServedModel& model,
                 const RequestScope& scope);

}  // namespace lowbit
