// SPDX-License-Identifier: Apache-2.0
// Points that are in the table already are not measured again, and the table is written after each
// one, so that an interrupted sweep goes on where it stopped. The logits of the teacher are kept
// where memory allows; otherwise it runs again beside every point.
#include "lowbit/app/sweep.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "lowbit/app/interrupt.h"
#include "lowbit/app/mix_options.h"
#include "lowbit/app/terminal.h"
#include "lowbit/base/text_file.h"
#include "lowbit/compress/calibration_text.h"
#include "lowbit/compress/quantize_in_memory.h"
#include "lowbit/io/layout.h"
#include "lowbit/measure/sweep.h"

namespace lowbit::app {
namespace {

using nlohmann::ordered_json;

/// What a line of the list asks for.
struct Request {
  SweepLine line;
  Recipe run;  // a= and kv=
  std::optional<TensorRecipe> recipe;
  std::vector<Rule> rules;
  FallbackChoice fallback;
  MixWords mix;          // schemes that are chosen instead of named
  bool is_file = false;  // the line is a model that somebody else made
};

/// A recipe made into a model that can run.
struct Made {
  std::unique_ptr<LoadedModel> model;
  double bits_per_weight = 0, seconds = 0;
  std::string note;
};

bool is_model_path(std::string_view word) {
  return word.ends_with(".gguf") || word.find('/') != word.npos;
}

/// The weights of "w=X,a=Y" as a recipe, the rest into `run`.
Result<TensorRecipe> recipe_of(const std::string& word, Recipe& run) {
  std::string weights;
  std::istringstream parts(word);
  for (std::string part; std::getline(parts, part, ',');) {
    if (part.starts_with("a=") || part.starts_with("kv=")) {
      auto rest = parse_recipe(part);
      if (!rest) return std::move(rest).error();
      if (part.starts_with("a=")) run.activations = rest->activations;
      if (part.starts_with("kv=")) run.kv = rest->kv;
    } else {
      weights += (weights.empty() ? "" : ",") + part;
    }
  }
  return parse_tensor_recipe(weights.starts_with("w=") ? weights.substr(2) : weights);
}

/// A word's value, the next word.
Result<std::string> value_of(const std::string& option, std::istringstream& words) {
  std::string value;
  if (!(words >> value)) return Error(fmt::format("{} has no value", option));
  return value;
}

/// Where the mix would be written: containers differ in what they can hold. --candidates gguf and
/// --candidates folder stand for what is tried there where nobody names others.
std::string place_of(const MixWords& mix) {
  const std::string gguf = "sweep.gguf", folder = "sweep/";
  if (mix.candidates.empty() || mix.candidates == "gguf") return gguf;
  if (mix.candidates == "folder") return folder;
  const auto candidates = parse_candidates(mix.candidates);
  const bool is_gguf = candidates && std::ranges::all_of(*candidates, [](const Scheme& scheme) {
                         return gguf_bits_per_weight(scheme).has_value();
                       });
  return is_gguf ? gguf : folder;
}

/// The words with the names of containers taken for the schemes they stand for.
MixWords spelled_out(MixWords mix) {
  if (mix.candidates == "gguf" || mix.candidates == "folder") mix.candidates.clear();
  return mix;
}

Status read_option(const std::string& word, std::istringstream& words, Request& request) {
  const std::pair<const char*, std::string*> mix_options[] = {
      {"--target-bpw", &request.mix.target_bpw},
      {"--target-size", &request.mix.target_size},
      {"--max-kld", &request.mix.max_kld},
      {"--candidates", &request.mix.candidates},
      {"--estimator", &request.mix.estimator}};
  const auto* mix_option =
      std::ranges::find(mix_options, word, &std::pair<const char*, std::string*>::first);
  const bool is_mix = mix_option != std::end(mix_options);
  if (!is_mix && word != "--rule" && word != "--fallback")
    return Error(fmt::format("{} is no option of a recipe in a sweep", word));
  auto value = value_of(word, words);
  if (!value) return std::move(value).error();
  if (is_mix) {
    *mix_option->second = *value;
  } else if (word == "--rule") {
    auto rule = parse_rule(*value);
    if (!rule) return std::move(rule).error();
    request.rules.push_back(*std::move(rule));
  } else {
    auto fallback = parse_fallback(*value);
    if (!fallback) return std::move(fallback).error();
    request.fallback = *std::move(fallback);
  }
  return ok();
}

Result<Request> request_of(const SweepLine& line, const Recipe& run) {
  Request request{.line = line, .run = run, .recipe = {}, .rules = {}, .fallback = {}, .mix = {}};
  std::istringstream words(line.text);
  std::string word, recipe_word;
  words >> word;
  request.is_file = is_model_path(word);
  if (request.is_file) {
    std::string more;
    if (words >> more) return Error(fmt::format("a model file has no options: {}", more));
    return request;
  }
  if (!word.starts_with("--")) {
    recipe_word = word;
    words >> word;
  }
  for (; words; words >> word) {
    if (Status status = read_option(word, words, request); !status)
      return std::move(status).error();
  }
  if (request.mix.are_given()) {
    if (Status status = check_words(request.mix); !status) return std::move(status).error();
    const auto candidates = candidates_of(spelled_out(request.mix), place_of(request.mix));
    if (!candidates) return Error(candidates.error());
    auto method = parse_method(recipe_word, candidates->front());
    if (!method) return std::move(method).error();
    request.recipe = *std::move(method);
    return request;
  }
  auto recipe = recipe_of(recipe_word, request.run);
  if (!recipe) return std::move(recipe).error();
  request.recipe = *std::move(recipe);
  return request;
}

Result<Made> make(const ModelFile& source, const Request& request,
                  const CalibrationWindows* windows, const std::string& calibration,
                  ThreadPool& pool) {
  Made made;
  if (request.is_file) {
    auto file = ModelFile::open(request.line.text);
    if (!file) return std::move(file).error();
    auto model = LoadedModel::load(*file, request.run, pool, LoadOptions());
    if (!model) return std::move(model).error();
    made.bits_per_weight = file->bits_per_weight();
    made.model = *std::move(model);
    return made;
  }
  QuantizeOptions options;
  options.recipe = request.recipe;
  options.rules = request.rules;
  options.fallback = request.fallback;
  if (request.mix.are_given()) {
    const auto candidates = candidates_of(spelled_out(request.mix), place_of(request.mix));
    if (!candidates) return Error(candidates.error());
    auto mix = choose_by_words(source, spelled_out(request.mix), *candidates, *request.recipe,
                               request.rules, place_of(request.mix), calibration, pool);
    if (!mix) return std::move(mix).error();
    options.rules = mix->rules;
  }
  auto quantized = [&] {
    Progress progress(fmt::format("quantizing {}", request.line.label));
    options.progress = [&](std::string_view what, std::int64_t n_done, std::int64_t n_total) {
      return progress(n_done, n_total, what);
    };
    return quantize_in_memory(source, options, windows, pool);
  }();
  if (!quantized) return std::move(quantized).error();
  auto model = LoadedModel::load(*quantized->tensors, request.run, pool, LoadOptions());
  if (!model) return std::move(model).error();
  made.model = *std::move(model);
  made.bits_per_weight = quantized->bits_per_weight;
  made.seconds = quantized->seconds;
  made.note = fmt::format("{}", fmt::join(quantized->notes, "; "));
  return made;
}

/// The model that all points are compared with, or what it said.
class Judge {
 public:
  static Result<Judge> create(const SweepOptions& options, ThreadPool& pool) {
    Judge judge;
    const std::string& path = options.reference.empty() ? options.model.model : options.reference;
    auto teacher = load_model(path, exact_recipe(), pool, options.model.verbose);
    if (!teacher) return std::move(teacher).error();
    judge.teacher_ = *std::move(teacher);
    const ModelConfig& config = judge.teacher_->weights().config;
    auto windows = cut_windows(judge.teacher_->tokenizer(), config, options.text, options.eval);
    if (!windows) return std::move(windows).error().in(options.text_path);
    judge.windows_ = *std::move(windows);
    constexpr std::int64_t most_bytes = std::int64_t{2} << 30;  // beyond, the teacher runs again
    if (KeptLogits::n_bytes(judge.windows_, config) > most_bytes) return judge;
    Progress progress("reading the text with the source");
    auto kept = keep_logits(
        *judge.teacher_, judge.windows_,
        [&](std::int64_t n_done, std::int64_t n_total) { return progress(n_done, n_total); });
    if (!kept) return std::move(kept).error();
    judge.kept_ = *std::move(kept);
    judge.teacher_.reset();
    return judge;
  }

