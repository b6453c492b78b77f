// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/tool_calls.h"

#include <gtest/gtest.h>

namespace lowbit {
namespace {

/// Everything that is read of a text fed in pieces of `step` bytes, as one line.
std::string read_in_steps(std::string_view text, std::size_t step) {
  ToolCallReader reader("c");
  std::string shown, calls;
  const auto add = [&](const ToolCallReader::Read& read) {
    shown += read.text;
    for (const ToolCall& call : read.calls) {
      calls += " " + call.id + ":" + call.name + call.arguments;
    }
  };
  for (std::size_t i = 0; i < text.size(); i += step) add(reader.feed(text.substr(i, step)));
  add(reader.finish());
  return shown + "|" + calls;
}

void expect_read(std::string_view text, const std::string& expected) {
  for (std::size_t step = 1; step <= text.size(); ++step) {
    EXPECT_EQ(read_in_steps(text, step), expected) << "in steps of " << step;
  }
}

TEST(ToolCallReader, CallsInsideText) {
  expect_read("Let me see.<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>",
              "Let me see.| c0:f{\"x\":1}");
  expect_read(
      "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n"
      "<tool_call>{\"name\":\"g\"}</tool_call>",
      "| c0:f{} c1:g{}");
}

TEST(ToolCallReader, AnAnswerThatIsACall) {
  expect_read(" {\"name\": \"f\", \"parameters\": {\"x\": \"a\"}}", "| c0:f{\"x\":\"a\"}");
  expect_read("[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {}}]",
              "| c0:f{} c1:g{}");
}

TEST(ToolCallReader, WhatIsNoCallIsText) {
  for (const std::string text :
       {"plain", "a <tool_calls> b", "<tool_call>not json</tool_call>", "{\"a\": 1}", "[1, 2]",
        "[]", "{\"name\": 1}", "<tool_cal", "x <tool_call>{\"name\": \"f\"", "{\"name\": \"f\""}) {
    expect_read(text, text + "|");
  }
}

TEST(ToolCallReader, ACallThatLacksItsEndCounts) {
  expect_read("<tool_call>{\"name\": \"f\", \"arguments\": {}}", "| c0:f{}");
}

}  // namespace
}  // namespace lowbit
