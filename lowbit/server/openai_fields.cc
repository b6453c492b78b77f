// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/openai_fields.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "lowbit/runtime/request.h"

namespace lowbit {
namespace {

constexpr std::uint32_t bit(Endpoint endpoint) {
  return std::uint32_t{1} << static_cast<unsigned>(endpoint);
}
constexpr std::uint32_t chat = bit(Endpoint::chat), completions = bit(Endpoint::completions),
                        responses = bit(Endpoint::responses),
                        embeddings = bit(Endpoint::embeddings), tokenize = bit(Endpoint::tokenize),
                        detokenize = bit(Endpoint::detokenize),
                        apply_template = bit(Endpoint::apply_template);
constexpr std::uint32_t generating = chat | completions, answering = generating | responses;
constexpr std::uint32_t templated = chat | tokenize | apply_template;
constexpr std::uint32_t everything =
    answering | embeddings | tokenize | detokenize | apply_template;

constexpr double most_tokens = 2147483647.0;
constexpr double most_seed = 9007199254740992.0;  // 2^53: what a JSON number holds exactly
constexpr double most_choices = 128, most_logprobs = 20;
constexpr double most_urgency = most_priority;

using enum FieldKind;
// clang-format off
constexpr std::array fields{
  Field{"model", text, everything, 0, 0, "a name from /v1/models; the served model if left out"},
  Field{"messages", list, chat, 0, 0, "the conversation", true},
  Field{"messages", list, tokenize, 0, 0, "a conversation, instead of prompt"},
  Field{"messages", list, apply_template, 0, 0, "the conversation", true},
  Field{"prompt", any, completions, 0, 0, "a string, a list of token ids, or a list of either", true},
  Field{"prompt", text, tokenize, 0, 0, "the text"},
  Field{"input", any, responses, 0, 0, "a string or a list of messages", true},
  Field{"input", any, embeddings, 0, 0, "a string, a list of token ids, or a list of either", true},
  Field{"instructions", text, responses, 0, 0, "a system message before the input"},
  Field{"tokens", list, detokenize, 0, 0, "token ids", true},
  Field{"max_tokens", integer, generating, 1, most_tokens, "at most this many tokens; what is left of the context if left out"},
  Field{"max_completion_tokens", integer, chat, 1, most_tokens, "the newer name of max_tokens"},
  Field{"max_output_tokens", integer, responses, 1, most_tokens, "at most this many tokens"},
  Field{"min_tokens", integer, generating, 0, most_tokens, "nothing ends the answer before"},
  Field{"temperature", number, answering, 0, 2, "0 takes the likeliest token"},
  Field{"top_p", number, answering, 0, 1, "the likeliest tokens that together reach this probability"},
  Field{"top_k", integer, answering, -1, most_tokens, "the k likeliest tokens; 0 or -1 is off"},
  Field{"min_p", number, answering, 0, 1, "tokens at least this likely, relative to the likeliest"},
  Field{"repetition_penalty", number, answering, 0.01, 100, "divides the logits of every token that occurred; 1 is off"},
  Field{"presence_penalty", number, answering, -2, 2, "subtracted from tokens that were generated"},
  Field{"frequency_penalty", number, answering, -2, 2, "subtracted for each time a token was generated"},
  Field{"logit_bias", object, generating, 0, 0, "token id to what is added to its logit, -100 to 100"},
  Field{"seed", integer, answering, -most_seed, most_seed, "the same seed gives the same answer"},
  Field{"n", integer, generating, 1, most_choices, "answers to one prompt"},
  Field{"best_of", integer, completions, 1, most_choices, "must equal n"},
  Field{"stop", text_or_list, generating, 0, 0, "strings that end the answer and are left out of it"},
  Field{"stop_token_ids", list, generating, 0, 0, "token ids that end the answer"},
  Field{"ignore_eos", boolean, generating, 0, 0, "the model's end token does not end the answer"},
  Field{"logprobs", boolean, chat, 0, 0, "log-probabilities of the tokens of the answer"},
  Field{"logprobs", integer, completions, 0, most_logprobs, "log-probabilities, and how many alternatives to each"},
  Field{"top_logprobs", integer, chat, 0, most_logprobs, "alternatives to each token"},
  Field{"echo", boolean, completions, 0, 0, "the answer begins with the prompt"},
  Field{"stream", boolean, answering, 0, 0, "server-sent events, a token at a time"},
  Field{"stream_options", object, generating, 0, 0, "include_usage: a last event with the token counts"},
  Field{"response_format", object, generating, 0, 0, "{\"type\": \"text\"}, json_object, or json_schema with a schema"},
  Field{"text", object, responses, 0, 0, "format: {\"type\": \"text\"}, json_object, or json_schema with a schema"},
  Field{"add_generation_prompt", boolean, templated, 0, 0, "whether the template opens the answer (true)"},
  Field{"continue_final_message", boolean, templated, 0, 0, "the answer continues the last message"},
  Field{"chat_template_kwargs", object, templated, 0, 0, "further variables of the template"},
  Field{"tools", list, templated, 0, 0, "functions the model may call, given to the template"},
  Field{"tool_choice", text_or_object, chat, 0, 0, "none, auto, required, or a function by name"},
  Field{"parallel_tool_calls", boolean, chat, 0, 0, "whether required calls may be several (true)"},
  Field{"add_special_tokens", boolean, tokenize, 0, 0, "put the begin token first where the model wants it (true)"},
  Field{"return_token_strs", boolean, tokenize, 0, 0, "also the text of each token"},
  Field{"encoding_format", text, embeddings, 0, 0, "float or base64"},
  Field{"priority", integer, answering, -most_urgency, most_urgency, "a lower one is served earlier (0); waiting counts more in the end"},
  Field{"cache_salt", text, answering | embeddings, 0, 0, "keys and values of prompts are shared only among requests with the same one"},
  Field{"user", any, everything, 0, 0, "not looked at"},
  Field{"suffix", unsupported, completions, 0, 0, ""},
  Field{"functions", unsupported, chat, 0, 0, ""},
  Field{"function_call", unsupported, chat, 0, 0, ""},
  Field{"audio", unsupported, chat, 0, 0, ""},
  Field{"prompt_logprobs", unsupported, generating, 0, 0, ""},
  Field{"use_beam_search", unsupported, generating, 0, 0, ""},
  Field{"guided_json", unsupported, generating, 0, 0, ""},
  Field{"guided_regex", unsupported, generating, 0, 0, ""},
  Field{"guided_choice", unsupported, generating, 0, 0, ""},
  Field{"guided_grammar", unsupported, generating, 0, 0, ""},
  Field{"structured_outputs", unsupported, generating, 0, 0, ""},
  Field{"previous_response_id", unsupported, responses, 0, 0, ""},
  Field{"background", unsupported, responses, 0, 0, ""},
  Field{"tools", unsupported, responses, 0, 0, ""},
  Field{"dimensions", unsupported, embeddings, 0, 0, ""},
};
// clang-format on

bool asks_for_nothing(const Json& value) {
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number()) return value.get<double>() == 0;
  if (value.is_string()) return value.get_ref<const std::string&>().empty();
  return value.empty();
}

bool is_text_list(const Json& value) {
  return value.is_array() &&
         std::ranges::all_of(value, [](const Json& v) { return v.is_string(); });
}

/// What the value must be, if it is not that.
std::string_view mismatch(const Field& field, const Json& value) {
  switch (field.kind) {
    case boolean:
      return value.is_boolean() ? "" : "true or false";
    case integer: {
      const bool is_whole =
          value.is_number_integer() ||
          (value.is_number_float() && std::floor(value.get<double>()) == value.get<double>());
      return is_whole ? "" : "an integer";
    }
    case number:
      return value.is_number() ? "" : "a number";
    case text:
      return value.is_string() ? "" : "a string";
    case text_or_list:
      return value.is_string() || is_text_list(value) ? "" : "a string or a list of strings";
    case list:
      return value.is_array() ? "" : "a list";
    case object:
      return value.is_object() ? "" : "an object";
    case text_or_object:
      return value.is_string() || value.is_object() ? "" : "a string or an object";
    case any:
    case unsupported:
      return "";
  }
  return "";
}

Refusal check_field(const Field& field, const Json& value) {
  if (field.kind == unsupported) {
    if (asks_for_nothing(value)) return {};
    return bad_field(field.name, fmt::format("'{}' is not supported; leave it out", field.name));
  }
  if (const std::string_view wanted = mismatch(field, value); !wanted.empty()) {
    return bad_field(field.name,
                     fmt::format("'{}' must be {}, not {}", field.name, wanted, value.type_name()));
  }
  if (field.kind == integer || field.kind == number) {
    const double given = value.get<double>();
    if (!(given >= field.least && given <= field.most)) {
      return bad_field(field.name, fmt::format("'{}' is {}; it must be from {} to {}", field.name,
                                               dump(value), field.least, field.most));
    }
  }
  return {};
}

}  // namespace