  Result<EvalReport> operator()(LoadedModel& model, ThreadPool& pool,
                                const EvalProgress& progress) const {
    if (kept_) return evaluate(model, *kept_, windows_, pool, progress);
    return evaluate(model, teacher_.get(), windows_, pool, progress);
  }

 private:
  std::unique_ptr<LoadedModel> teacher_;
  std::optional<KeptLogits> kept_;
  EvalWindows windows_;
};

Result<SweepPoint> measure(const ModelFile& source, const Request& request, const Judge& judge,
                           const CalibrationWindows* windows, const std::string& calibration,
                           ThreadPool& pool) {
  auto made = make(source, request, windows, calibration, pool);
  if (!made) return std::move(made).error();
  Progress progress(fmt::format("evaluating {}", request.line.label));
  auto report = judge(*made->model, pool, [&](std::int64_t n_done, std::int64_t n_total) {
    return progress(n_done, n_total);
  });
  if (!report) return std::move(report).error();
  const Divergence& d = *report->divergence;
  return SweepPoint{.family = request.line.family,
                    .label = request.line.label,
                    .text = request.line.text,
                    .bits_per_weight = made->bits_per_weight,
                    .kld_mean = d.kld_mean,
                    .kld_stderr = d.kld_stderr,
                    .kld_median = d.kld_median,
                    .kld_p99 = d.kld_p99,
                    .kld_max = d.kld_max,
                    .top1_agreement = d.top1_agreement,
                    .top1_stderr = d.top1_stderr,
                    .perplexity = report->perplexity,
                    .seconds = made->seconds,
                    .note = made->note};
}

ordered_json to_json(const SweepSetting& setting, const std::vector<SweepPoint>& points) {
  const auto front = pareto_front(points);
  ordered_json rows = ordered_json::array();
  for (std::size_t i = 0; i < points.size(); ++i) {
    const SweepPoint& point = points[i];
    rows.push_back({{"family", point.family},
                    {"label", point.label},
                    {"recipe", point.text},
                    {"bits_per_weight", point.bits_per_weight},
                    {"kld_mean", point.kld_mean},
                    {"kld_stderr", point.kld_stderr},
                    {"kld_median", point.kld_median},
                    {"kld_p99", point.kld_p99},
                    {"kld_max", point.kld_max},
                    {"top1_agreement", point.top1_agreement},
                    {"top1_stderr", point.top1_stderr},
                    {"perplexity", point.perplexity},
                    {"seconds", point.seconds},
                    {"front", static_cast<bool>(front[i])},
                    {"note", point.note}});
  }
  return {{"model", setting.model},
          {"text", setting.text},
          {"protocol", setting.protocol},
          {"points", std::move(rows)}};
}

std::string file_name(const std::string& path) {
  const std::filesystem::path whole(path);
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

SweepSetting setting_of(const SweepOptions& options, const Recipe& run) {
  const std::string& path = options.reference.empty() ? options.model.model : options.reference;
  const EvalOptions& eval = options.eval;
  const std::string amount =
      eval.max_windows > 0 ? fmt::format("at most {} windows", eval.max_windows) : "windows";
  std::string text = fmt::format("{}, {} bytes", file_name(options.text_path), options.text.size());
  if (!options.calibration.path.empty())
    text += fmt::format("; calibrated on {}, {} windows of {}", file_name(options.calibration.path),
                        options.calibration.n_windows, options.calibration.n_ctx);
  return {file_name(path), std::move(text),
          fmt::format("{}, {} of {} tokens, {}", name_of(eval.protocol), amount, eval.n_ctx,
                      to_string(Recipe{{}, run.activations, run.kv}))};
}

Result<std::vector<Request>> requests_of(const SweepOptions& options, const Recipe& run) {
  constexpr std::string_view standard = "standard";
  std::string text(standard_sweep());
  if (options.list != standard) {
    auto list = read_text(options.list);
    if (!list) return std::move(list).error();
    text = *std::move(list);
  }
  auto lines = parse_sweep(text);
  if (!lines) return std::move(lines).error().in(options.list);
  std::vector<Request> requests;
  for (const SweepLine& line : *lines) {
    auto request = request_of(line, run);
    if (!request)
      return std::move(request).error().in(fmt::format("{}, line {}", options.list, line.number));
    requests.push_back(*std::move(request));
  }
  return requests;
}

Result<CalibrationWindows> windows_of(const CalibrationText& text, const ModelFile& source) {
  auto data = source.tokenizer();
  if (!data) return std::move(data).error().in("calibration needs the model's tokenizer");
  const auto tokenizer = Tokenizer::create(*std::move(data));
  if (!tokenizer) return Error(tokenizer.error()).in("tokenizer");
  return read_calibration(text, *tokenizer, source.config());
}

/// The points of an earlier run, if there was one.
Result<std::vector<SweepPoint>> earlier_points(const std::string& path,
                                               const SweepSetting& setting) {
  if (!std::filesystem::exists(path)) return std::vector<SweepPoint>();
  auto csv = read_text(path);
  if (!csv) return std::move(csv).error();
  auto points = read_sweep_csv(*csv, setting);
  if (!points) return std::move(points).error().in(path);
  return points;
}

}  // namespace

Exit run_sweep(const SweepOptions& options) {
  auto run = parse_recipe(options.model.recipe);
  if (!run) return refuse(run.error());
  if (run->weights)
    return refuse(Error("--recipe says how the points run (a=, kv=); weights stand in the list"));
  if (options.model.recipe.empty()) run = exact_recipe();
  auto requests = requests_of(options, *run);
  if (!requests) return refuse(requests.error());
  const SweepSetting setting = setting_of(options, *run);
  auto found = earlier_points(options.output + ".csv", setting);
  if (!found) return fail(found.error());
  watch_interrupts();
  auto source = ModelFile::open(options.model.model);
  if (!source) return fail(source.error());
  std::optional<CalibrationWindows> windows;
  if (!options.calibration.path.empty()) {
    auto read = windows_of(options.calibration, *source);
    if (!read) return fail(read.error());
    windows = *std::move(read);
  }
  const auto pool = make_pool(options.model);
  std::optional<Judge> judge;  // made when the first point asks for it
  std::vector<SweepPoint> points;
  std::size_t n_failed = 0;
  for (std::size_t i = 0; i < requests->size(); ++i) {
    const SweepLine& line = (*requests)[i].line;
    const auto known = std::ranges::find_if(*found, [&](const SweepPoint& point) {
      return point.family == line.family && point.text == line.text;
    });
    if (known != found->end()) {
      points.push_back(*known);
      points.back().label = line.label;
      continue;
    }
    if (!judge) {
      auto created = Judge::create(options, *pool);
      if (!created) return fail(created.error());
      judge = *std::move(created);
    }
    auto point = measure(*source, (*requests)[i], *judge, windows ? &*windows : nullptr,
                         options.calibration.path, *pool);
    if (interrupted()) return fail(Error("interrupted"));
    if (!point) {
      spdlog::error("{} of {}: {}: {}", i + 1, requests->size(), line.label,
                    point.error().message());
      ++n_failed;
      continue;
    }
    spdlog::info("{} of {}: {}: {:.3f} bits per weight, KL divergence {:.5f} ± {:.5f}{}{}", i + 1,
                 requests->size(), line.label, point->bits_per_weight, point->kld_mean,
                 point->kld_stderr, point->note.empty() ? "" : "; ", point->note);
    points.push_back(*std::move(point));
    // Of earlier points whose turn comes later nothing is lost.
    std::vector<SweepPoint> table = points;
    for (const SweepPoint& old : *found) {
      const bool is_there = std::ranges::any_of(points, [&](const SweepPoint& each) {
        return each.family == old.family && each.text == old.text;
      });
      if (!is_there) table.push_back(old);
    }
    if (Status status = write_text(options.output + ".csv", sweep_csv(setting, table)); !status)
      return fail(status.error());
  }
  const std::string table = sweep_markdown(setting, points);
  for (const auto& [suffix, text] :
       {std::pair(".md", table), std::pair(".svg", sweep_svg(setting, points))}) {
    if (Status status = write_text(options.output + suffix, text); !status)
      return fail(status.error());
  }
  const Exit printed = print_result(options.json ? to_json(setting, points).dump() + "\n" : table);
  if (printed != Exit::ok || n_failed == 0) return printed;
  return fail(Error(fmt::format("{} of {} recipes failed", n_failed, requests->size())));
}

}  // namespace lowbit::app
