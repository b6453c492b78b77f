// SPDX-License-Identifier: Apache-2.0
#include "lowbit/app/model_options.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "lowbit/app/interrupt.h"
#include "lowbit/app/terminal.h"
#include "lowbit/compress/quantize.h"

namespace lowbit::app {

void add_model_option(CLI::App& command, ModelOptions& options) {
  command.add_option("-m,--model,model", options.model, "a .gguf file or a model folder")
      ->required();
}

void add_thread_option(CLI::App& command, ModelOptions& options) {
  constexpr int most_threads = 1024;
  command
      .add_option("-t,--threads", options.n_threads, "threads (default: what this machine allows)")
      ->check(CLI::Range(1, most_threads));
  command.add_flag("-v,--verbose", options.verbose, "also say what was chosen and why");
}

void add_recipe_option(CLI::App& command, ModelOptions& options) {
  command.add_option("--recipe", options.recipe,
                     "what runs: 'w=[METHOD:]SCHEME,a=f32|int8.g32|int8.g256|int8.token,kv=f16|f32|"
                     "int8.token|int4.g64|e4m3.token'; "
                     "w= re-quantizes at load, what is left out keeps its default");
}

void add_pack_cache_option(CLI::App& command, ModelOptions& options) {
  command.add_flag("--pack-cache", options.pack_cache,
                   "keep the packed weights in a file beside the model and map it next time");
}

std::unique_ptr<ThreadPool> make_pool(const ModelOptions& options) {
  ThreadCount count = default_thread_count();
  if (options.n_threads > 0) count = {options.n_threads, "as asked for"};
  if (options.verbose) spdlog::info("{} threads: {}", count.n_threads, count.reason);
  return std::make_unique<ThreadPool>(count.n_threads);
}

Result<std::unique_ptr<LoadedModel>> load_model(const std::string& path, const Recipe& recipe,
                                                ThreadPool& pool, bool verbose, bool pack_cache) {
  auto file = ModelFile::open(path);
  if (!file) return std::move(file).error();
  return load_model(*file, recipe, pool, verbose, pack_cache);
}

Result<std::unique_ptr<LoadedModel>> load_model(const ModelFile& file, const Recipe& recipe,
                                                ThreadPool& pool, bool verbose, bool pack_cache) {
  LoadOptions options;
  Progress progress(fmt::format("loading {}", file.path()));
  options.progress = [&](std::int64_t n_done, std::int64_t n_total) {
    return progress(n_done, n_total);
  };
  if (recipe.weights) {
    auto transform = requantizing(*recipe.weights, pool);
    if (!transform) return std::move(transform).error();
    options.transform = std::move(*transform);
  }
  auto model = LoadedModel::load(file, recipe, pool, std::move(options), pack_cache);
  if (!model) return std::move(model).error().in(file.path());
  if (interrupted()) return Error("interrupted");
  for (const auto& [text, is_warning] : (*model)->notes()) {
    if (is_warning)
      spdlog::warn("{}", text);
    else if (verbose)
      spdlog::info("{}", text);
  }
  if (verbose) {
    for (const std::string& line : (*model)->describe()) spdlog::info("{}", line);
  }
  return model;
}

}  // namespace lowbit::app
