// SPDX-License-Identifier: Apache-2.0
// lowbit eval: perplexity, and divergence from a reference.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "lowbit/app/command.h"
#include "lowbit/app/interrupt.h"
#include "lowbit/app/model_options.h"
#include "lowbit/app/sweep.h"
#include "lowbit/app/tasks.h"
#include "lowbit/app/terminal.h"
#include "lowbit/base/text_file.h"
#include "lowbit/compress/calibration_text.h"
#include "lowbit/measure/evaluate.h"
#include "lowbit/measure/model_work.h"

namespace lowbit::app {
namespace {

using nlohmann::ordered_json;

struct Options {
  ModelOptions model;
  std::string text, reference, protocol = "llama", sweep, output, tasks, samples;
  std::int64_t n_ctx = 512, max_windows = 0;
  std::optional<double> max_kld;
  CalibrationText calibration;
  bool json = false;
};

ordered_json to_json(const EvalReport& report, const Options& options, const std::string& recipe) {
  ordered_json object = {{"protocol", options.protocol},
                         {"ctx", options.n_ctx},
                         {"recipe", recipe},
                         {"tokens", report.n_scored},
                         {"perplexity", report.perplexity},
                         {"perplexity_stderr", report.perplexity_stderr}};
  if (!report.divergence) return object;
  const Divergence& d = *report.divergence;
  object.update({{"reference_perplexity", d.reference_perplexity},
                 {"kld_mean", d.kld_mean},
                 {"kld_stderr", d.kld_stderr},
                 {"kld_median", d.kld_median},
                 {"kld_p99", d.kld_p99},
                 {"kld_p999", d.kld_p999},
                 {"kld_max", d.kld_max},
                 {"top1_agreement", d.top1_agreement},
                 {"top1_stderr", d.top1_stderr},
                 {"rms_delta_p", d.rms_delta_p}});
  return object;
}

std::string to_text(const EvalReport& report, const Options& options, const std::string& recipe) {
  std::string text = fmt::format(
      "recipe         {}\nprotocol       {}, windows of {} tokens\nscored tokens  {}\nperplexity   "
      "  {:.4f} +- {:.4f}\n",
      recipe, options.protocol, options.n_ctx, report.n_scored, report.perplexity,
      report.perplexity_stderr);
  if (!report.divergence) return text;
  const Divergence& d = *report.divergence;
  return text + fmt::format(
                    "reference      {:.4f}\n"
                    "KL divergence  mean {:.5f} +- {:.5f}, median {:.5f}, 99 % {:.5f}, 99.9 % "
                    "{:.5f}, max {:.4f}\n"
                    "same top token {:.2f} % +- {:.2f}\n"
                    "delta p        RMS {:.3f} %\n",
                    d.reference_perplexity, d.kld_mean, d.kld_stderr, d.kld_median, d.kld_p99,
                    d.kld_p999, d.kld_max, 100 * d.top1_agreement, 100 * d.top1_stderr,
                    100 * d.rms_delta_p);
}

Exit run(const Options& options) {
  auto recipe = parse_recipe(options.model.recipe);
  if (!recipe) return refuse(recipe.error());
  const auto protocol = protocol_named(options.protocol);
  if (!protocol) return refuse(protocol.error());
  if (options.max_kld && options.reference.empty()) {
    return refuse(Error("--max-kld compares with a reference; name one with --reference"));
  }
  if (options.text.empty() == options.tasks.empty())
    return refuse(Error("name what to read: --text FILE or --tasks FILE"));
  if (!options.tasks.empty() && (options.max_kld || !options.sweep.empty()))
    return refuse(Error("--max-kld and --sweep read a --text, not --tasks"));
  auto text = read_text(options.tasks.empty() ? options.text : options.tasks);
  if (!text) return fail(text.error());
  if (!options.tasks.empty()) {
    return run_tasks({.model = options.model,
                      .items = options.tasks,
                      .reference = options.reference,
                      .samples = options.samples,
                      .json = options.json},
                     *recipe, *text);
  }
  if (!options.sweep.empty()) {
    const std::string output = options.output.empty()
                                   ? std::filesystem::path(options.sweep).stem().string()
                                   : options.output;
    return run_sweep({.model = options.model,
                      .list = options.sweep,
                      .output = output,
                      .reference = options.reference,
                      .text_path = options.text,
                      .text = *std::move(text),
                      .calibration = options.calibration,
                      .eval = {.protocol = *protocol,
                               .n_ctx = options.n_ctx,
                               .max_windows = options.max_windows},
                      .json = options.json});
  }
  watch_interrupts();
  const auto pool = make_pool(options.model);
  auto model = load_model(options.model.model, *recipe, *pool, options.model.verbose,
                          options.model.pack_cache);
  if (!model) return fail(model.error());
  std::unique_ptr<LoadedModel> reference;
  if (!options.reference.empty()) {
    // The cache is the model's: of the same file the reference would write another one each time.
    constexpr bool pack_cache = false;
    auto loaded =
        load_model(options.reference, exact_recipe(), *pool, options.model.verbose, pack_cache);
    if (!loaded) return fail(loaded.error());
    reference = std::move(*loaded);
  }
  EvalOptions eval_options{
      .protocol = *protocol, .n_ctx = options.n_ctx, .max_windows = options.max_windows};
  Result<EvalReport> report = [&] {
    Progress progress("evaluating");
    eval_options.progress = [&](std::int64_t n_done, std::int64_t n_total) {
      return progress(n_done, n_total);
    };
    return evaluate(**model, reference.get(), *text, *pool, eval_options);
  }();
  if (!report) return fail(Error(report.error()).in(options.text));
  const std::string used = recipe_in_use(**model);
  const Exit printed = print_result(options.json ? to_json(*report, options, used).dump() + "\n"
                                                 : to_text(*report, options, used));
  if (printed != Exit::ok) return printed;
  if (options.max_kld && !(report->divergence->kld_mean <= *options.max_kld)) {
    (void)fail(Error(fmt::format("the KL divergence {:.5f} is above --max-kld {}",
                                 report->divergence->kld_mean, *options.max_kld)));
    return Exit::gate;
  }
  return Exit::ok;
}

}  // namespace

void add_eval(CLI::App& parser, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      parser.add_subcommand("eval", "Perplexity of a text, KL divergence to a reference, answers");
  add_model_option(*command, options->model);
  constexpr std::int64_t least_ctx = 4, most_ctx = std::int64_t{1} << 24;
  command->add_option("--text", options->text, "the text to read");
  command->add_option(
      "--tasks", options->tasks,
      "multiple-choice items instead of a text, a line each: {\"context\": \"...\", "
      "\"choices\": [\" a\", \" b\"], \"answer\": 0, \"task\": \"name\"}; says the "
      "share that the model gets right by log-likelihood, as lm-eval does (acc; "
      "acc_norm: per character)");
  command->add_option("--samples", options->samples,
                      "also write what was chosen, item by item, into this file");
  command->add_option("--reference", options->reference,
                      "the model to compare with; it runs a=f32,kv=f32");
  command->add_option("-c,--ctx,--ctx-size", options->n_ctx, "tokens of a window (512)")
      ->check(CLI::Range(least_ctx, most_ctx));
  command->add_option("--windows", options->max_windows, "read only this many windows")
      ->check(CLI::Range(std::int64_t{1}, most_ctx));
  command->add_option("--protocol", options->protocol,
                      "llama (second half of each window is scored) or hf (all of it)");
  command->add_option("--max-kld", options->max_kld,
                      "exit code 3 if the mean KL divergence is above this");
  command->add_option(
      "--sweep", options->sweep,
      "quantize in memory by every recipe of this file, a line each "
      "('RECIPE [--rule ...]', 'LABEL: RECIPE', a model file, '[FAMILY]', # "
      "comments), or of the list 'standard', and compare each with the model; a=f32 "
      "and kv=f32 unless --recipe says otherwise");
  command->add_option("--calibration", options->calibration.path,
                      "text for the methods of a sweep that need it or are better with it");
  command
      ->add_option("--calibration-windows", options->calibration.n_windows,
                   "windows of 512 tokens to take from it (128)")
      ->check(CLI::Range(std::int64_t{1}, most_ctx));
  command->add_option("-o,--output", options->output,
                      "PREFIX.csv, PREFIX.md and PREFIX.svg of a sweep (by default its name); "
                      "recipes that are in PREFIX.csv are not measured again");
  command->add_flag("--json", options->json, "one JSON object on stdout");
  add_recipe_option(*command, options->model);
  add_pack_cache_option(*command, options->model);
  add_thread_option(*command, options->model);
  command->footer(
      "Examples:\n"
      "  lowbit eval -m model.gguf --text book.txt\n"
      "  lowbit eval -m model-q4_0.gguf --reference model-f16.gguf --text book.txt --max-kld 0.05\n"
      "  lowbit eval -m model-f16.gguf --recipe w=rtn:int4.g128,a=f32 --reference model-f16.gguf "
      "--text book.txt\n"
      "  lowbit eval -m model-f16.gguf --text book.txt --sweep recipes.txt -o quality\n"
      "  lowbit eval -m model-q4_0.gguf --tasks items.jsonl --reference model-f16.gguf");
  command->callback([options, &context] { context.exit = run(*options); });
}

}  // namespace lowbit::app
