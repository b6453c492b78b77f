// SPDX-License-Identifier: Apache-2.0
// lowbit inspect: what is in a checkpoint.
#include <fmt/format.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "lowbit/app/command.h"
#include "lowbit/app/model_options.h"
#include "lowbit/model/chat_template.h"
#include "lowbit/model/model_file.h"

namespace lowbit::app {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t most_array_entries = 16;  // of a metadata array that is printed whole

ordered_json to_json(const Value& value) {
  return std::visit(
      [&](const auto& data) -> ordered_json {
        using T = std::decay_t<decltype(data)>;
        if constexpr (std::is_same_v<T, std::int64_t>) {
          if (value.type == ValueType::boolean) return data != 0;
          if (value.type == ValueType::uint64) return static_cast<std::uint64_t>(data);
          return data;
        } else if constexpr (std::is_same_v<T, double> || std::is_same_v<T, std::string>) {
          return data;
        } else {
          if (data.size() > most_array_entries) {
            return fmt::format("{} entries", data.size());
          }
          return ordered_json(data);
        }
      },
      value.data);
}

ordered_json metadata_json(const ModelFile& model) {
  if (model.checkpoint().container() != "gguf")
    return ordered_json(model.folder_json("config.json"));
  ordered_json metadata = ordered_json::object();
  for (const Metadata::Entry& entry : model.checkpoint().metadata()) {
    metadata[entry.key] = to_json(entry.value);
  }
  return metadata;
}

ordered_json describe(const ModelFile& model) {
  ordered_json tensors = ordered_json::array();
  for (const TensorInfo& tensor : model.checkpoint().tensors()) {
    tensors.push_back({{"name", tensor.name},
                       {"shape", tensor.shape},
                       {"scheme", to_string(tensor.scheme)},
                       {"bytes", tensor.n_bytes}});
    if (!tensor.input.is_plain()) tensors.back()["basis"] = to_string(tensor.input);
  }
  const ArchSpec& arch = *model.config().arch;
  return {
      {"architecture", model.checkpoint().container() == "gguf" ? arch.name : arch.hf_model_type},
      {"container", model.checkpoint().container()},
      {"parameters", model.n_parameters()},
      {"file_bytes", model.checkpoint().file_bytes()},
      {"bits_per_weight", model.bits_per_weight()},
      {"tensors", std::move(tensors)},
      {"metadata", metadata_json(model)}};
}

/// "int4.g32", "int4.g32 in hadamard 64".
std::string format_of(const Scheme& scheme, const Basis& input) {
  if (input.is_plain()) return to_string(scheme);
  return fmt::format("{} in {}", to_string(scheme), to_string(input));
}

/// How the model sees "Hello" from a user: the quickest way to notice a wrong or missing template.
std::string template_probe(const ModelFile& model) {
  const std::string source = model.chat_template();
  if (source.empty()) return "none: chat needs one, `run --raw` does not";
  auto parsed = ChatTemplate::parse(source);
  if (!parsed) return "not usable: " + parsed.error().message();
  ordered_json variables = {
      {"messages", ordered_json::array({{{"role", "user"}, {"content", "Hello"}}})},
      {"add_generation_prompt", true},
      {"bos_token", ""},
      {"eos_token", ""}};
  auto rendered = parsed->render(variables);
  if (!rendered) return "not usable: " + rendered.error().message();
  return ordered_json(rendered->str()).dump();
}

std::string as_text(const ModelFile& model, bool all_tensors) {
  const ModelConfig& config = model.config();
  constexpr double bytes_per_mb = 1e6, numbers_per_million = 1e6;
  std::string text = fmt::format(
      "{}\n  {} of {:.1f} million parameters, {:.1f} MB in a {} container, {:.3f} bits per weight\n"
      "  {} layers, width {}, feed-forward {}, {} heads of {} over {} key/value heads, vocabulary "
      "{}, context {}{}\n",
      model.path(), config.arch->hf_model_type,
      static_cast<double>(model.n_parameters()) / numbers_per_million,
      static_cast<double>(model.checkpoint().file_bytes()) / bytes_per_mb,
      model.checkpoint().container(), model.bits_per_weight(), config.n_layers, config.d_model,
      config.d_ff, config.n_heads, config.head_dim, config.n_kv_heads, config.n_vocab,
      config.n_ctx_train, config.tied_embeddings ? ", tied embeddings" : "");
  text += fmt::format("  chat template: {}\n", template_probe(model));
  std::map<std::string, std::pair<std::int64_t, std::int64_t>>
      by_scheme;  // scheme -> tensors, bytes
  for (const ModelTensor& tensor : model.tensors()) {
    auto& [n_tensors, n_bytes] = by_scheme[format_of(tensor.scheme, tensor.input)];
    n_tensors += 1;
    n_bytes += tensor.n_bytes;
  }
  for (const auto& [scheme, counts] : by_scheme) {
    text += fmt::format("  {:<24} {:>5} tensors {:>9.1f} MB\n", scheme, counts.first,
                        static_cast<double>(counts.second) / bytes_per_mb);
  }
  if (!all_tensors) return text;
  for (const TensorInfo& tensor : model.checkpoint().tensors()) {
    text += fmt::format("  {:<48} {:>8} x {:<8} {:<24} {:>12} bytes\n", tensor.name, tensor.rows(),
                        tensor.cols(), format_of(tensor.scheme, tensor.input), tensor.n_bytes);
  }
  return text;
}

}  // namespace

void add_inspect(CLI::App& parser, Context& context) {
  struct Options {
    ModelOptions model;
    bool json = false, tensors = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      parser.add_subcommand("inspect", "What is in a checkpoint: sizes, formats, metadata");
  add_model_option(*command, options->model);
  command->add_flag("--json", options->json, "one JSON object on stdout");
  command->add_flag("--tensors", options->tensors, "list every tensor");
  command->footer("Example:\n  lowbit inspect model.gguf --tensors");
  command->callback([options, &context] {
    auto model = ModelFile::open(options->model.model);
    if (!model) {
      context.exit = fail(model.error());
      return;
    }
    context.exit = print_result(
        options->json
            ? describe(*model).dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n"
            : as_text(*model, options->tensors));
  });
}

}  // namespace lowbit::app
