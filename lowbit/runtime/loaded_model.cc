// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/loaded_model.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "lowbit/backend/cpu_backend.h"

namespace lowbit {

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(const ModelFile& file, const Recipe& recipe,
                                                       ThreadPool& pool, LoadOptions options) {
  auto tokenizer_data = file.tokenizer();
  if (!tokenizer_data) return std::move(tokenizer_data).error();
  auto tokenizer = Tokenizer::create(*std::move(tokenizer_data));
  if (!tokenizer) return std::move(tokenizer).error().in("tokenizer");
  if (tokenizer->n_vocab() > file.config().n_vocab) {
    return Error(fmt::format("the tokenizer has {} tokens, the model only {}", tokenizer->n_vocab(),
                             file.config().n_vocab));
  }
  auto model = load(*tensors_of(file, pool), recipe, pool, std::move(options));
  if (!model) return std::move(model).error();
  (*model)->tokenizer_ = std::make_unique<Tokenizer>(*std::move(tokenizer));
  return model;
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(const TensorSource& tensors,
                                                       const Recipe& recipe, ThreadPool& pool,
                                                       LoadOptions options) {
  std::unique_ptr<LoadedModel> model(new LoadedModel);
  auto backend = make_cpu_backend(pool);
  if (!backend) return std::move(backend).error();
  options.activations = recipe.activations;
  auto weights = load_weights(tensors, **backend, options);
  if (!weights) return std::move(weights).error();
  model->backend_ = *std::move(backend);
  model->weights_ = *std::move(weights);
  model->recipe_ = recipe;
  return model;
}

std::vector<std::string> LoadedModel::describe() const {
  constexpr std::int64_t n_decode = 1, n_prefill = 512;
  std::vector<std::pair<std::string, std::int64_t>> lines;  // and how many matrices it is about
  const auto add = [&](std::string_view role, const Weight& weight) {
    const std::string line = fmt::format(
        "{} ({} x {}): {}, a={}, decode {}, prefill {}", role, weight.rows, weight.cols,
        to_string(weight.scheme), name_of(weight.activations),
        backend_->kernel_name(weight, n_decode), backend_->kernel_name(weight, n_prefill));
    const auto at = std::ranges::find(lines, line, &std::pair<std::string, std::int64_t>::first);
    if (at != lines.end()) {
      ++at->second;
    } else {
      lines.emplace_back(line, 1);
    }
  };
  for (const LayerWeights& layer : weights_.layers) {
    add("q_proj", *layer.q.w);
    add("k_proj", *layer.k.w);
    add("v_proj", *layer.v.w);
    add("o_proj", *layer.o.w);
    add("gate_proj", *layer.gate.w);
    add("up_proj", *layer.up.w);
    add("down_proj", *layer.down.w);
  }
  add(weights_.head ? "lm_head" : "lm_head and embed_tokens", weights_.output_head());
  std::vector<std::string> texts;
  for (const auto& [line, n_matrices] : lines) {
    texts.push_back(fmt::format("{} x {}", n_matrices, line));
  }
  return texts;
}

}  // namespace lowbit
