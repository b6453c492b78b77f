// SPDX-License-Identifier: Apache-2.0
// lowbit sensitivity: what every scheme would cost in every matrix, and how well that predicts what
// mixed models lose.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "lowbit/app/command.h"
#include "lowbit/app/interrupt.h"
#include "lowbit/app/mix_options.h"
#include "lowbit/app/model_options.h"
#include "lowbit/app/terminal.h"
#include "lowbit/compress/mix_trials.h"

namespace lowbit::app {
namespace {

using nlohmann::ordered_json;

struct Options {
  ModelOptions model;
  std::string calibration, candidates = "int3.g64,int4.g64,int5.g64,int6.g64,int8.g128";
  std::vector<std::string> estimators = {"probe"};
  std::int64_t n_mixes = 0;
  double bits_per_weight = 4;
  bool json = false;
};

struct Answer {
  std::vector<Scheme> candidates;
  std::vector<Estimator> estimators;
  std::vector<std::vector<GroupSensitivity>> estimates;  // by each estimator
  std::vector<MixTrial> trials;
};

std::vector<double> predicted_by(const Answer& answer, std::size_t estimator) {
  std::vector<double> values;
  for (const MixTrial& trial : answer.trials) values.push_back(trial.predicted[estimator]);
  return values;
}

std::vector<double> measured_of(const Answer& answer) {
  std::vector<double> values;
  for (const MixTrial& trial : answer.trials) values.push_back(trial.measured);
  return values;
}

ordered_json to_json(const Answer& answer) {
  ordered_json object = {{"candidates", ordered_json::array()},
                         {"estimators", ordered_json::array()}};
  for (const Scheme& scheme : answer.candidates) object["candidates"].push_back(to_string(scheme));
  for (std::size_t e = 0; e < answer.estimators.size(); ++e) {
    ordered_json groups = ordered_json::array();
    for (const GroupSensitivity& entry : answer.estimates[e]) {
      ordered_json losses = ordered_json::array();
      for (const double loss : entry.losses)
        losses.push_back(std::isfinite(loss) ? ordered_json(loss) : nullptr);
      groups.push_back({{"matrices", entry.group.name},
                        {"weights", entry.group.n_weights()},
                        {"losses", std::move(losses)}});
    }
    ordered_json estimator = {{"name", name_of(answer.estimators[e])}, {"groups", groups}};
    if (!answer.trials.empty()) {
      const auto predicted = predicted_by(answer, e), measured = measured_of(answer);
      estimator["spearman"] = rank_correlation(predicted, measured);
      estimator["pearson"] = correlation(predicted, measured);
      estimator["predicted"] = predicted;
    }
    object["estimators"].push_back(std::move(estimator));
  }
  if (!answer.trials.empty()) object["measured"] = measured_of(answer);
  return object;
}

std::string to_text(const Answer& answer) {
  std::string text;
  for (std::size_t e = 0; e < answer.estimators.size(); ++e) {
    const auto& groups = answer.estimates[e];
    std::size_t width = 0;
    for (const GroupSensitivity& entry : groups) width = std::max(width, entry.group.name.size());
    text += fmt::format("{:<{}}", name_of(answer.estimators[e]), width);
    for (const Scheme& scheme : answer.candidates)
      text += fmt::format("  {:>10}", to_string(scheme));
    text += '\n';
    for (const GroupSensitivity& entry : groups) {
      text += fmt::format("{:<{}}", entry.group.name, width);
      for (const double loss : entry.losses) text += fmt::format("  {:>10.3g}", loss);
      text += '\n';
    }
  }
  if (answer.trials.empty()) return text;
  text += fmt::format("\n{} mixes: agreement of prediction and measured KL divergence\n",
                      answer.trials.size());
  for (std::size_t e = 0; e < answer.estimators.size(); ++e) {
    const auto predicted = predicted_by(answer, e), measured = measured_of(answer);
    text +=
        fmt::format("{:<10} Spearman {:>6.3f}, Pearson {:>6.3f}\n", name_of(answer.estimators[e]),
                    rank_correlation(predicted, measured), correlation(predicted, measured));
  }
  return text;
}

Exit run(const Options& options) {
  Answer answer;
  auto candidates = parse_candidates(options.candidates);
  if (!candidates) return refuse(candidates.error());
  answer.candidates = *std::move(candidates);
  for (const std::string& name : options.estimators) {
    const auto estimator = estimator_named(name);
    if (!estimator) return refuse(estimator.error());
    answer.estimators.push_back(*estimator);
  }
  auto file = ModelFile::open(options.model.model);
  if (!file) return fail(file.error());
  const auto pool = make_pool(options.model);
  watch_interrupts();
  auto calibration = read_windows(*file, options.calibration);
  if (!calibration) return fail(calibration.error());
  if (Status added = add_statistics(*file, *calibration, *pool); !added) return fail(added.error());
  for (const Estimator estimator : answer.estimators) {
    Progress progress(std::string(name_of(estimator)));
    auto estimate = measure_sensitivity(
        *file,
        {.candidates = answer.candidates,
         .estimator = estimator,
         .stats = &calibration->stats,
         .windows = calibration->windows,
         .progress = [&](std::int64_t done, std::int64_t total) { return progress(done, total); }},
        *pool);
    if (!estimate) return fail(estimate.error());
    answer.estimates.push_back(*std::move(estimate));
  }
  if (options.n_mixes > 0) {
    Progress progress("trying mixes");
    auto trials = try_mixes(
        *file, answer.candidates, answer.estimates,
        {.n_mixes = options.n_mixes,
         .bits_per_weight = options.bits_per_weight,
         .stats = &calibration->stats,
         .windows = calibration->windows,
         .progress = [&](std::int64_t done, std::int64_t total) { return progress(done, total); }},
        *pool);
    if (!trials) return fail(trials.error());
    answer.trials = *std::move(trials);
  }
  return print_result(options.json ? to_json(answer).dump() + "\n" : to_text(answer));
}

}  // namespace

void add_sensitivity(CLI::App& parser, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = parser.add_subcommand(
      "sensitivity", "What every scheme would cost in every matrix, as --target-bpw sees it");
  add_model_option(*command, options->model);
  command->add_option("--candidates", options->candidates, "schemes, such as 'int3.g64,int4.g64'");
  command
      ->add_option("--estimator", options->estimators,
                   "what predicts the loss: error, relative, probe, measured; may be repeated")
      ->take_all();
  command->add_option("--calibration", options->calibration,
                      "text to measure with (default: one that is part of the program)");
  constexpr std::int64_t most_mixes = 1000;
  command
      ->add_option("--mixes", options->n_mixes,
                   "round this many random mixes and compare what was predicted of them")
      ->check(CLI::Range(std::int64_t{0}, most_mixes));
  command->add_option("--bpw", options->bits_per_weight, "size of those mixes (4)");
  command->add_flag("--json", options->json, "one JSON object on stdout");
  add_thread_option(*command, options->model);
  command->footer(
      "Examples:\n"
      "  lowbit sensitivity -m model.gguf\n"
      "  lowbit sensitivity -m model.gguf --estimator relative --estimator probe --mixes 20");
  command->callback([options, &context] { context.exit = run(*options); });
}

}  // namespace lowbit::app
