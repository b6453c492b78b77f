// SPDX-License-Identifier: Apache-2.0
#include "lowbit/app/bench_shape.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "lowbit/app/interrupt.h"
#include "lowbit/app/terminal.h"
#include "lowbit/io/checkpoint_writer.h"
#include "lowbit/measure/shapes.h"
#include "lowbit/model/byte_alphabet.h"
#include "lowbit/model/model_writer.h"
#include "lowbit/model/tensor_names.h"
#include "lowbit/model/tokenizer_export.h"

namespace lowbit::app {
namespace {

Result<std::unique_ptr<RandomWeights>> weights_of(const std::string& shape, const Recipe& recipe,
                                                  ThreadPool& pool) {
  const auto config = config_of_shape(shape);
  if (!config) return config.error();
  const std::string text = recipe.weights.value_or("q4_0");
  const WeightRecipe parts = split_weight_recipe(text);
  if (!parts.method.empty()) {
    return Error(fmt::format("{} rounds real weights; random ones are made in a scheme: w={}",
                             parts.method, parts.scheme));
  }
  const auto scheme = parse_scheme(parts.scheme);
  if (!scheme) return scheme.error();
  return RandomWeights::create(*config, *scheme, pool);
}

/// A vocabulary that every byte-level reader takes: the bytes, one merge, fillers up to the size.
TokenizerData vocabulary_of(std::int64_t n_tokens) {
  constexpr int n_bytes = 256;
  TokenizerData data;
  data.pre = "default";
  for (int byte = 0; byte < n_bytes; ++byte) {
    const char text = static_cast<char>(byte);
    append_as_letters({&text, 1}, data.tokens.emplace_back());
  }
  data.tokens.emplace_back("ab");
  data.merges.emplace_back("a", "b");
  data.kinds.assign(data.tokens.size(), TokenKind::normal);
  data.eos = static_cast<TokenId>(data.tokens.size());
  data.tokens.emplace_back("<|end|>");
  data.kinds.push_back(TokenKind::control);
  while (static_cast<std::int64_t>(data.tokens.size()) < n_tokens) {
    data.tokens.push_back(fmt::format("<|{}|>", data.tokens.size()));
    data.kinds.push_back(TokenKind::unused);
  }
  data.end_ids = {*data.eos};
  return data;
}

}  // namespace

Result<std::unique_ptr<LoadedModel>> load_shape(const std::string& shape, const Recipe& recipe,
                                                ThreadPool& pool, bool verbose) {
  const auto weights = weights_of(shape, recipe, pool);
  if (!weights) return weights.error();
  LoadOptions options;
  Progress progress(fmt::format("making {}", shape));
  options.progress = [&](std::int64_t n_done, std::int64_t n_total) {
    return progress(n_done, n_total);
  };
  auto model = LoadedModel::load(**weights, recipe, pool, std::move(options));
  if (!model) return std::move(model).error().in(shape);
  if (interrupted()) return Error("interrupted");
  if (verbose) {
    for (const std::string& line : (*model)->describe()) spdlog::info("{}", line);
  }
  return model;
}

Status write_shape(const std::string& shape, const Recipe& recipe, ThreadPool& pool,
                   const std::string& path) {
  const auto container = container_of(path);
  if (!container) return container.error();
  if (*container != Container::gguf) return Error(fmt::format("{} must end in .gguf", path));
  const auto weights = weights_of(shape, recipe, pool);
  if (!weights) return weights.error();
  const ModelConfig& config = (*weights)->config();
  Metadata metadata;
  config_to_metadata(config, metadata);
  metadata.set("general.name", Value::string(shape + ", random weights"));
  constexpr std::int64_t quantization_version = 2;  // of GGUF's block types
  metadata.set("general.quantization_version", Value::integer(quantization_version));
  if (Status status = tokenizer_to_metadata(vocabulary_of(config.n_vocab), metadata); !status) {
    return status;
  }
  std::vector<TensorDeclaration> declarations;
  for (const RandomWeights::Named& tensor : (*weights)->tensors()) {
    const auto name = gguf_from_canonical(tensor.name);
    if (!name) return Error(fmt::format("GGUF has no name for {}", tensor.name));
    TensorDeclaration declaration{
        *name, {tensor.shape.rows, tensor.shape.cols}, (*weights)->scheme_of(tensor)};
    if (tensor.is_vector) declaration.shape = {tensor.shape.cols};
    if (Status status = fits_gguf(declaration.scheme, declaration.shape); !status) {
      return std::move(status).error().in(tensor.name);
    }
    declarations.push_back(std::move(declaration));
  }
  auto writer = create_gguf(path, metadata, std::move(declarations));
  if (!writer) return std::move(writer).error();
  Progress progress(fmt::format("writing {}", path));
  std::int64_t n_done = 0;
  for (const RandomWeights::Named& tensor : (*weights)->tensors()) {
    const auto n_total = static_cast<std::int64_t>((*weights)->tensors().size());
    if (!progress(n_done++, n_total)) return Error("interrupted");
    const auto numbers = (*weights)->load(tensor.name);
    if (!numbers) return numbers.error();
    if (Status status = (*writer)->add(*numbers); !status) {
      return std::move(status).error().in(tensor.name);
    }
  }
  return (*writer)->commit();
}

}  // namespace lowbit::app
