// SPDX-License-Identifier: Apache-2.0
// lowbit tokenize: text in, token ids out. A tool for those who wonder what a model sees, and the
// way by which the end-to-end tests compare our tokenizers with others.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>

#include "lowbit/app/command.h"
#include "lowbit/base/text_file.h"
#include "lowbit/io/checkpoint.h"
#include "lowbit/model/tokenizer_load.h"

namespace lowbit::app {
namespace {

using nlohmann::json;

struct Options {
  std::string model;
  bool json = false, no_special = false, bos = false, null = false;
};

Result<json> read_json(const std::filesystem::path& path) {
  const auto text = read_text(path.string());
  if (!text) return Error(text.error());
  json parsed = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return Error(path.string() + " is not JSON");
  return parsed;
}

Result<TokenizerData> read_folder(const std::filesystem::path& tokenizer_file) {
  auto tokenizer = read_json(tokenizer_file);
  if (!tokenizer) return std::move(tokenizer).error();
  json companions[2];
  constexpr std::string_view names[] = {"tokenizer_config.json", "generation_config.json"};
  for (std::size_t i = 0; i < std::size(names); ++i) {
    const auto path = tokenizer_file.parent_path() / names[i];
    if (!std::filesystem::exists(path)) continue;
    auto companion = read_json(path);
    if (!companion) return std::move(companion).error();
    companions[i] = *std::move(companion);
  }
  return tokenizer_from_json(*tokenizer, &companions[0], &companions[1]);
}

/// A GGUF file (it needs no tensors), a model folder, or a tokenizer.json itself.
Result<TokenizerData> read_tokenizer(const std::string& model) {
  const std::filesystem::path path = model;
  if (std::filesystem::is_directory(path)) return read_folder(path / "tokenizer.json");
  if (path.extension() == ".json") return read_folder(path);
  auto checkpoint = open_checkpoint(model);
  if (!checkpoint) return std::move(checkpoint).error();
  return tokenizer_from_gguf((*checkpoint)->metadata());
}

std::vector<std::string> texts_of(const std::string& input, bool split_at_null) {
  if (!split_at_null) return {input};
  std::vector<std::string> texts;
  for (std::size_t begin = 0; begin <= input.size();) {
    const std::size_t end = std::min(input.find('\0', begin), input.size());
    texts.push_back(input.substr(begin, end - begin));
    begin = end + 1;
  }
  return texts;
}

Exit tokenize(const Options& options) {
  auto data = read_tokenizer(options.model);
  if (!data) return fail(std::move(data).error().in(options.model));
  auto tokenizer = Tokenizer::create(*std::move(data));
  if (!tokenizer) return fail(std::move(tokenizer).error().in(options.model));

  const std::string input((std::istreambuf_iterator<char>(std::cin)), {});
  json texts = json::array();
  std::string lines;
  for (const std::string& text : texts_of(input, options.null)) {
    const auto ids = tokenizer->encode(text, options.bos, !options.no_special);
    if (options.json) {
      texts.push_back({{"ids", ids}, {"decoded", tokenizer->decode(ids)}});
    } else {
      lines += fmt::format("{}\n", fmt::join(ids, " "));
    }
  }
  return print_result(options.json ? json{{"texts", std::move(texts)}}.dump() + "\n" : lines);
}

}  // namespace

void add_tokenize(CLI::App& parser, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = parser.add_subcommand("tokenize", "Token ids of the text on standard input");
  command->add_option("-m,--model", options->model, "GGUF file, model folder or tokenizer.json")
      ->required();
  command->add_flag("--json", options->json, "one JSON object: texts[{ids, decoded}]");
  command->add_flag("--no-special", options->no_special,
                    "treat the text as a user's: special tokens in it are plain text");
  command->add_flag("--bos", options->bos, "begin with BOS if the model asks for it");
  command->add_flag("-0,--null", options->null, "several texts, separated by NUL bytes");
  command->footer("Example:\n  printf 'Hello world' | lowbit tokenize -m model.gguf");
  command->callback([options, &context] { context.exit = tokenize(*options); });
}

}  // namespace lowbit::app