std::span<const Field> field_list() {
  return fields;
}

const Field* find_field(std::string_view name, Endpoint endpoint) {
  const auto at = std::ranges::find_if(fields, [&](const Field& field) {
    return field.name == name && (field.endpoints & bit(endpoint)) != 0;
  });
  return at == fields.end() ? nullptr : &*at;
}

const Json& field_of(const Json& object, std::string_view name) {
  static const Json nothing;
  const auto at = object.find(name);
  return at == object.end() ? nothing : *at;
}

Refusal check_fields(const Json& request, Endpoint endpoint, std::vector<std::string>& ignored) {
  if (!request.is_object()) {
    return ApiError{.message =
                        fmt::format("the body must be a JSON object, not {}", request.type_name())};
  }
  constexpr std::size_t most_fields = 1024;
  if (request.size() > most_fields) {
    return ApiError{.message = fmt::format("the body has more than {} fields", most_fields)};
  }
  for (const auto& [name, value] : request.items()) {
    const Field* field = find_field(name, endpoint);
    if (field == nullptr) {
      ignored.push_back(name);
    } else if (!value.is_null()) {
      if (Refusal refusal = check_field(*field, value)) return refusal;
    }
  }
  for (const Field& field : fields) {
    if (!field.is_required || (field.endpoints & bit(endpoint)) == 0) continue;
    if (field_of(request, field.name).is_null()) {
      return bad_field(field.name, fmt::format("'{}' is missing", field.name));
    }
  }
  return {};
}

}  // namespace lowbit
