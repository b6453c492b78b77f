// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/tool_calls.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "lowbit/grammar/json_schema.h"
#include "lowbit/grammar/json_text.h"
#include "lowbit/grammar/pattern.h"

namespace lowbit {
namespace {

using Json = nlohmann::ordered_json;

// Texts that do not hold the marker: the automaton that searches for it (Knuth, Morris, Pratt),
// without its last state.
Result<Dfa> text_without(std::string_view marker) {
  Dfa dfa;
  dfa.states.resize(marker.size());
  for (std::size_t n_matched = 0; n_matched < marker.size(); ++n_matched) {
    dfa.states[n_matched].is_accepting = true;
    std::vector<Dfa::Edge>& edges = dfa.states[n_matched].edges;
    const std::set<char> letters(marker.begin(), marker.end());
    std::uint32_t next = 0;
    for (const char c : letters) {
      const auto code_point = static_cast<std::uint32_t>(c);
      if (code_point > next) edges.push_back({next, code_point - 1, 0});
      next = code_point + 1;
      // The longest beginning of the marker that ends what has been read.
      std::string read(marker.substr(0, n_matched));
      read += c;
      std::size_t n_kept = read.size();
      while (n_kept > 0 && !std::string_view(read).ends_with(marker.substr(0, n_kept))) --n_kept;
      if (n_kept < marker.size()) {
        edges.push_back({code_point, code_point, static_cast<std::uint32_t>(n_kept)});
      }
    }
    edges.push_back({next, last_code_point, 0});
  }
  return utf8_of(dfa);
}

}  // namespace

Result<std::shared_ptr<const Grammar>> compile_tool_calls(std::span<const ToolDefinition> tools,
                                                          bool may_answer, bool is_parallel) {
  if (tools.empty()) return Error("there are no tools to choose from");
  GrammarBuilder builder;
  JsonText text(builder);
  const Json any = Json::object();
  std::set<std::string_view> names;
  std::vector<GrammarBuilder::Node> ways;
  std::vector<GrammarBuilder::Needed> needed;
  for (std::size_t i = 0; i < tools.size(); ++i) {
    const ToolDefinition& tool = tools[i];
    const std::string place = "tools[" + std::to_string(i) + "]";
    if (tool.name.empty()) return Error(place + " has no name");
    if (!names.insert(tool.name).second) {
      return Error(place + ": there is another tool named \"" + tool.name + "\"");
    }
    auto arguments =
        add_json_schema(builder, tool.parameters != nullptr ? *tool.parameters : any, true);
    if (!arguments) return std::move(arguments).error().in(place + ".function.parameters");
    needed.push_back({*arguments, place + ".function.parameters"});
    const std::string name =
        Json(tool.name).dump(-1, ' ', false, nlohmann::detail::error_handler_t::replace);
    ways.push_back(builder.sequence({builder.literal(name), text.with_space_after(","),
                                     text.with_space_after("\"arguments\":"), *arguments}));
  }
  const GrammarBuilder::Node call =
      builder.sequence({text.with_space_after(tool_call_open), text.with_space_after("{"),
                        text.with_space_after("\"name\":"), builder.choice(std::move(ways)),
                        text.with_space_before("}"), text.with_space_before(tool_call_close)});
  std::vector<GrammarBuilder::Node> parts;
  if (may_answer) {
    auto answer = text_without(tool_call_open);
    if (!answer) return std::move(answer).error();
    parts.push_back(builder.text(*std::move(answer)));
  }
  std::vector<GrammarBuilder::Node> calls{call};
  if (is_parallel) {
    const GrammarBuilder::Node next = builder.sequence({builder.literal("\n"), call});
    calls.push_back(builder.repeat(next, 0, max_parallel_tool_calls - 1));
  }
  parts.push_back(builder.repeat(builder.sequence(std::move(calls)), may_answer ? 0 : 1, 1));
  return builder.finish(builder.sequence(std::move(parts)), needed);
}

Result<ToolCall> parse_tool_call(std::string_view json) {
  const Json call = Json::parse(json, nullptr, false);
  if (!call.is_object()) return Error("the tool call is no JSON object");
  const auto name = call.find("name");
  if (name == call.end() || !name->is_string()) return Error("the tool call has no name");
  auto arguments = call.find("arguments");
  if (arguments == call.end()) arguments = call.find("parameters");
  ToolCall parsed{name->get<std::string>(), "{}"};
  if (arguments == call.end() || arguments->is_null()) return parsed;
  // Some models write the object as a string.
  if (arguments->is_string()) {
    parsed.arguments = arguments->get<std::string>();
    if (Json::parse(parsed.arguments, nullptr, false).is_object()) return parsed;
  }
  if (!arguments->is_object()) return Error("the arguments of the tool call are no object");
  parsed.arguments = arguments->dump();
  return parsed;
}

}  // namespace lowbit
