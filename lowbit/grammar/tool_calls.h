// SPDX-License-Identifier: Apache-2.0
// Calls of tools in the form of Hermes and Qwen templates:
//   <tool_call>
//   {"name": "weather", "arguments": {"city": "Ulm"}}
//   </tool_call>
// The grammar lets a model write nothing else, or text and such calls.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/grammar/grammar.h"

namespace lowbit {

inline constexpr std::string_view tool_call_open = "<tool_call>", tool_call_close = "</tool_call>";
/// What TokenVocabulary must know as text even where it is a control token.
inline constexpr std::string_view tool_call_markers[] = {tool_call_open, tool_call_close};
inline constexpr std::uint32_t max_parallel_tool_calls = 32;

struct ToolDefinition {
  std::string name;
  const nlohmann::ordered_json* parameters = nullptr;  // a schema; absent: any object
};

/// may_answer: text may stand before the calls or instead of them (tool_choice auto); otherwise
/// there is at least one call (required, or named with only that tool in the list). is_parallel:
/// more than one. An Error for no tools, two of one name, and schemas that cannot be held.
Result<std::shared_ptr<const Grammar>> compile_tool_calls(std::span<const ToolDefinition> tools,
                                                          bool may_answer, bool is_parallel);

struct ToolCall {
  std::string name;
  std::string arguments;  // a JSON object as text
  std::string id = {};    // for who answers it
  bool operator==(const ToolCall&) const = default;
};

/// The object of one call, if it is one: {"name": ..., "arguments" or "parameters": {...}}.
Result<ToolCall> parse_tool_call(std::string_view json);

}  // namespace lowbit
