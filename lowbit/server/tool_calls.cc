// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/tool_calls.h"

#include <algorithm>

#include "lowbit/server/json_body.h"

namespace lowbit {
namespace {

constexpr std::string_view opening = tool_call_open, closing = tool_call_close;
constexpr std::string_view blanks = " \t\r\n";

/// Bytes at the end of text that may be the beginning of `word`.
std::size_t n_begun(std::string_view text, std::string_view word) {
  for (std::size_t n = std::min(text.size(), word.size() - 1); n > 0; --n) {
    if (text.ends_with(word.substr(0, n))) return n;
  }
  return 0;
}

}  // namespace

/// One call or a list of them; false, and nothing added, if it is neither.
bool ToolCallReader::take_calls(std::string_view json, std::vector<ToolCall>& calls) {
  const auto parsed = parse_json(json);
  if (!parsed) return false;
  const Json list = parsed->is_array() ? *parsed : Json::array({*parsed});
  std::vector<ToolCall> found;
  for (const Json& item : list) {
    auto call = parse_tool_call(dump(item));
    if (!call) return false;
    found.push_back(*std::move(call));
  }
  if (found.empty()) return false;
  for (ToolCall& call : found) {
    call.id = id_prefix_ + std::to_string(n_calls_++);
    calls.push_back(std::move(call));
  }
  return true;
}

ToolCallReader::Read ToolCallReader::feed(std::string_view text) {
  Read read;
  held_ += text;
  if (state_ == State::start) {
    const std::size_t first = held_.find_first_not_of(blanks);
    if (first == std::string::npos) return read;
    state_ = held_[first] == '{' || held_[first] == '[' ? State::whole : State::text;
  }
  while (true) {
    if (state_ == State::whole) return read;
    if (state_ == State::text) {
      if (skips_blanks_) {
        held_.erase(0, std::min(held_.find_first_not_of(blanks), held_.size()));
        skips_blanks_ = held_.empty();
      }
      const std::size_t at = held_.find(opening);
      const std::size_t n_shown =
          at != std::string::npos ? at : held_.size() - n_begun(held_, opening);
      read.text += held_.substr(0, n_shown);
      held_.erase(0, n_shown);
      if (at == std::string::npos) return read;
      state_ = State::call;
    }
    const std::size_t end = held_.find(closing);
    if (end == std::string::npos) return read;
    const std::string json = held_.substr(opening.size(), end - opening.size());
    if (!take_calls(json, read.calls)) read.text += held_.substr(0, end + closing.size());
    held_.erase(0, end + closing.size());
    skips_blanks_ = n_calls_ > 0;  // line breaks between calls are not part of the answer
    state_ = State::text;
  }
}

ToolCallReader::Read ToolCallReader::finish() {
  Read read;
  std::string_view rest = held_;
  if (state_ == State::call) rest.remove_prefix(opening.size());
  const bool may_be_call = state_ == State::call || state_ == State::whole;
  if (!may_be_call || !take_calls(rest, read.calls)) read.text = held_;
  held_.clear();
  return read;
}

}  // namespace lowbit
