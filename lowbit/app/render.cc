// SPDX-License-Identifier: Apache-2.0
// lowbit render: a chat template and its variables to the text a model would read. A diagnostic: it
// shows what `run` sends, and which parts of it may become special tokens.
#include <algorithm>
#include <cstddef>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "lowbit/app/command.h"
#include "lowbit/base/mapped_file.h"
#include "lowbit/model/chat_template.h"

namespace lowbit::app {
namespace {

using Json = nlohmann::ordered_json;

std::string read_standard_input() {
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

std::string as_text(std::span<const std::byte> bytes) {
  std::string text(bytes.size(), '\0');
  std::transform(bytes.begin(), bytes.end(), text.begin(),
                 [](std::byte b) { return static_cast<char>(b); });
  return text;
}

Json describe(const MarkedText& text) {
  Json spans = Json::array();
  for (const auto& span : text.spans)
    spans.push_back({{"text", span.text}, {"trusted", span.trusted}});
  return {{"text", text.str()}, {"spans", spans}};
}

Exit render(const std::string& path, bool as_json) {
  const auto file = MappedFile::open(path);
  if (!file) return fail(file.error());
  const auto parsed = ChatTemplate::parse(as_text(file->bytes()));
  if (!parsed) return fail(Error(parsed.error()).in(path));
  const Json variables = Json::parse(read_standard_input(), nullptr, false);
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
