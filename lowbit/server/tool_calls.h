// SPDX-License-Identifier: Apache-2.0
// Finds tool calls in what a model says, token by token. Three ways of writing them are known:
// <tool_call>{...}</tool_call> inside text (Hermes, Qwen), and an answer that is nothing but one
// object (Llama 3) or a list of them (Mistral). What turns out to be none is given back as text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lowbit/grammar/tool_calls.h"

namespace lowbit {

class ToolCallReader {
 public:
  /// id_prefix: what the ids of the calls begin with; a number follows.
  explicit ToolCallReader(std::string id_prefix) : id_prefix_(std::move(id_prefix)) {}

  struct Read {
    std::string text;  // may be shown now
    std::vector<ToolCall> calls = {};
  };
  Read feed(std::string_view text);
  /// The answer has ended: what was held back.
  Read finish();

 private:
  enum class State : unsigned char { start, text, call, whole };
  bool take_calls(std::string_view json, std::vector<ToolCall>& calls);

  std::string id_prefix_;
  State state_ = State::start;
  std::string held_;
  int n_calls_ = 0;
  bool skips_blanks_ = false;  // behind a call
};

}  // namespace lowbit
