// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/streamed_answer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace lowbit {
namespace {

using Json = nlohmann::json;

constexpr std::size_t most_shown = 200;  // bytes of a body nobody can read

/// Null where there is none: members of what is no object are not there either.
const Json& member(const Json& value, const char* name) {
  static const Json none;
  if (!value.is_object()) return none;
  const auto found = value.find(name);
  return found == value.end() ? none : *found;
}

/// The message in an error as OpenAI, vLLM and llama-server write it; empty if this is none.
std::string error_in(const Json& value) {
  const Json& error = member(value, "error");
  if (error.is_null()) return {};
  if (error.is_string()) return error.get<std::string>();
  const Json& message = member(error, "message");
  return message.is_string() ? message.get<std::string>() : error.dump();
}

std::string text_in(const Json& choice) {
  if (const Json& text = member(choice, "text"); text.is_string()) return text.get<std::string>();
  const Json& delta = member(choice, "delta");
  std::string all;
  for (const char* name : {"reasoning_content", "reasoning", "content"}) {
    if (const Json& part = member(delta, name); part.is_string()) all += part.get<std::string>();
  }
  if (const Json& calls = member(delta, "tool_calls"); !calls.empty()) all += calls.dump();
  return all;
}

}  // namespace

void StreamedAnswer::feed(std::string_view bytes, double seconds) {
  now_ = seconds;
  events_.feed(bytes, [this](std::string_view data) { on_event(data); });
}

void StreamedAnswer::on_event(std::string_view data) {
  if (data == "[DONE]") {
    has_ended_ = true;
    return;
  }
  const Json chunk = Json::parse(data, nullptr, /*allow_exceptions=*/false);
  if (!chunk.is_object()) {
    record_.error = fmt::format("an event is no JSON object: {}", data.substr(0, most_shown));
    return;
  }
  if (const std::string error = error_in(chunk); !error.empty()) {
    record_.error = error;
    return;
  }
  const auto count = [](const Json& usage, const char* name, std::int64_t& n) {
    const Json& value = member(usage, name);
    if (value.is_number_integer()) n = value.get<std::int64_t>();
  };
  const Json& usage = member(chunk, "usage");
  count(usage, "prompt_tokens", record_.n_input);
  count(usage, "completion_tokens", record_.n_output);
  const Json& choices = member(chunk, "choices");
  if (!choices.is_array()) return;
  for (const Json& choice : choices) {
    if (!member(choice, "finish_reason").is_null()) has_ended_ = true;
    record_.latency = now_;
    const std::string text = text_in(choice);
    if (text.empty()) continue;
    text_ += text;
    if (n_chunks_++ == 0) {
      record_.ttft = now_;
    } else {
      record_.gaps.push_back(now_ - last_token_);
    }
    last_token_ = now_;
  }
}

RequestRecord StreamedAnswer::record(std::int64_t n_planned_input) const {
  RequestRecord record = record_;
  if (!record.error.empty()) return record;
  if (!has_ended_) record.error = fmt::format("the answer broke off after {} chunks", n_chunks_);
  if (n_chunks_ == 0) record.ttft = record.latency;
  if (record.n_input == 0) record.n_input = n_planned_input;
  if (record.n_output == 0) record.n_output = n_chunks_;
  return record;
}

std::string refusal_in(std::string_view body) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (const std::string error = error_in(json); !error.empty()) return error;
  for (const char* name : {"message", "detail"}) {
    if (const Json& text = member(json, name); text.is_string()) return text.get<std::string>();
  }
  return std::string(body.substr(0, most_shown));
}

}  // namespace lowbit
