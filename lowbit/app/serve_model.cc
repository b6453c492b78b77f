// SPDX-License-Identifier: Apache-2.0
#include "lowbit/app/serve_model.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "lowbit/app/model_options.h"
#include "lowbit/base/free_memory.h"
#include "lowbit/compress/mixed_precision.h"
#include "lowbit/formats/scheme.h"
#include "lowbit/kernels/kernel_table.h"
#include "lowbit/model/model_file.h"
#include "lowbit/runtime/kv_plan.h"

namespace lowbit::app {
namespace {

double megabytes(std::int64_t n_bytes) {
  return static_cast<double>(n_bytes) * 1e-6;
}

/// What generation_config.json says about requests that say nothing; a GGUF file says nothing.
SamplingParams defaults_of(const ModelFile& file) {
  SamplingParams params;
  const nlohmann::json& config = file.folder_json("generation_config.json");
  const auto number = [&](const char* name, float& value) {
    const auto at = config.find(name);
    if (at != config.end() && at->is_number()) value = at->get<float>();
  };
  number("temperature", params.temperature);
  number("top_p", params.top_p);
  number("min_p", params.min_p);
  number("repetition_penalty", params.repetition_penalty);
  const auto top_k = config.find("top_k");
  if (top_k != config.end() && top_k->is_number_integer()) params.top_k = top_k->get<int>();
  return params;
}

/// A folder that is no model itself but holds one .gguf file stands for that file: volumes of
/// clusters are such folders.
std::string model_in(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error) ||
      std::filesystem::exists(std::filesystem::path(path) / "config.json", error)) {
    return path;
  }
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    if (entry.path().extension() == ".gguf") files.push_back(entry.path().string());
  }
  return files.size() == 1 ? files.front() : path;
}

constexpr std::array option_names{",w=", ",a=", ",kv=", ",kv-memory=", ",ctx="};

std::size_t first_option(std::string_view text, std::size_t from = 0) {
  std::size_t first = std::string_view::npos;
  for (const std::string_view option : option_names)
    first = std::min(first, text.find(option, from));
  return first;
}

Status set_option(std::string_view option, ModelWish& wish) {
  const std::size_t mark = option.find('=');
  const std::string_view key = option.substr(0, mark), value = option.substr(mark + 1);
  if (key == "kv-memory") {
    auto n_bytes = parse_size(value);
    if (!n_bytes) return std::move(n_bytes).error();
    wish.kv_bytes = *n_bytes;
    return ok();
  }
  if (key == "ctx") {
    const auto [end, error] =
        std::from_chars(value.data(), value.data() + value.size(), wish.n_ctx);
    if (error != std::errc() || end != value.data() + value.size() || wish.n_ctx < 2) {
      return Error(fmt::format("ctx={} is not a number of tokens", value));
    }
    return ok();
  }
  auto recipe = parse_recipe(option);
  if (!recipe) return std::move(recipe).error();
  if (key == "w") wish.recipe.weights = recipe->weights;
  if (key == "a") wish.recipe.activations = recipe->activations;
  if (key == "kv") wish.recipe.kv = recipe->kv;
  return ok();
}

/// Bytes of the packed weights, as far as the file tells.
std::int64_t weight_bytes_of(const ModelFile& file, const Recipe& recipe) {
  std::int64_t n_bytes = 0;
  std::optional<Scheme> scheme;
  if (recipe.weights) {
    if (auto parsed = parse_scheme(split_weight_recipe(*recipe.weights).scheme)) scheme = *parsed;
  }
  for (const ModelTensor& tensor : file.tensors()) {
    if (scheme && tensor.is_matrix()) {
      n_bytes += static_cast<std::int64_t>(
          planar_bits_per_weight(*scheme, tensor.rows(), tensor.cols()) / 8 *
          static_cast<double>(tensor.rows()) * static_cast<double>(tensor.cols()));
    } else {
      n_bytes += tensor.n_bytes;
    }
  }
  return n_bytes;
}

KvShape kv_shape_of(const ModelConfig& config, const Recipe& recipe) {
  return {recipe.kv, config.n_layers, config.n_kv_heads, config.head_dim};
}

/// Whole contexts that a KV cache gets without being asked: many short requests, and not all of the
/// machine.
constexpr std::int64_t default_contexts = 4;

/// What was asked for, but no more than all requests that run at once can use.
std::int64_t asked_kv_bytes(const ModelWish& wish, const ModelConfig& config,
                            const ServeModelOptions& options) {
  const std::int64_t n_ctx = wish.n_ctx == 0 ? config.n_ctx_train : wish.n_ctx;
  return std::min(wish.kv_bytes, KvCache::n_blocks_for(n_ctx) * options.engine.max_sequences *
                                     kv_block_bytes(kv_shape_of(config, wish.recipe)));
}

