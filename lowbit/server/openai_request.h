// SPDX-License-Identifier: Apache-2.0
// Requests of the OpenAI API as values. Pure functions from JSON: no model, no socket, no clock, so
// that every refusal is a unit test and the fuzzer reaches all of it. What needs the model (names,
// token ids, the context) is checked later, in prompt.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "lowbit/runtime/sampler.h"
#include "lowbit/server/openai_fields.h"

namespace lowbit {

/// How to generate. What the request leaves out keeps the value that was there before parsing.
struct Generation {
  SamplingParams sampling = {};
  std::optional<std::uint64_t> seed;
  std::optional<std::int64_t> max_tokens;
  std::int64_t min_tokens = 0;
  std::int64_t n_choices = 1;
  std::vector<std::string> stop;
  std::vector<std::int32_t> stop_ids;
  bool ignore_end = false;
  std::optional<int> n_top_logprobs;  // 0: of the chosen token alone
  bool stream = false, include_usage = false;
  int priority = 0;
  std::string cache_salt = {};
};

/// What an answer must be besides text; compiled to a token mask (grammar/).
struct AnswerRule {
  enum class Kind : std::uint8_t {
    none,
    json_object,
    json_schema,
    tool_calls,         // nothing but calls
    text_or_tool_calls  // text, and calls that keep to the schemas
  };
  Kind kind = Kind::none;
  Json schema = nullptr;    // of json_schema
  std::string tool = {};    // the only one that may be called; "": any
  bool is_parallel = true;  // more than one call
};

struct ChatRequest {
  std::string model;
  Json messages;         // as the template takes them: content is text or null
  Json tools = nullptr;  // null: none
  AnswerRule rule = {};
  Json template_variables = Json::object();
  bool add_generation_prompt = true, continue_final_message = false;
  Generation generation;
  std::vector<std::string> ignored;  // fields nobody looks at
};

/// Text, or ids that are taken as they are.
using Prompt = std::variant<std::string, std::vector<std::int32_t>>;

struct CompletionRequest {
  std::string model;
  std::vector<Prompt> prompts;  // at least one
  bool echo = false;
  AnswerRule rule = {};
  Generation generation;
  std::vector<std::string> ignored;
};

struct EmbeddingRequest {
  std::string model;
  std::vector<Prompt> inputs;
  bool as_base64 = false;
  std::string cache_salt = {};
  std::vector<std::string> ignored;
};

struct TokenizeRequest {
  std::optional<std::string> text;  // otherwise the messages of chat
  ChatRequest chat;
  bool add_special = true, with_pieces = false;
};

struct DetokenizeRequest {
  std::string model;
  std::vector<std::int32_t> tokens;
};

Refusal parse_chat(const Json& body, ChatRequest& request);
Refusal parse_completion(const Json& body, CompletionRequest& request);
/// The Responses API without stored state: its input becomes messages.
Refusal parse_response(const Json& body, ChatRequest& request);
Refusal parse_embedding(const Json& body, EmbeddingRequest& request);
Refusal parse_tokenize(const Json& body, TokenizeRequest& request);
Refusal parse_detokenize(const Json& body, DetokenizeRequest& request);
Refusal parse_apply_template(const Json& body, ChatRequest& request);

}  // namespace lowbit
