// SPDX-License-Identifier: Apache-2.0
// lowbit bench: the roofs of this machine, and how close a model comes to them.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "lowbit/app/bench_kernels.h"
#include "lowbit/app/bench_profile.h"
#include "lowbit/app/bench_serve.h"
#include "lowbit/app/bench_shape.h"
#include "lowbit/app/command.h"
#include "lowbit/app/interrupt.h"
#include "lowbit/app/model_options.h"
#include "lowbit/app/terminal.h"
#include "lowbit/measure/bench.h"
#include "lowbit/measure/shapes.h"

namespace lowbit::app {
namespace {

using nlohmann::ordered_json;

struct Options {
  ModelOptions model;
  BenchOptions bench;
  KernelBenchRequest kernels;
  ServeBenchRequest serve;
  std::string shape, write;
  int n_repetitions = 0;  // 0: the default of what is measured
  bool json = false;
};

/// What is the same for all rows of a run.
struct Run {
  Roofs roofs;
  int n_threads = 1;
  std::string model, scheme, activations, kv;
  std::int64_t n_bytes = 0, n_parameters = 0, n_layers = 0;
  std::string no_energy;  // why there is none; empty where there is
};

ordered_json to_json(const BenchRow& row, const Run& run) {
  const bool is_decode = row.phase == "decode";
  std::vector<double> speeds, nanoseconds;
  double mean_speed = 0, mean_time = 0, speed_squares = 0, time_squares = 0;
  constexpr double per_second = 1e9;
  for (const double seconds : row.seconds) {
    speeds.push_back(static_cast<double>(row.n_all_tokens()) / seconds);
    nanoseconds.push_back(seconds * per_second);
    mean_speed += speeds.back() / static_cast<double>(row.seconds.size());
    mean_time += nanoseconds.back() / static_cast<double>(row.seconds.size());
  }
  for (std::size_t i = 0; i < speeds.size(); ++i) {
    speed_squares += (speeds[i] - mean_speed) * (speeds[i] - mean_speed);
    time_squares += (nanoseconds[i] - mean_time) * (nanoseconds[i] - mean_time);
  }
  const double n_free = std::max(static_cast<double>(speeds.size()) - 1, 1.0);
  ordered_json joules;  // null where the machine does not say
  if (const auto per_token = row.joules_per_token()) joules = *per_token;
  return {{"scheme", run.scheme},
          {"activations", run.activations},
          {"phase", row.phase},
          {"tokens", row.n_tokens},
          {"depth", row.n_depth},
          {"batch", row.n_batch},
          {"tokens_per_second", row.tokens_per_second()},
          {"tokens_per_second_min", row.least_tokens_per_second()},
          {"tokens_per_second_max", row.most_tokens_per_second()},
          {"gbs", row.gbs},
          {"gops", row.gops},
          {"of_roof", row.of_roof},
          {"joules_per_token", joules},
          // llama-bench's names for the same run
          {"model_filename", run.model},
          {"model_type", run.scheme},
          {"model_size", run.n_bytes},
          {"model_n_params", run.n_parameters},
          {"cpu_info", cpu_name()},
          {"backends", "CPU"},
          {"n_threads", run.n_threads},
          {"type_k", run.kv},
          {"type_v", run.kv},
          {"n_prompt", is_decode ? 0 : row.n_tokens},
          {"n_gen", is_decode ? row.n_tokens : 0},
          {"n_depth", row.n_depth},
          {"avg_ns", mean_time},
          {"stddev_ns", std::sqrt(time_squares / n_free)},
          {"avg_ts", mean_speed},
          {"stddev_ts", std::sqrt(speed_squares / n_free)},
          {"samples_ns", nanoseconds},
          {"samples_ts", speeds},
          {"build_commit", LOWBIT_VERSION}};
}

std::string to_text(const std::vector<BenchRow>& rows, const Run& run) {
  std::string text = fmt::format(
      "{}, {} threads: reads {:.1f} GB/s, int8 {:.0f} GOPS, f32 {:.0f} GFLOPS\n", cpu_name(),
      run.n_threads, run.roofs.read_gbs, run.roofs.int8_gops, run.roofs.f32_gflops);
  if (rows.empty()) return text;
  text += fmt::format("{}: w={},a={},kv={}\n", run.model, run.scheme, run.activations, run.kv);
  text +=
      "| phase   | tokens | depth | batch |  tokens/s |        spread |      GOPS |   GB/s | of "
      "roof "
      "| J/token |\n"
      "|---------|-------:|------:|------:|----------:|--------------:|----------:|-------:|-------"
      "-:"
      "|--------:|\n";
  for (const BenchRow& row : rows) {
    const auto joules = row.joules_per_token();
    text += fmt::format(
        "| {:<7} | {:>6} | {:>5} | {:>5} | {:>9.1f} | {:>13} | {:>9.1f} | {:>6} | {:>5.1f} % | "
        "{:>7} |\n",
        row.phase, row.n_tokens, row.n_depth, row.n_batch, row.tokens_per_second(),
        fmt::format("{:.1f}-{:.1f}", row.least_tokens_per_second(), row.most_tokens_per_second()),
        row.gops, row.gbs > 0 ? fmt::format("{:.1f}", row.gbs) : "-", 100 * row.of_roof,
        joules ? fmt::format("{:.3g}", *joules) : "-");
  }
  if (!run.no_energy.empty()) text += fmt::format("energy: not readable, {}\n", run.no_energy);
  return text;
}

Exit run_kernels(const Options& options) {
  if (!options.model.model.empty() || !options.shape.empty() || !options.model.recipe.empty()) {
    return refuse(Error("--kernels measures products alone; leave out -m, --shape and --recipe"));
  }
  if (options.model.pack_cache)
    return refuse(Error("--pack-cache keeps a model; name one with -m"));
  KernelBenchRequest request = options.kernels;
  request.n_threads = options.model.n_threads;
  request.n_repetitions = options.n_repetitions;
  request.json = options.json;
  return run_kernel_bench(request);
}

/// Whether the options fit each other.
Status check(const Options& options) {
  const bool has_model = !options.model.model.empty(), has_shape = !options.shape.empty();
  if (has_model && has_shape) return Error("-m names a model and --shape another; leave one out");
  if (!has_model && !has_shape && !options.model.recipe.empty()) {
    return Error("--recipe says how a model runs; name one with -m or --shape");
  }
  if (!has_model && options.model.pack_cache) {
    return Error("--pack-cache keeps the weights of a file; name one with -m");
  }
  if (has_shape) {
    if (const auto config = config_of_shape(options.shape); !config) return config.error();
  }
  return ok();
}

Result<std::unique_ptr<LoadedModel>> model_of(const Options& options, const Recipe& recipe,
                                              ThreadPool& pool) {
  if (!options.shape.empty()) return load_shape(options.shape, recipe, pool, options.model.verbose);
  return load_model(options.model.model, recipe, pool, options.model.verbose,
                    options.model.pack_cache);
}

/// The rows of a model, and what stands above them.
Result<std::vector<BenchRow>> measure(LoadedModel& model, const Options& options, Run& run) {
  const ModelWork work = work_of(model);
  run.model = options.shape.empty() ? std::filesystem::path(options.model.model).filename().string()
                                    : options.shape + " (random weights)";
  run.scheme = work.scheme;
  run.activations = work.activations;
  run.kv = name_of(model.recipe().kv);
  run.n_bytes = model.weights().n_bytes();
  run.n_layers = model.weights().config.n_layers;
  BenchOptions bench = options.bench;
  auto energy = EnergyMeter::open();
  if (energy) {
    bench.energy = &*energy;
  } else {
    run.no_energy = energy.error().message();
  }
  Progress progress("measuring");
  bench.profile = options.model.verbose;
  if (options.n_repetitions > 0) bench.n_repetitions = options.n_repetitions;
  bench.progress = [&](std::int64_t n_done, std::int64_t n_total) {
    return progress(n_done, n_total);
  };
  return bench_model(model, run.roofs, bench);
}

Exit run_serve(const Options& options) {
  const bool asks_more = options.kernels.is_wanted || !options.shape.empty() ||
                         !options.model.recipe.empty() || options.model.pack_cache;
  if (asks_more) {
    return refuse(
        Error("--serve measures a server as it runs; leave out --kernels, --shape, --recipe and "
              "--pack-cache"));
  }
  ServeBenchRequest request = options.serve;
  request.model = options.model.model;
  request.json = options.json;
  return run_serve_bench(request);
}

Exit run(const Options& options) {
  if (!options.serve.url.empty()) return run_serve(options);
  if (options.kernels.is_wanted) return run_kernels(options);
  if (const Status status = check(options); !status) return refuse(status.error());
  auto recipe = parse_recipe(options.model.recipe);
  if (!recipe) return refuse(recipe.error());
  const auto kernels = select_kernels();
  if (!kernels) return fail(kernels.error());
  watch_interrupts();
  const auto pool = make_pool(options.model);
  if (!options.write.empty()) {
    const Status written = write_shape(options.shape, *recipe, *pool, options.write);
    return written ? Exit::ok : fail(written.error());
  }
  Run run;
  run.n_threads = pool->n_threads();
  std::vector<BenchRow> rows;
  std::int64_t read_bytes = memory_read_bytes;
  if (!options.model.model.empty() || !options.shape.empty()) {
    auto model = model_of(options, *recipe, *pool);
    if (!model) return fail(model.error());
    read_bytes = work_of(**model).decode_bytes;
    run.roofs = measure_roofs(**kernels, *pool, read_bytes);
    auto measured = measure(**model, options, run);
    if (!measured) return fail(measured.error());
    rows = *std::move(measured);
  } else {
    run.roofs = measure_roofs(**kernels, *pool, read_bytes);
  }
  if (!options.json) {
    std::string text = to_text(rows, run);
    if (options.model.verbose) {
      for (const BenchRow& row : rows)
        text += "\n" + profile_text(row, run.n_layers, run.n_threads);
    }
    return print_result(text);
  }
  ordered_json object = {{"machine",
                          {{"cpu", cpu_name()},
                           {"isa", name_of((*kernels)->isa)},
                           {"threads", run.n_threads},
                           {"read_gbs", run.roofs.read_gbs},
                           {"read_bytes", read_bytes},
                           {"int8_gops", run.roofs.int8_gops},
                           {"f32_gflops", run.roofs.f32_gflops}}},
                         {"rows", ordered_json::array()}};
  for (const BenchRow& row : rows) object["rows"].push_back(to_json(row, run));
  return print_result(object.dump() + "\n");
}

}  // namespace

void add_bench(CLI::App& parser, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      parser.add_subcommand("bench", "Speed of a model as a share of what this machine can do");
  command->add_option("-m,--model,model", options->model.model,
                      "a .gguf file or a model folder; without one only the roofs are measured");
  constexpr std::int64_t most_tokens = 1 << 20, most_sequences = 1 << 12;
  CLI::Option* shape = command->add_option(
      "--shape", options->shape,
      "instead of a model: random weights of a published model's sizes (llama-1b, llama-8b, "
      "qwen3-8b, ...) in the scheme of --recipe w=SCHEME (q4_0)");
  command
      ->add_option("--write", options->write,
                   "write these weights as a .gguf file instead of running them")
      ->needs(shape);
  command
      ->add_option("-p,--n-prompt", options->bench.prompts,
                   "tokens of the prompt (512); 0: no prefill; -p 512,2048 measures both")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{0}, most_tokens));
  command
      ->add_option("-n,--n-gen", options->bench.n_generate, "tokens to generate (64); 0: no decode")
      ->check(CLI::Range(std::int64_t{0}, most_tokens));
  command
      ->add_option("-d,--n-depth", options->bench.depths,
                   "tokens that are there before (0), each depth in turn")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{0}, most_tokens));
  command
      ->add_option("-b,--batch", options->bench.batches,
                   "sequences that decode together (1), each number in turn")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, most_sequences));
  command
      ->add_option("-r,--repetitions", options->n_repetitions,
                   "repetitions after one that is not counted (5; 20 of kernels)")
      ->check(CLI::Range(1, 1000));
  command->add_flag("--json", options->json,
                    "one JSON object on stdout, with llama-bench's keys too");
  add_kernel_bench_options(*command, options->kernels);
  add_serve_bench_options(*command, options->serve);
  add_recipe_option(*command, options->model);
  add_pack_cache_option(*command, options->model);
  add_thread_option(*command, options->model);
  command->footer(
      "Examples:\n  lowbit bench\n  lowbit bench -m model.gguf -p 512 -n 64 -t 1\n  lowbit bench "
      "-m model.gguf --recipe w=int4.g32,a=int8.token\n  lowbit bench --shape llama-1b --recipe "
      "w=q8_0 -d 0,2048 -b 1,8\n  lowbit bench --kernels\n  lowbit bench "
      "--kernels --scheme q4_0,q8_0 --isa all --size 512x2048x8192 -t 1\n  lowbit bench --serve "
      "http://127.0.0.1:8000 --max-concurrency 8 --random-input-len 128");
  command->callback([options, &context] { context.exit = run(*options); });
}

}  // namespace lowbit::app