/// Weights are loaded and take weight_bytes of n_bytes.
Result<KvPlan> plan_of(const ModelWish& wish, const ServeModelOptions& options,
                       const LoadedModel& model, std::int64_t weight_bytes, std::int64_t n_bytes) {
  const ModelConfig& config = model.weights().config;
  const KvShape shape = model.kv_shape();
  const std::int64_t n_left = n_bytes - weight_bytes;
  if (n_left <= 0) {
    return Error(
        fmt::format("the weights take {:.1f} MB, there is room for {:.1f} MB; give more "
                    "with --memory",
                    megabytes(weight_bytes), megabytes(n_bytes)));
  }
  if (options.n_kv_positions > 0 && wish.kv_bytes == 0) {
    const std::int64_t n_kv_bytes =
        KvCache::n_blocks_for(options.n_kv_positions) * kv_block_bytes(shape);
    if (n_kv_bytes > n_left) {
      return Error(fmt::format("{} positions of KV cache take {:.1f} MB, {:.1f} MB are left",
                               options.n_kv_positions, megabytes(n_kv_bytes), megabytes(n_left)));
    }
    const std::int64_t n_ctx = wish.n_ctx == 0 ? config.n_ctx_train : wish.n_ctx;
    return KvPlan{wish.n_ctx == 0 ? std::min(n_ctx, options.n_kv_positions) : n_ctx,
                  options.n_kv_positions};
  }
  if (asked_kv_bytes(wish, config, options) > n_left) {
    return Error(
        fmt::format("a KV cache of {:.1f} MB was asked for, beside {:.1f} MB of weights "
                    "{:.1f} MB are left",
                    megabytes(wish.kv_bytes), megabytes(weight_bytes), megabytes(n_left)));
  }
  const std::int64_t n_sequences = options.engine.max_sequences;
  return plan_kv(
      shape,
      {.n_ctx = wish.n_ctx,
       .n_ctx_train = config.n_ctx_train,
       .max_sequences = wish.kv_bytes != 0 ? n_sequences : std::min(n_sequences, default_contexts),
       .n_bytes = wish.kv_bytes != 0 ? wish.kv_bytes : n_left});
}

/// The roofs of this machine for a model; a large one is judged by its first part.
Result<Roofs> roofs_for(const ModelWork& work, ThreadPool& pool) {
  constexpr std::int64_t most_bytes = std::int64_t{256} << 20;
  constexpr int n_probes = 3;
  const auto kernels = select_kernels();
  if (!kernels) return Error(kernels.error());
  return measure_roofs(**kernels, pool, std::min(work.decode_bytes, most_bytes), n_probes);
}

/// Between two steps: beside them it would find what they leave.
Status measure_roof(ServedModel& served) {
  auto roofs = roofs_for(served.roof.work, *served.pool);
  if (!roofs) return std::move(roofs).error();
  served.roof.roofs = *roofs;
  served.memory_plan +=
      fmt::format("; reads of its weights measured at {:.1f} GB/s", served.roof.roofs.read_gbs);
  return ok();
}

void read_template(const ModelFile& file, ServedModel& served) {
  const std::string source = file.chat_template();
  if (source.empty()) {
    served.no_template = fmt::format("{} has no chat template", served.names.front());
    return;
  }
  auto parsed = ChatTemplate::parse(source);
  if (!parsed) {
    served.no_template = parsed.error().message();
    spdlog::warn("{}; chats are refused", served.no_template);
    return;
  }
  served.chat_template.emplace(*std::move(parsed));
  served.template_reads_tools = source.find("tools") != std::string::npos;
}

Result<std::unique_ptr<ServedModel>> load(const ModelWish& wish, const ServeModelOptions& options,
                                          std::vector<std::string> names,
                                          std::shared_ptr<ThreadPool> pool, std::int64_t n_bytes) {
  ThreadPool loaders(pool->n_threads());  // the other models need the shared one meanwhile
  auto served = std::make_unique<ServedModel>();
  auto file = ModelFile::open(model_in(wish.path));
  if (!file) return std::move(file).error();
  served->names = std::move(names);
  served->description = std::filesystem::path(file->path()).filename().string();
  served->pool = std::move(pool);
  served->defaults = defaults_of(*file);
  if (const Status sane = check(served->defaults, file->config().n_vocab); !sane) {
    return Error(sane.error()).in("generation_config.json");
  }
  read_template(*file, *served);
  auto model = load_model(*file, wish.recipe, loaders, options.verbose, options.pack_cache);
  if (!model) return std::move(model).error();
  served->model = *std::move(model);
  auto vocabulary = TokenVocabulary::create(served->tokenizer(), tool_call_markers);
  if (vocabulary) {
    served->constraints = std::make_unique<ConstraintCache>(*std::move(vocabulary));
  } else {
    served->no_constraints = vocabulary.error().message();
  }
  served->weight_bytes = served->model->weights().n_bytes();
  auto plan = plan_of(wish, options, *served->model, served->weight_bytes, n_bytes);
  if (!plan) return std::move(plan).error().in(wish.path);
  EngineOptions engine_options = options.engine;
  engine_options.kv = wish.recipe.kv;
  engine_options.n_ctx = plan->n_ctx;
  engine_options.n_kv_positions = std::max(plan->n_positions, plan->n_ctx);
  engine_options.occupy_kv = true;
  served->max_sequences = engine_options.max_sequences;
  auto engine = Engine::create(served->model->backend(), served->model->weights(),
                               &served->model->tokenizer(), engine_options);
  if (!engine) return std::move(engine).error();
  served->engine = *std::move(engine);
  const KvCache& cache = served->engine->kv_cache();
  served->kv_bytes = cache.n_blocks() * cache.block_bytes();
  served->memory_plan = fmt::format(
      "{:.1f} MB of weights and {:.1f} MB of KV cache ({} positions, kv={}, context {}), of {:.1f} "
      "MB there are for it",
      megabytes(served->weight_bytes), megabytes(served->kv_bytes),
      cache.n_blocks() * kv_block_positions, name_of(wish.recipe.kv), plan->n_ctx,
      megabytes(n_bytes));
  served->roof.work = work_of(*served->model);
  served->model->backend().set_team(*served->pool);
  served->start = [](ServedModel& self) { return measure_roof(self); };
  return served;
}

