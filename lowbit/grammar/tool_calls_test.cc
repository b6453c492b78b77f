// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/tool_calls.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lowbit/grammar/configurations.h"

namespace lowbit {
namespace {

using Json = nlohmann::ordered_json;

class ToolGrammar {
 public:
  ToolGrammar(bool may_answer, bool is_parallel) {
    const std::vector<ToolDefinition> tools{{"weather", &weather_}, {"now", &nothing_}, {"any"}};
    auto grammar = compile_tool_calls(tools, may_answer, is_parallel);
    EXPECT_TRUE(grammar) << grammar.error().message();
    if (grammar) configurations_ = std::make_unique<Configurations>(*grammar);
  }
  bool accepts(std::string_view text) {
    Configurations::Id id = configurations_->start();
    for (const char c : text) {
      id = configurations_->next(id, static_cast<unsigned char>(c));
      if (id == Configurations::dead) return false;
    }
    return configurations_->is_accepting(id);
  }

 private:
  const Json weather_ = Json::parse(
      R"({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})");
  const Json nothing_ = Json::parse(R"({"properties": {}})");
  std::unique_ptr<Configurations> configurations_;
};

const std::string ulm =
    "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Ulm\"}}\n</tool_call>";
const std::string now = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";

TEST(ToolCalls, required_is_nothing_but_calls) {
  ToolGrammar one(false, false), several(false, true);
  EXPECT_TRUE(one.accepts(ulm));
  EXPECT_TRUE(one.accepts("<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>"));
  EXPECT_TRUE(one.accepts("<tool_call>{\"name\":\"any\",\"arguments\":{\"x\":[1]}}</tool_call>"));
  EXPECT_FALSE(one.accepts(""));
  EXPECT_FALSE(one.accepts("Hello"));
  EXPECT_FALSE(one.accepts("<tool_call>{\"name\":\"other\",\"arguments\":{}}</tool_call>"));
  EXPECT_FALSE(one.accepts("<tool_call>{\"name\":\"weather\",\"arguments\":{}}</tool_call>"));
  EXPECT_FALSE(one.accepts("<tool_call>{\"name\":\"any\",\"arguments\":[]}</tool_call>"));
  EXPECT_FALSE(one.accepts(ulm + "\n" + now));
  EXPECT_TRUE(several.accepts(ulm + "\n" + now));
}

TEST(ToolCalls, auto_is_text_or_calls) {
  ToolGrammar grammar(true, true);
  EXPECT_TRUE(grammar.accepts(""));
  EXPECT_TRUE(grammar.accepts("Hello <tool> <<tool_cal\n\xC3\xA9"));
  EXPECT_TRUE(grammar.accepts("I look.\n" + ulm));
  EXPECT_TRUE(grammar.accepts("<<tool_call" + ulm));
  EXPECT_TRUE(grammar.accepts(ulm + "\n" + now));
  EXPECT_FALSE(grammar.accepts("a <tool_call> b"));
  EXPECT_FALSE(grammar.accepts(ulm + " and more"));
  EXPECT_FALSE(grammar.accepts("\xC3"));
}

TEST(ToolCalls, refuses_bad_lists_of_tools) {
  const Json odd = Json::parse(R"({"type": "object", "not": {}})");
  const Json list = Json::parse(R"({"type": "array"})");
  const auto refusal = [](std::vector<ToolDefinition> tools) {
    auto grammar = compile_tool_calls(tools, true, true);
    return grammar ? "compiled" : grammar.error().message();
  };
  EXPECT_EQ(refusal({}), "there are no tools to choose from");
  EXPECT_EQ(refusal({{"a"}, {"a"}}), "tools[1]: there is another tool named \"a\"");
  EXPECT_EQ(refusal({{"a"}, {"b", &odd}}),
            "tools[1].function.parameters: the keyword \"not\" at # is not supported");
  EXPECT_EQ(refusal({{""}}), "tools[0] has no name");
  EXPECT_EQ(
      refusal({{"a"}, {"b", &list}}),
      "tools[1].function.parameters: no document of at most 64 levels can satisfy the schema");
}

TEST(ToolCalls, parses_what_models_write) {
  EXPECT_EQ(parse_tool_call(R"({"name":"f","arguments":"{\"a\": 1}"})")->arguments, "{\"a\": 1}");
  EXPECT_EQ(parse_tool_call(R"({"name":"f","parameters":{"a":1}})")->arguments, "{\"a\":1}");
  EXPECT_EQ(parse_tool_call(R"({"name":"f"})")->arguments, "{}");
  EXPECT_FALSE(parse_tool_call(R"({"name":"f","arguments":[1]})"));
  EXPECT_FALSE(parse_tool_call(R"({"name":"f","arguments":"[1]"})"));
  EXPECT_FALSE(parse_tool_call("[]"));
  EXPECT_FALSE(parse_tool_call(R"({"name":"f")"));
}

}  // namespace
}  // namespace lowbit
