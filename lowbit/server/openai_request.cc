// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/openai_request.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "lowbit/server/chat_messages.h"

namespace lowbit {
namespace {

constexpr std::size_t most_stops = 64, most_stop_bytes = 4096, most_biases = 4096;
constexpr double largest_bias = 100;

template <class T>
void set(const Json& body, std::string_view name, T& value) {
  const Json& field = field_of(body, name);
  if (!field.is_null()) value = field.get<T>();
}

/// Integers may be written 16.0; their range has been checked.
std::optional<std::int64_t> integer(const Json& body, std::string_view name) {
  const Json& field = field_of(body, name);
  if (field.is_null()) return {};
  if (field.is_number_integer()) return field.get<std::int64_t>();
  return static_cast<std::int64_t>(field.get<double>());
}

/// Token ids; what the model's vocabulary holds is not known here.
Refusal ids_of(std::string_view name, const Json& list, std::vector<std::int32_t>& ids) {
  ids.reserve(list.size());
  for (const Json& item : list) {
    const bool is_id = item.is_number_integer() && item.get<double>() >= 0 &&
                       item.get<double>() <= std::numeric_limits<std::int32_t>::max();
    if (!is_id) {
      return bad_field(name,
                       fmt::format("'{}' must hold token ids, which are integers from 0", name));
    }
    ids.push_back(item.get<std::int32_t>());
  }
  return {};
}

Refusal parse_stops(const Json& body, Generation& generation) {
  const Json& stop = field_of(body, "stop");
  if (stop.is_string()) generation.stop = {stop.get<std::string>()};
  if (stop.is_array()) generation.stop = stop.get<std::vector<std::string>>();
  std::erase(generation.stop, "");
  const bool is_long = std::ranges::any_of(
      generation.stop, [](const std::string& text) { return text.size() > most_stop_bytes; });
  if (generation.stop.size() > most_stops || is_long) {
    return bad_field("stop", fmt::format("'stop' holds at most {} strings of {} bytes each",
                                         most_stops, most_stop_bytes));
  }
  const Json& ids = field_of(body, "stop_token_ids");
  if (ids.is_null()) return {};
  if (ids.size() > most_stops) {
    return bad_field("stop_token_ids",
                     fmt::format("'stop_token_ids' holds at most {}", most_stops));
  }
  return ids_of("stop_token_ids", ids, generation.stop_ids);
}

Refusal parse_biases(const Json& biases, SamplingParams& sampling) {
  if (biases.is_null()) return {};
  if (biases.size() > most_biases) {
    return bad_field("logit_bias",
                     fmt::format("'logit_bias' holds at most {} tokens", most_biases));
  }
  for (const auto& [key, value] : biases.items()) {
    std::int32_t token = 0;
    const char* end = key.data() + key.size();
    const auto [last, error] = std::from_chars(key.data(), end, token);
    if (error != std::errc() || last != end || token < 0) {
      return bad_field("logit_bias", "the keys of 'logit_bias' must be token ids, such as \"50\"");
    }
    if (!value.is_number() || !(std::abs(value.get<double>()) <= largest_bias)) {
      return bad_field(
          "logit_bias",
          fmt::format("the values of 'logit_bias' must be numbers from -{0} to {0}", largest_bias));
    }
    sampling.logit_bias.emplace_back(token, value.get<float>());
  }
  return {};
}

Refusal parse_generation(const Json& body, Generation& generation) {
  SamplingParams& sampling = generation.sampling;
  set(body, "temperature", sampling.temperature);
  set(body, "top_p", sampling.top_p);
  set(body, "min_p", sampling.min_p);
  set(body, "repetition_penalty", sampling.repetition_penalty);
  set(body, "presence_penalty", sampling.presence_penalty);
  set(body, "frequency_penalty", sampling.frequency_penalty);
  if (const auto top_k = integer(body, "top_k")) sampling.top_k = std::max<std::int64_t>(*top_k, 0);
  if (sampling.top_p <= 0) {  // OpenAI's way to write it
    sampling.top_p = 1;
    sampling.top_k = 1;
  }
  if (const auto seed = integer(body, "seed")) generation.seed = static_cast<std::uint64_t>(*seed);
  for (const auto name : {"max_tokens", "max_completion_tokens", "max_output_tokens"}) {
    if (const auto most = integer(body, name)) generation.max_tokens = *most;
  }
  if (const auto least = integer(body, "min_tokens")) generation.min_tokens = *least;
  if (generation.max_tokens && generation.min_tokens > *generation.max_tokens) {
    return bad_field("min_tokens", "'min_tokens' must not be above 'max_tokens'");
  }
  if (const auto n = integer(body, "n")) generation.n_choices = *n;
  set(body, "ignore_eos", generation.ignore_end);
  set(body, "stream", generation.stream);
  if (const auto priority = integer(body, "priority")) {
    generation.priority = static_cast<int>(*priority);
  }
  set(body, "cache_salt", generation.cache_salt);
  const Json& options = field_of(body, "stream_options");
  if (options.is_object()) {
    const Json& usage = field_of(options, "include_usage");
    if (!usage.is_null() && !usage.is_boolean()) {
      return bad_field("stream_options", "'stream_options.include_usage' must be true or false");
    }
    generation.include_usage = usage.is_boolean() && usage.get<bool>();
  }
  if (Refusal refusal = parse_stops(body, generation)) return refusal;
  return parse_biases(field_of(body, "logit_bias"), sampling);
}

/// {"type": "json_schema", "json_schema": {"schema": ..}} of chats, or the same with the schema
/// beside the type, of responses.
Refusal parse_format(const Json& format, std::string_view name, AnswerRule& rule) {
  if (format.is_null()) return {};
  const Json type = format.is_object() ? field_of(format, "type") : Json();
  if (type == "text") return {};
  if (type == "json_object") {
    rule.kind = AnswerRule::Kind::json_object;
    return {};
  }
  if (type != "json_schema") {
    return bad_field(name, fmt::format("'{}.type' can be text, json_object or json_schema", name));
  }
  const Json& nested = field_of(format, "json_schema");
  const Json& schema = nested.is_object() ? field_of(nested, "schema") : field_of(format, "schema");
  if (!schema.is_object() && !schema.is_boolean()) {
    return bad_field(name, fmt::format("'{}' of type json_schema lacks the schema", name));
  }
  rule.kind = AnswerRule::Kind::json_schema;
  rule.schema = schema;
  return {};
}

bool is_tool(const Json& tool) {
  const Json& function = tool.is_object() ? field_of(tool, "function") : field_of(Json(), "");
  if (!function.is_object() || !field_of(function, "name").is_string()) return false;
  const Json& parameters = field_of(function, "parameters");
  return parameters.is_null() || parameters.is_object() || parameters.is_boolean();
}

/// The tool that {"type": "function", "function": {"name": ..}} names, or "".
std::string named_tool(const Json& choice) {
  if (!choice.is_object()) return {};
  const Json& function = field_of(choice, "function");
  const Json& name = function.is_object() ? field_of(function, "name") : field_of(choice, "name");
  return name.is_string() ? name.get<std::string>() : std::string();
}

Refusal parse_tools(const Json& body, ChatRequest& request) {
  const Json& choice = field_of(body, "tool_choice");
  const Json& tools = field_of(body, "tools");
  const bool has_tools = tools.is_array() && !tools.empty();
  const std::string tool = named_tool(choice);
  const bool must_call = choice == "required" || !tool.empty();
  if (!choice.is_null() && choice != "none" && choice != "auto" && !must_call) {
    return bad_field("tool_choice",
                     "'tool_choice' can be none, auto, required or {\"type\": \"function\", "
                     "\"function\": {\"name\": ...}}");
  }
  if (must_call && !has_tools) return bad_field("tool_choice", "'tool_choice' needs 'tools'");
  if (!has_tools || choice == "none") return {};
  if (!std::ranges::all_of(tools, is_tool)) {
    return bad_field("tools",
                     "each of 'tools' must be {\"type\": \"function\", \"function\": "
                     "{\"name\": ..., \"parameters\": ...}}");
  }
  const auto is_named = [&](const Json& each) { return each["function"]["name"] == tool; };
  if (!tool.empty() && std::ranges::none_of(tools, is_named)) {
    return bad_field("tool_choice", fmt::format("'tool_choice' names '{}', which is not among "
                                                "'tools'",
                                                tool));
  }
  request.tools = tools;
  const bool is_strict = std::ranges::any_of(
      tools, [](const Json& each) { return field_of(each["function"], "strict") == true; });
  if (!must_call && !is_strict) return {};
  AnswerRule& rule = request.rule;
  if (rule.kind != AnswerRule::Kind::none) {
    return bad_field("response_format",
                     "'response_format' cannot be combined with tools that must be called or are "
                     "strict; leave one of them out");
  }
  rule.kind = must_call ? AnswerRule::Kind::tool_calls : AnswerRule::Kind::text_or_tool_calls;
  rule.tool = tool;
  set(body, "parallel_tool_calls", rule.is_parallel);
  return {};
}

/// The fields that every request with a template has.
Refusal parse_template_fields(const Json& body, ChatRequest& request) {
  set(body, "model", request.model);
  set(body, "add_generation_prompt", request.add_generation_prompt);
  set(body, "continue_final_message", request.continue_final_message);
  const Json& variables = field_of(body, "chat_template_kwargs");
  if (variables.is_object()) request.template_variables = variables;
  if (request.continue_final_message) request.add_generation_prompt = false;
  if (Refusal refusal = parse_tools(body, request)) return refusal;
  return parse_messages(field_of(body, "messages"), request.messages);
}

Refusal parse_prompts(std::string_view name, const Json& value, std::vector<Prompt>& prompts) {
  constexpr std::size_t most_prompts = 256;
  const auto refuse = [&] {
    return bad_field(name, fmt::format("'{0}' must be a string, a list of token ids, or a list of "
                                       "strings or of lists of token ids",
                                       name));
  };
  if (value.is_string()) {
    prompts.emplace_back(value.get<std::string>());
    return {};
  }
  if (!value.is_array() || value.empty()) return refuse();
  if (value.front().is_number()) {
    return ids_of(name, value, std::get<1>(prompts.emplace_back(std::vector<std::int32_t>())));
  }
  if (value.size() > most_prompts) {
    return bad_field(name, fmt::format("'{}' holds at most {} prompts", name, most_prompts));
  }
  for (const Json& item : value) {
    if (item.is_string()) {
      prompts.emplace_back(item.get<std::string>());
    } else if (item.is_array()) {
      std::vector<std::int32_t> ids;
      if (Refusal refusal = ids_of(name, item, ids)) return refusal;
      prompts.emplace_back(std::move(ids));
    } else {
      return refuse();
    }
  }
  return {};
}

}  // namespace

Refusal parse_chat(const Json& body, ChatRequest& request) {
  if (Refusal refusal = check_fields(body, Endpoint::chat, request.ignored)) return refusal;
  if (Refusal refusal = parse_generation(body, request.generation)) return refusal;
  const Json& format = field_of(body, "response_format");
  if (Refusal refusal = parse_format(format, "response_format", request.rule)) return refusal;
  const auto n_top = integer(body, "top_logprobs");
  bool wants_logprobs = false;
  set(body, "logprobs", wants_logprobs);
  if (n_top.value_or(0) > 0 && !wants_logprobs) {
    return bad_field("top_logprobs", "'top_logprobs' needs 'logprobs': true");
  }
  if (wants_logprobs) request.generation.n_top_logprobs = static_cast<int>(n_top.value_or(0));
  return parse_template_fields(body, request);
}

Refusal parse_completion(const Json& body, CompletionRequest& request) {
  if (Refusal refusal = check_fields(body, Endpoint::completions, request.ignored)) return refusal;
  if (Refusal refusal = parse_generation(body, request.generation)) return refusal;
  set(body, "model", request.model);
  set(body, "echo", request.echo);
  const Json& format = field_of(body, "response_format");
  if (Refusal refusal = parse_format(format, "response_format", request.rule)) return refusal;
  const auto best_of = integer(body, "best_of");
  if (best_of && *best_of != request.generation.n_choices) {
    return bad_field("best_of", "'best_of' must equal 'n'");
  }
  if (const auto n_top = integer(body, "logprobs")) {
    if (request.echo) {
      return bad_field("logprobs", "'logprobs' of an echoed prompt are not supported");
    }
    request.generation.n_top_logprobs = static_cast<int>(*n_top);
  }
  if (Refusal refusal = parse_prompts("prompt", field_of(body, "prompt"), request.prompts)) {
    return refusal;
  }
  constexpr std::int64_t most_answers = 256;
  if (static_cast<std::int64_t>(request.prompts.size()) * request.generation.n_choices >
      most_answers) {
    return bad_field("n", fmt::format("'prompt' times 'n' is at most {} answers", most_answers));
  }
  return {};
}

Refusal parse_response(const Json& body, ChatRequest& request) {
  if (Refusal refusal = check_fields(body, Endpoint::responses, request.ignored)) return refusal;
  if (Refusal refusal = parse_generation(body, request.generation)) return refusal;
  set(body, "model", request.model);
  const Json& text = field_of(body, "text");
  if (text.is_object()) {
    const Json& format = field_of(text, "format");
    if (Refusal refusal = parse_format(format, "text.format", request.rule)) return refusal;
  }
  Json messages = Json::array();
  const Json& instructions = field_of(body, "instructions");
  if (instructions.is_string()) {
    messages.push_back({{"role", "system"}, {"content", instructions}});
  }
  const Json& input = field_of(body, "input");
  if (input.is_string()) {
    messages.push_back({{"role", "user"}, {"content", input}});
  } else if (input.is_array()) {
    messages.insert(messages.end(), input.begin(), input.end());
  } else {
    return bad_field("input", "'input' must be a string or a list of messages");
  }
  Refusal refusal = parse_messages(messages, request.messages);
  if (refusal) refusal->param = "input";
  return refusal;
}

Refusal parse_embedding(const Json& body, EmbeddingRequest& request) {
  if (Refusal refusal = check_fields(body, Endpoint::embeddings, request.ignored)) return refusal;
  set(body, "model", request.model);
  std::string format = "float";
  set(body, "encoding_format", format);
  if (format != "float" && format != "base64") {
    return bad_field("encoding_format", "'encoding_format' can be float or base64");
  }
  request.as_base64 = format == "base64";
  set(body, "cache_salt", request.cache_salt);
  return parse_prompts("input", field_of(body, "input"), request.inputs);
}

Refusal parse_tokenize(const Json& body, TokenizeRequest& request) {
  if (Refusal refusal = check_fields(body, Endpoint::tokenize, request.chat.ignored))
    return refusal;
  set(body, "add_special_tokens", request.add_special);
  set(body, "return_token_strs", request.with_pieces);
  const Json& prompt = field_of(body, "prompt");
  const bool has_messages = !field_of(body, "messages").is_null();
  if (prompt.is_null() == !has_messages) {
    return bad_field("prompt", "give either 'prompt' or 'messages'");
  }
  if (has_messages) return parse_template_fields(body, request.chat);
  set(body, "model", request.chat.model);
  request.text = prompt.get<std::string>();
  return {};
}

Refusal parse_detokenize(const Json& body, DetokenizeRequest& request) {
  std::vector<std::string> ignored;
  if (Refusal refusal = check_fields(body, Endpoint::detokenize, ignored)) return refusal;
  set(body, "model", request.model);
  return ids_of("tokens", field_of(body, "tokens"), request.tokens);
}

Refusal parse_apply_template(const Json& body, ChatRequest& request) {
  if (Refusal refusal = check_fields(body, Endpoint::apply_template, request.ignored))
    return refusal;
  return parse_template_fields(body, request);
}

}  // namespace lowbit