/// Names that several models would share belong to none, unless one was given it.
void drop_shared_names(std::vector<ModelSource>& sources) {
  std::map<std::string, int> n_models;
  for (const ModelSource& source : sources) {
    for (const std::string& name : source.names) ++n_models[name];
  }
  for (ModelSource& source : sources) {
    std::erase_if(source.names, [&](const std::string& name) {
      return &name != &source.names.front() && n_models[name] > 1;
    });
  }
}

}  // namespace

Result<ModelWish> parse_model_wish(std::string_view text, const ModelWish& defaults) {
  ModelWish wish = defaults;
  const std::size_t mark = text.find('=');
  const std::string_view name = text.substr(0, mark);
  const bool is_name = mark != std::string_view::npos && !name.empty() &&
                       name.find_first_of(",/") == std::string_view::npos &&
                       !std::filesystem::exists(text);
  if (is_name) wish.name = name;
  std::string_view rest = is_name ? text.substr(mark + 1) : text;
  std::size_t n_path = first_option(rest);
  wish.path = rest.substr(0, n_path);
  if (wish.path.empty()) return Error(fmt::format("--model {}: there is no path in it", text));
  while (n_path != std::string_view::npos) {
    rest.remove_prefix(n_path + 1);
    n_path = first_option(rest);
    if (Status set = set_option(rest.substr(0, n_path), wish); !set) {
      return Error(set.error()).in(fmt::format("--model {}", text));
    }
  }
  return wish;
}

Result<std::int64_t> default_memory() {
  const auto free = free_memory();
  if (!free) {
    return Error("this system does not say how much memory is free; say it with --memory");
  }
  return free->n_bytes / 10 * 9;
}

Result<std::vector<ModelSource>> make_sources(const std::vector<ModelWish>& wishes,
                                              const ServeModelOptions& options,
                                              std::shared_ptr<ThreadPool> pool) {
  std::vector<ModelSource> sources;
  std::vector<std::int64_t> weight_bytes;
  std::int64_t all_weights = 0;
  for (const ModelWish& wish : wishes) {
    auto file = ModelFile::open(model_in(wish.path));
    if (!file) return std::move(file).error();
    const std::filesystem::path path(file->path());
    const std::string stem = path.stem().string();
    ModelSource& source = sources.emplace_back();
    source.names = {wish.name.empty() ? stem : wish.name};
    for (const std::string& name : {stem, path.string(), path.filename().string(), wish.path}) {
      if (std::ranges::find(source.names, name) == source.names.end()) source.names.push_back(name);
    }
    source.description = path.filename().string();
    weight_bytes.push_back(weight_bytes_of(*file, wish.recipe));
    all_weights += weight_bytes.back();
    const KvShape shape = kv_shape_of(file->config(), wish.recipe);
    const std::int64_t n_least = wish.n_ctx == 0 ? 1 : wish.n_ctx;  // plan_kv makes of the rest
    const std::int64_t kv_bytes = KvCache::n_blocks_for(n_least) * kv_block_bytes(shape);
    source.n_bytes =
        weight_bytes.back() + std::max(asked_kv_bytes(wish, file->config(), options), kv_bytes);
  }
  for (std::size_t i = 0; i < sources.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (sources[i].names.front() != sources[j].names.front()) continue;
      return Error(fmt::format("two models are called {}; give them names: --model NAME=PATH",
                               sources[i].names.front()));
    }
  }
  drop_shared_names(sources);
  // Where all fit beside each other they share what is left; otherwise they take turns.
  const auto n_models = static_cast<std::int64_t>(sources.size());
  const std::int64_t n_left = options.memory_bytes - all_weights;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const std::int64_t share =
        n_left > 0 ? weight_bytes[i] + n_left / n_models : options.memory_bytes;
    // What was asked for is not cut down to a share.
    const bool is_fixed = wishes[i].kv_bytes > 0 || options.n_kv_positions > 0;
    const std::int64_t n_most =
        is_fixed ? options.memory_bytes : std::max(share, sources[i].n_bytes);
    sources[i].load = [wish = wishes[i], options, names = sources[i].names, pool,
                       n_most](std::int64_t n_bytes) {
      return load(wish, options, names, pool, std::min(n_bytes, n_most));
    };
  }
  return sources;
}

}  // namespace lowbit::app
