// SPDX-License-Identifier: Apache-2.0
// lowbit render: a chat template and its variables to the text a model would read. A diagnostic: it
// shows what `run` sends, and which parts of it may become special tokens.
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>

#include "lowbit/app/command.h"
#include "lowbit/model/chat_template.h"

namespace lowbit::app {
namespace {

using Json = nlohmann::ordered_json;

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) return Error("cannot read " + path);
  return text;
}

Json describe(const MarkedText& text) {
  Json spans = Json::array();
  for (const auto& span : text.spans)
    spans.push_back({{"text", span.text}, {"trusted", span.trusted}});
  return {{"text", text.str()}, {"spans", spans}};
}

Exit render(const std::string& path, bool as_json) {
  const auto source = read_file(path);
  if (!source) return fail(source.error());
  const auto parsed = ChatTemplate::parse(*source);
  if (!parsed) return fail(Error(parsed.error()).in(path));
  const Json variables = Json::parse(std::istreambuf_iterator<char>(std::cin), {}, nullptr, false);
  if (variables.is_discarded())
    return fail(Error("standard input holds no JSON object of variables"));
  const auto text = parsed->render(variables);
  if (!text) return fail(Error(text.error()).in(path));
  constexpr auto lenient = Json::error_handler_t::replace;  // a template may cut a character in two
  return print_result(as_json ? describe(*text).dump(-1, ' ', false, lenient) + "\n" : text->str());
}

}  // namespace

void add_render(CLI::App& parser, Context& context) {
  struct Options {
    std::string path;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = parser.add_subcommand("render", "A chat template with variables from stdin");
  command->add_option("--template", options->path, "file with the Jinja source")->required();
  command->add_flag("--json", options->json,
                    "one JSON object: the text, and its spans with who wrote them");
  command->footer(
      "Example:\n  echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}' | lowbit "
      "render --template chat.jinja");
  command->callback([options, &context] { context.exit = render(options->path, options->json); });
}

}  // namespace lowbit::app
