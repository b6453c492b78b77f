// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/chat_messages.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "lowbit/server/openai_fields.h"

namespace lowbit {
namespace {

constexpr std::array<std::string_view, 6> roles{"system",    "developer", "user",
                                                "assistant", "tool",      "function"};
/// Text, in the words of the chat and of the Responses API.
constexpr std::array<std::string_view, 4> text_parts{"text", "input_text", "output_text",
                                                     "refusal"};

/// Parts are joined by line breaks, as vLLM joins them for templates that want text.
Refusal content_of(const std::string& where, const Json& content, Json& text) {
  if (content.is_string() || content.is_null()) {
    text = content;
    return {};
  }
  if (!content.is_array()) {
    return bad_field(where, fmt::format("'{}' must be a string or a list of parts", where));
  }
  std::string joined;
  for (std::size_t i = 0; i < content.size(); ++i) {
    const Json& part = content[i];
    const std::string place = fmt::format("{}[{}]", where, i);
    if (part.is_string()) {
      joined += (i == 0 ? "" : "\n") + part.get<std::string>();
      continue;
    }
    const Json& type = part.is_object() ? field_of(part, "type") : part;
    if (!part.is_object() || !type.is_string()) {
      return bad_field(place, fmt::format("'{}' must be an object with a 'type'", place));
    }
    const auto& name = type.get_ref<const std::string&>();
    if (std::ranges::find(text_parts, name) == text_parts.end()) {
      return bad_field(
          place, fmt::format("'{}' is of type {}; this model reads text alone", place, dump(type)));
    }
    const Json& words = field_of(part, name == "refusal" ? "refusal" : "text");
    if (!words.is_string()) {
      return bad_field(place, fmt::format("'{}.text' must be a string", place));
    }
    joined += (i == 0 ? "" : "\n") + words.get<std::string>();
  }
  text = std::move(joined);
  return {};
}

/// Clients send arguments as a string of JSON; templates print them as an object.
Refusal tool_calls_of(const std::string& where, const Json& calls, Json& copied) {
  if (!calls.is_array()) return bad_field(where, fmt::format("'{}' must be a list", where));
  copied = Json::array();
  for (const Json& call : calls) {
    const Json& function = call.is_object() ? field_of(call, "function") : call;
    if (!function.is_object() || !field_of(function, "name").is_string()) {
      return bad_field(where,
                       fmt::format("each of '{}' must have a 'function' with a 'name'", where));
    }
    Json& copy = copied.emplace_back(call);
    const Json& arguments = field_of(function, "arguments");
    if (!arguments.is_string()) continue;
    auto parsed = parse_json(arguments.get_ref<const std::string&>());
    if (parsed && parsed->is_object()) copy["function"]["arguments"] = *std::move(parsed);
  }
  return {};
}

Refusal message_of(const std::string& where, const Json& given, Json& message) {
  if (!given.is_object()) {
    return bad_field(where, fmt::format("'{}' must be an object with role and content", where));
  }
  const Json& type = field_of(given, "type");
  if (type.is_string() && type != "message") {
    return bad_field(where,
                     fmt::format("'{}' is of type {}; only messages are read", where, dump(type)));
  }
  const Json& role = field_of(given, "role");
  if (!role.is_string() ||
      std::ranges::find(roles, role.get_ref<const std::string&>()) == roles.end()) {
    return bad_field(where + ".role",
                     fmt::format("'{}.role' must be one of {}", where, fmt::join(roles, ", ")));
  }
  message = {{"role", role}};
  Json content;
  if (Refusal refusal = content_of(where + ".content", field_of(given, "content"), content)) {
    return refusal;
  }
  const Json& calls = field_of(given, "tool_calls");
  const bool has_calls = calls.is_array() && !calls.empty();
  if (content.is_null() && !has_calls) {
    return bad_field(where + ".content", fmt::format("'{}.content' is missing", where));
  }
  message["content"] = content.is_null() ? Json("") : std::move(content);
  if (!calls.is_null() && (has_calls || !calls.is_array())) {
    if (Refusal refusal = tool_calls_of(where + ".tool_calls", calls, message["tool_calls"])) {
      return refusal;
    }
  }
  for (const auto* const name : {"name", "tool_call_id", "reasoning_content"}) {
    const Json& field = field_of(given, name);
    if (field.is_null()) continue;
    if (!field.is_string()) {
      return bad_field(where + "." + name, fmt::format("'{}.{}' must be a string", where, name));
    }
    message[name] = field;
  }
  return {};
}

}  // namespace

Refusal parse_messages(const Json& given, Json& messages) {
  if (!given.is_array() || given.empty()) {
    return bad_field("messages", "'messages' must be a list of at least one message");
  }
  messages = Json::array();
  for (std::size_t i = 0; i < given.size(); ++i) {
    Json& message = messages.emplace_back();
    if (Refusal refusal = message_of(fmt::format("messages[{}]", i), given[i], message)) {
      return refusal;
    }
  }
  return {};
}

}  // namespace lowbit
