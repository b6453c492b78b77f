// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/loaded_model.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <utility>

#include <fmt/format.h>

#include "lowbit/backend/cpu_backend.h"
#include "lowbit/backend/pack_cache.h"

namespace lowbit {

namespace {

Result<Tokenizer> load_tokenizer(const ModelFile& file) {
  auto data = file.tokenizer();
  if (!data) return std::move(data).error();
  auto tokenizer = Tokenizer::create(*std::move(data));
  if (!tokenizer) return std::move(tokenizer).error().in("tokenizer");
  if (tokenizer->n_vocab() > file.config().n_vocab) {
    return Error(fmt::format("the tokenizer has {} tokens, the model only {}", tokenizer->n_vocab(),
                             file.config().n_vocab));
  }
  return tokenizer;
}

std::string megabytes_in(std::int64_t n_bytes, std::chrono::steady_clock::time_point start) {
  const std::chrono::duration<double, std::milli> elapsed =
      std::chrono::steady_clock::now() - start;
  return fmt::format("{:.0f} MB in {:.0f} ms", static_cast<double>(n_bytes) * 1e-6,
                     elapsed.count());
}

}  // namespace

Result<std::unique_ptr<LoadedModel>> LoadedModel::create(const Recipe& recipe, ThreadPool& pool) {
  std::unique_ptr<LoadedModel> model(new LoadedModel);
  auto backend = make_cpu_backend(pool);
  if (!backend) return std::move(backend).error();
  model->backend_ = *std::move(backend);
  model->recipe_ = recipe;
  return model;
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(const ModelFile& file, const Recipe& recipe,
                                                       ThreadPool& pool, LoadOptions options,
                                                       bool pack_cache) {
  auto model = create(recipe, pool);
  if (!model) return model;
  options.activations = recipe.activations;
  // The vocabulary is indexed by one thread, while the team packs.
  auto indexing = std::async(std::launch::async, [&] { return load_tokenizer(file); });
  const Status loaded = pack_cache ? (*model)->load_weights_cached(file, pool, std::move(options))
                                   : (*model)->load_weights_of(*tensors_of(file, pool), options);
  auto tokenizer = indexing.get();
  if (!tokenizer) return std::move(tokenizer).error();
  if (!loaded) return Error(loaded.error());
  (*model)->tokenizer_ = std::make_unique<Tokenizer>(*std::move(tokenizer));
  return model;
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(const TensorSource& tensors,
                                                       const Recipe& recipe, ThreadPool& pool,
                                                       LoadOptions options) {
  auto model = create(recipe, pool);
  if (!model) return model;
  options.activations = recipe.activations;
  if (Status loaded = (*model)->load_weights_of(tensors, options); !loaded) {
    return std::move(loaded).error();
  }
  return model;
}

Status LoadedModel::load_weights_of(const TensorSource& tensors, const LoadOptions& options) {
  auto weights = load_weights(tensors, *backend_, options);
  if (!weights) return std::move(weights).error();
  weights_ = *std::move(weights);
  return ok();
}

Status LoadedModel::load_weights_cached(const ModelFile& file, ThreadPool& pool,
                                        LoadOptions options) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const std::string path = pack_cache_path(file.path());
  const PackCacheKey key{content_hash(file.checkpoint().files(), pool),
                         // Another version may read the same file with other eyes.
                         fmt::format("{} {}", LOWBIT_VERSION, recipe_.weights.value_or(""))};
  auto cache = PackCache::open(path, key, pool);
  const bool is_there = cache && cache->has_value();
  if (is_there) {
    options.packed = &**cache;
    notes_.push_back({fmt::format("pack cache {}: mapped and checked, {}", path,
                                  megabytes_in((*cache)->file_bytes(), start))});
  } else if (!cache) {
    notes_.push_back({fmt::format("pack cache: {}; it is written anew", cache.error().message()),
                      /*is_warning=*/true});
  }
  std::vector<NamedMatrix> matrices;
  options.on_matrix = [&](const std::string& name, const Weight& weight) {
    const PackedMatrix* matrix = backend_->packed_form(weight);
    if (matrix != nullptr) matrices.push_back({name, matrix});
  };
  if (Status loaded = load_weights_of(*tensors_of(file, pool), options); !loaded || is_there)
    return loaded;
  const auto packed = Clock::now();
  const auto n_bytes = write_pack_cache(path, key, matrices, pool);
  if (n_bytes) {
    notes_.push_back(
        {fmt::format("pack cache {}: written, {}", path, megabytes_in(*n_bytes, packed))});
  } else {
    notes_.push_back({fmt::format("no pack cache: {}", n_bytes.error().message()),
                      /*is_warning=*/true});
  }
  return ok();
}

std::vector<std::string> LoadedModel::describe() const {
  constexpr std::int64_t n_decode = 1, n_prefill = 512;
  std::vector<std::pair<std::string, std::int64_t>> lines;  // and how many matrices it is about
  const auto add = [&](std::string_view role, const Weight& weight) {
    const std::string line = fmt::format(
        "{} ({} x {}): {}, a={}{}, decode {}, prefill {}", role, weight.rows, weight.cols,
        to_string(weight.scheme), name_of(weight.activations),
        weight.input.is_plain() ? "" : " of x after " + to_string(weight.input),
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
