// SPDX-License-Identifier: Apache-2.0
// lowbit quantize and lowbit convert: a model into other schemes, or the same numbers into another
// container.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <array>
#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>

#include "lowbit/app/command.h"
#include "lowbit/app/interrupt.h"
#include "lowbit/app/mix_options.h"
#include "lowbit/app/model_options.h"
#include "lowbit/app/terminal.h"
#include "lowbit/compress/imatrix_statistics.h"
#include "lowbit/compress/quantize.h"

namespace lowbit::app {
namespace {

using nlohmann::ordered_json;

struct CalibrationWords {
  CalibrationText text;
  std::string memory = "2GiB";
};

struct Options {
  ModelOptions model;
  std::string scheme, recipe, fallback, output, convention, imatrix;
  std::vector<std::string> rules;
  CalibrationWords calibration;
  MixWords mix;
  bool json = false, skip_self_test = false;
};

/// "2GiB", "800MB", "1500000000".
Result<std::int64_t> parse_bytes(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, double>, 7> units{{{"GiB", 0x1p30},
                                                                      {"MiB", 0x1p20},
                                                                      {"KiB", 0x1p10},
                                                                      {"GB", 1e9},
                                                                      {"MB", 1e6},
                                                                      {"kB", 1e3},
                                                                      {"", 1}}};
  for (const auto& [unit, n_bytes] : units) {
    if (!text.ends_with(unit)) continue;
    const std::string_view digits = text.substr(0, text.size() - unit.size());
    double number = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    constexpr double most_bytes = 1e18;
    if (error == std::errc() && end == digits.data() + digits.size() && number > 0 &&
        number * n_bytes < most_bytes) {
      return static_cast<std::int64_t>(number * n_bytes);
    }
    break;
  }
  return Error(fmt::format("\"{}\" is no amount of memory; write 2GiB or 800MB", text));
}

Status parse_calibration(const CalibrationWords& words, QuantizeOptions& parsed) {
  const auto memory = parse_bytes(words.memory);
  if (!memory) return Error(memory.error()).in("--memory");
  parsed.memory_bytes = *memory;
  if (!words.text.path.empty()) parsed.calibration = words.text;
  return ok();
}

Result<QuantizeOptions> parse(const Options& options, bool is_convert) {
  QuantizeOptions parsed;
  parsed.output = options.output;
  if (is_convert) return parsed;
  if (!options.mix.are_given() && options.scheme.empty() == options.recipe.empty() &&
      (!options.scheme.empty() || options.rules.empty())) {
    return Error(
        "say what to make of the weights: a scheme (int4.g32), --recipe METHOD:SCHEME, or --rule");
  }
  const std::string& text = options.recipe.empty() ? options.scheme : options.recipe;
  if (options.mix.are_given()) {
    if (Status checked = check_words(options.mix); !checked) return std::move(checked).error();
    const auto candidates = candidates_of(options.mix, options.output);
    if (!candidates) return Error(candidates.error());
    auto method = parse_method(text, candidates->front());
    if (!method) return std::move(method).error();
    parsed.recipe = *method;
  } else if (options.mix.dry_run) {
    return Error(
        "--dry-run shows what --target-bpw, --target-size or --max-kld choose; give one of them");
  } else if (!text.empty()) {
    auto recipe = parse_tensor_recipe(text.starts_with("w=") ? text.substr(2) : text);
    if (!recipe) return std::move(recipe).error();
    parsed.recipe = *recipe;
  }
  for (const std::string& rule_text : options.rules) {
    auto rule = parse_rule(rule_text);
    if (!rule) return std::move(rule).error();
    parsed.rules.push_back(*rule);
  }
  if (Status status = parse_calibration(options.calibration, parsed); !status) {
    return std::move(status).error();
  }
  if (!options.fallback.empty()) {
    auto fallback = parse_fallback(options.fallback);
    if (!fallback) return std::move(fallback).error();
    parsed.fallback = *fallback;
  }
  if (!options.imatrix.empty() && !options.calibration.text.path.empty()) {
    return Error("--imatrix and --calibration both say what the inputs are; give one of them");
  }
  if (!options.convention.empty()) {
    auto convention = parse_convention(options.convention);
    if (!convention) return std::move(convention).error();
    parsed.convention = *convention;
  }
  return parsed;
}

/// --imatrix: what it does not know is said, because those matrices are rounded blindly.
Status read_known_inputs(const Options& options, const ModelFile& source,
                         QuantizeOptions& request) {
  if (options.imatrix.empty()) return ok();
  auto imatrix = read_imatrix(options.imatrix);
  if (!imatrix) return std::move(imatrix).error();
  auto known = statistics_of(*imatrix, source);
  if (!known) return std::move(known).error().in(options.imatrix);
  for (const std::string& name : known->missing) {
    spdlog::warn("{} does not know {}; it is rounded as if its inputs were all alike",
                 options.imatrix, name);
  }
  request.statistics = std::move(known->statistics);
  return ok();
}

ordered_json to_json(const QuantizeReport& report, const std::optional<SelfTest>& test) {
  ordered_json fallbacks = ordered_json::array();
  for (const Fallback& fallback : report.fallbacks) {
    fallbacks.push_back({{"tensor", fallback.tensor},
                         {"wanted", fallback.wanted},
                         {"used", fallback.used},
                         {"reason", fallback.reason}});
  }
  ordered_json notes = ordered_json::array();
  for (const auto& [tensor, text] : report.notes) {
    notes.push_back({{"tensor", tensor}, {"text", text}});
  }
  ordered_json object = {{"output", report.output},
                         {"bytes", report.n_bytes},
                         {"bits_per_weight", report.bits_per_weight},
                         {"seconds", report.seconds},
                         {"peak_bytes", report.peak_bytes},
                         {"fallbacks", std::move(fallbacks)},
                         {"notes", std::move(notes)},
                         {"calibration", nullptr},
                         {"self_test", nullptr}};
  if (report.calibration) {
    const PipelineReport& run = *report.calibration;
    object["calibration"] = {{"windows", report.n_calibration_windows},
                             {"resumed_blocks", run.n_resumed_blocks},
                             {"inputs", run.n_inputs},
                             {"outliers", run.n_outliers},
                             {"forward_seconds", run.forward_seconds},
                             {"statistics_seconds", run.statistics_seconds},
                             {"rounding_seconds", run.rounding_seconds}};
  }
  if (test)
    object["self_test"] = {{"kld_mean", test->kld_mean}, {"top1_agreement", test->top1_agreement}};
  return object;
}

std::string to_text(const QuantizeReport& report, const std::optional<SelfTest>& test) {
  constexpr double bytes_per_mb = 1e6;
  std::string text = fmt::format(
      "{}: {:.1f} MB, {:.3f} bits per weight, {} at most {:.0f} MB of memory\n", report.output,
      static_cast<double>(report.n_bytes) / bytes_per_mb, report.bits_per_weight,
      duration_text(report.seconds) + ",", static_cast<double>(report.peak_bytes) / bytes_per_mb);
  if (test) {
    text += fmt::format(
        "self-test: KL divergence to the source {:.5f}, same most likely token {:.1f} % ({} "
        "positions)\n",
        test->kld_mean, 100 * test->top1_agreement, test->n_scored);
  }
  return text;
}

/// What people should know of a calibrated run.
void tell(const QuantizeReport& report, std::int64_t n_windows_wanted, bool verbose) {
  const PipelineReport& run = *report.calibration;
  if (report.n_calibration_windows < n_windows_wanted) {
    spdlog::warn("the calibration text gives only {} windows", report.n_calibration_windows);
  }
  if (run.n_resumed_blocks > 0) {
    spdlog::info("went on after {} blocks of an earlier run", run.n_resumed_blocks);
  }
  if (verbose) {
    spdlog::info("calibration: forward {:.1f} s, statistics {:.1f} s, rounding {:.1f} s",
                 run.forward_seconds, run.statistics_seconds, run.rounding_seconds);
    if (run.n_inputs > 0) {
      spdlog::info("{:.4f} % of the inputs of matrices are outliers, |x| >= {}",
                   100 * static_cast<double>(run.n_outliers) / static_cast<double>(run.n_inputs),
                   outlier_threshold);
    }
  }
}

Exit run(const Options& options, bool is_convert) {
  auto request = parse(options, is_convert);
  if (!request) return refuse(request.error());
  auto source = ModelFile::open(options.model.model);
  if (!source) return fail(source.error());
  if (Status status = read_known_inputs(options, *source, *request); !status) {
    return refuse(status.error());
  }
  if (request->convention.compressed_tensors) add_plain_ends(*source, request->rules);
  const auto pool = make_pool(options.model);
  watch_interrupts();
  std::optional<Mix> mix;
  if (options.mix.are_given()) {
    const auto candidates = candidates_of(options.mix, options.output);
    auto chosen =
        choose_by_words(*source, options.mix, *candidates, *request->recipe, request->rules,
                        options.output, options.calibration.text.path, *pool);
    if (!chosen) return fail(chosen.error());
    mix = *std::move(chosen);
    request->rules = mix->rules;
    if (options.mix.dry_run)
      return print_result(options.json ? mix_json(*mix).dump() + "\n" : mix_text(*mix));
  }
  Result<QuantizeReport> report = [&] {
    Progress progress(is_convert ? "converting" : "quantizing");
    request->progress = [&](std::string_view tensor, std::int64_t n_done, std::int64_t n_total) {
      return progress(n_done, n_total, tensor);
    };
    return quantize_model(*source, *request, *pool);
  }();
  if (!report) return fail(report.error());
  for (const Fallback& fallback : report->fallbacks) {
    spdlog::warn("{}: {} instead of {}: {}", fallback.tensor, fallback.used, fallback.wanted,
                 fallback.reason);
  }
  for (const auto& [tensor, text] : report->notes) spdlog::warn("{}: {}", tensor, text);
  if (report->calibration) tell(*report, request->calibration->n_windows, options.model.verbose);
  std::optional<SelfTest> test;
  if (!options.skip_self_test) {
    std::string skipped;
    Progress progress("self-test");
    auto tested = self_test(
        *source, options.output, *pool, skipped,
        [&](std::int64_t n_done, std::int64_t n_total) { return progress(n_done, n_total); });
    if (!tested) return fail(tested.error());
    test = *tested;
    if (!test) spdlog::warn("{}", skipped);
  }
  if (options.json) {
    ordered_json object = to_json(*report, test);
    if (mix) object["mix"] = mix_json(*mix);
    return print_result(object.dump() + "\n");
  }
  return print_result((mix ? mix_text(*mix) : std::string()) + to_text(*report, test));
}

void add(CLI::App& command, Context& context, bool is_convert) {
  auto options = std::make_shared<Options>();
  if (is_convert) {
    add_model_option(command, options->model);
  } else {
    command.add_option("-m,--model", options->model.model, "a .gguf file or a model folder")
        ->required();
    command.add_option("scheme", options->scheme,
                       "scheme of the weights, such as int4.g32 (see lowbit formats), or a mix "
                       "of llama.cpp, such as Q4_K_M");
    command.add_option("--recipe", options->recipe, "[TRANSFORM+]...[METHOD:]SCHEME, see below");
    command
        .add_option("--rule", options->rules,
                    "PATTERN=RECIPE or PATTERN=keep for tensors whose name matches; the first "
                    "match decides")
        ->take_all();
    CalibrationWords& calibration = options->calibration;
    command.add_option("--calibration", calibration.text.path,
                       "text for methods that need data (scripts/fetch --calibration makes one); "
                       "other methods weigh their errors by it");
    constexpr std::int64_t most_windows = 1 << 20, least_ctx = 8, most_ctx = 1 << 20;
    command
        .add_option("--calibration-windows", calibration.text.n_windows,
                    "pieces of it that are read, spread over the text")
        ->check(CLI::Range(std::int64_t{1}, most_windows))
        ->capture_default_str();
    command.add_option("--calibration-ctx", calibration.text.n_ctx, "tokens of a piece")
        ->check(CLI::Range(least_ctx, most_ctx))
        ->capture_default_str();
    command
        .add_option("--memory", calibration.memory,
                    "what calibration may take, the model's mapped file aside; hidden states are "
                    "in OUTPUT.work/")
        ->capture_default_str();
    command.add_option("--imatrix", options->imatrix,
                       "importance matrix of llama.cpp (.gguf or .dat) for methods that weigh "
                       "errors by the inputs");
    command.add_option("--convention", options->convention,
                       "of a folder: lowbit (default), or compressed-tensors[,a=int8.token], which "
                       "transformers and vLLM load");
    add_mix_options(command, options->mix);
    command.add_option("--fallback", options->fallback,
                       "scheme for tensors that the wanted one does not fit, or llama: what "
                       "llama.cpp takes there");
  }
  command.add_option("-o,--output", options->output, "X.gguf, or DIR/ for a safetensors folder")
      ->required();
  command.add_flag("--no-self-test", options->skip_self_test,
                   "do not load and compare what was written");
  command.add_flag("--json", options->json, "one JSON object on stdout");
  add_thread_option(command, options->model);
  command.callback([options, is_convert, &context] { context.exit = run(*options, is_convert); });
}

}  // namespace

void add_quantize(CLI::App& parser, Context& context) {
  CLI::App* command =
      parser.add_subcommand("quantize", "Weights into another scheme, checked against the source");
  add(*command, context, /*is_convert=*/false);
  command->footer(
      recipe_help() +
      "\nExamples:\n"
      "  lowbit quantize -m model.gguf q4_0 -o model-q4_0.gguf\n"
      "  lowbit quantize -m model.gguf Q4_K_M -o model-q4_k_m.gguf\n"
      "  lowbit quantize -m model/ --recipe rtn:int4.g128 --rule '*embed_tokens*=q8_0' -o "
      "model-int4/\n"
      "  lowbit quantize -m model.gguf Q3_K_M --imatrix model.imatrix.gguf -o model-q3.gguf\n"
      "  lowbit quantize -m model/ int4.g128 --convention compressed-tensors -o model-w4a16/\n"
      "  lowbit quantize -m model.gguf q4_k --fallback q5_0 -o model-q4_k.gguf\n"
      "  lowbit quantize -m model/ --recipe gptq:int4.g128 --calibration text.txt -o model-gptq/");
}

void add_convert(CLI::App& parser, Context& context) {
  CLI::App* command = parser.add_subcommand("convert", "The same numbers in another container");
  add(*command, context, /*is_convert=*/true);
  command->footer(
      "Examples:\n  lowbit convert -m model/ -o model.gguf\n  lowbit convert -m model.gguf -o "
      "model/");
}

}  // namespace lowbit::app
