// SPDX-License-Identifier: Apache-2.0
// lowbit formats: the codes and schemes of this build; docs/formats.md is its --markdown.
#include <fmt/format.h>

#include <array>
#include <memory>
#include <nlohmann/json.hpp>

#include "lowbit/app/command.h"
#include "lowbit/formats/describe.h"
#include "lowbit/io/layout.h"

namespace lowbit::app {
namespace {

using nlohmann::ordered_json;

/// Where a scheme can be written. A folder takes every scheme, in planar form; where the share of
/// the scales depends on the shape, the page speaks of matrices of this extent.
constexpr std::int64_t extent = 4096;

std::array<Container, 2> containers() {
  return {Container{"gguf", gguf_bits_per_weight},
          Container{"folder", [](const Scheme& scheme) -> std::optional<double> {
                      return planar_bits_per_weight(scheme, extent, extent);
                    }}};
}

std::string as_json() {
  ordered_json codes = ordered_json::array(), schemes = ordered_json::array();
  for (const CodeFacts& code : describe_codes()) {
    codes.push_back({{"name", code.name}, {"bits", code.bits}, {"numbers", code.dim}});
  }
  for (const SchemeFacts& scheme : describe_schemes(containers())) {
    schemes.push_back({{"name", scheme.name},
                       {"code", scheme.code},
                       {"group", scheme.group},
                       {"scale", scheme.scale},
                       {"zero", scheme.zero},
                       {"bits_per_weight", scheme.bits_per_weight},
                       {"containers", scheme.containers}});
  }
  return ordered_json{{"codes", codes}, {"schemes", schemes}}.dump() + "\n";
}

std::string as_text() {
  std::string text = fmt::format("{:<18} {:<15} {:>9}  {:<28} {:<36} {:>7}  {}\n", "scheme", "code",
                                 "group", "scale", "zero", "bits", "containers");
  for (const SchemeFacts& scheme : describe_schemes(containers())) {
    text += fmt::format("{:<18} {:<15} {:>9}  {:<28} {:<36} {:>7.6g}  {}\n", scheme.name,
                        scheme.code, scheme.group, scheme.scale, scheme.zero,
                        scheme.bits_per_weight, scheme.containers);
  }
  text += "\ncodes (bits):";
  for (const CodeFacts& code : describe_codes()) {
    text += fmt::format(" {} ({:g})", code.name, code.bits);
  }
  return text + "\n";
}

}  // namespace

void add_formats(CLI::App& parser, Context& context) {
  struct Options {
    bool json = false, markdown = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = parser.add_subcommand("formats", "Codes and schemes of this build");
  CLI::Option* json = command->add_flag("--json", options->json, "one JSON object on stdout");
  command->add_flag("--markdown", options->markdown, "the page docs/formats.md")->excludes(json);
  command->footer(
      "Examples:\n  lowbit formats\n  lowbit formats --json\n"
      "  lowbit formats --markdown > docs/formats.md");
  command->callback([options, &context] {
    context.exit = print_result(options->json       ? as_json()
                                : options->markdown ? formats_markdown(containers())
                                                    : as_text());
  });
}

}  // namespace lowbit::app
