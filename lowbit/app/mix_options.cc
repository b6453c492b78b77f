// SPDX-License-Identifier: Apache-2.0
#include "lowbit/app/mix_options.h"

#include <fmt/format.h>

#include <spdlog/spdlog.h>

#include <algorithm>

#include "lowbit/app/terminal.h"
#include "lowbit/compress/calibration_text.h"
#include "lowbit/compress/kld_target.h"
#include "lowbit/compress/quantize.h"
#include "lowbit/compress/sensitivity_cache.h"
#include "lowbit/compress/transforms.h"
#include "lowbit/model/tokenizer.h"

namespace lowbit::app {

using nlohmann::ordered_json;

namespace {

Result<CalibrationWindows> windows_of(const ModelFile& file, const std::string& path,
                                      std::int64_t n_windows, std::int64_t n_ctx) {
  auto data = file.tokenizer();
  if (!data) return std::move(data).error();
  auto tokenizer = Tokenizer::create(*std::move(data));
  if (!tokenizer) return std::move(tokenizer).error();
  std::string text(self_test_text());
  if (!path.empty()) {
    auto read = read_calibration_text(path);
    if (!read) return std::move(read).error();
    text = *std::move(read);
  }
  auto windows =
      calibration_windows(text, *tokenizer, n_windows, std::min(n_ctx, file.config().n_ctx_train));
  if (!windows && !path.empty()) return std::move(windows).error().in(path);
  return windows;
}

}  // namespace

Result<Calibration> read_windows(const ModelFile& file, const std::string& path) {
  constexpr std::int64_t n_windows = 4, n_ctx = 128;
  auto windows = windows_of(file, path, n_windows, n_ctx);
  if (!windows) return std::move(windows).error();
  // A second cut of the same text: E[x^2] wants more of it than a probe can afford.
  constexpr std::int64_t n_stats_windows = 8, n_stats_ctx = 256;
  auto for_stats = windows_of(file, path, n_stats_windows, n_stats_ctx);
  if (!for_stats) for_stats = *windows;
  return Calibration{*std::move(windows), *std::move(for_stats), {}};
}

Status add_statistics(const ModelFile& file, Calibration& calibration, ThreadPool& pool) {
  if (!calibration.stats.empty()) return ok();
  const auto source = tensors_of(file, pool);
  Progress progress("reading the calibration text");
  auto stats =
      collect_statistics(*source, calibration.stats_windows, Needs::activations, pool,
                         {.folder = {}, .progress = [&](std::int64_t n_done, std::int64_t n_total) {
                            return progress(n_done, n_total);
                          }});
  if (!stats) return std::move(stats).error();
  calibration.stats = *std::move(stats);
  return ok();
}

void add_mix_options(CLI::App& command, MixWords& words) {
  command.add_option(
      "--target-bpw", words.target_bpw,
      "choose the scheme of every matrix: at most this many bits per weight, such as "
      "4.25");
  command.add_option("--target-size", words.target_size,
                     "the same: at most this many bytes are written, such as 90MB");
  command.add_option("--max-kld", words.max_kld,
                     "the same: the smallest model whose KL divergence to the source, measured on "
                     "calibration text, is at most this");
  command.add_option("--candidates", words.candidates,
                     "schemes to choose from, such as 'q3_k,q4_k,q6_k'");
  command.add_option(
      "--estimator", words.estimator,
      "what predicts the loss of a choice: error, relative, probe (default), measured");
  command.add_flag("--dry-run", words.dry_run, "print what was chosen and write nothing");
}

Result<TensorRecipe> parse_method(std::string_view text, const Scheme& any_scheme) {
  if (text.find(':') != std::string_view::npos || parse_scheme(text)) {
    return Error(
        fmt::format("recipe \"{}\" names a scheme, but --target-bpw, --target-size and --max-kld "
                    "choose it; give a method "
                    "alone, such as --recipe gptq, and schemes by --candidates",
                    text));
  }
  const std::string scheme = to_string(any_scheme);
  return parse_tensor_recipe(text.empty() ? scheme : fmt::format("{}:{}", text, scheme));
}

Result<std::vector<Scheme>> candidates_of(const MixWords& words, const std::string& output) {
  if (!words.candidates.empty()) return parse_candidates(words.candidates);
  const auto container = container_of(output);
  if (!container) return Error(container.error());
  return default_candidates(*container);
}

namespace {

/// Exactly one target.
Status parse_target(const MixWords& words, MixTarget& target, std::optional<double>& max_kld) {
  const int n_given = (words.target_bpw.empty() ? 0 : 1) + (words.target_size.empty() ? 0 : 1) +
                      (words.max_kld.empty() ? 0 : 1);
  if (n_given > 1)
    return Error("--target-bpw, --target-size and --max-kld are three targets; give one");
  if (!words.target_bpw.empty()) {
    const auto wanted = parse_bits_per_weight(words.target_bpw);
    if (!wanted) return Error(wanted.error()).in("--target-bpw");
    target.bits_per_weight = *wanted;
  } else if (!words.target_size.empty()) {
    const auto wanted = parse_size(words.target_size);
    if (!wanted) return Error(wanted.error()).in("--target-size");
    target.n_bytes = *wanted;
  } else {
    const auto wanted = parse_bits_per_weight(words.max_kld);
    if (!wanted) {
      return Error(
          fmt::format("--max-kld: \"{}\" is not a KL divergence, such as 0.02", words.max_kld));
    }
    max_kld = *wanted;
  }
  return ok();
}

/// From the cache beside the model, or measured and kept there.
Result<std::vector<GroupSensitivity>> sensitivities_of(const ModelFile& file,
                                                       SensitivityOptions how,
                                                       Calibration& calibration, ThreadPool& pool) {
  const std::string key = sensitivity_key(file, how, pool);
  if (auto cached = cached_sensitivity(file, key, how.candidates.size())) return *std::move(cached);
  if (Status added = add_statistics(file, calibration, pool); !added)
    return std::move(added).error();
  how.stats = &calibration.stats;
  Progress progress("measuring sensitivity");
  how.progress = [&](std::int64_t n_done, std::int64_t n_total) {
    return progress(n_done, n_total);
  };
  auto measured = measure_sensitivity(file, how, pool);
  if (!measured) return measured;
  if (Status kept = keep_sensitivity(file, key, *measured); !kept)
    spdlog::warn("sensitivities are not kept for the next time: {}", kept.error().message());
  return measured;
}

}  // namespace

Status check_words(const MixWords& words) {
  MixTarget target;
  std::optional<double> max_kld;
  if (Status parsed = parse_target(words, target, max_kld); !parsed) return parsed;
  const auto estimator = estimator_named(words.estimator);
  if (!estimator) return Error(estimator.error());
  if (max_kld && *estimator != Estimator::probe && *estimator != Estimator::measured) {
    return Error(
        fmt::format("--max-kld needs an estimator of KL divergence: probe or measured, "
                    "not {}",
                    words.estimator));
  }
  return ok();
}

Result<Mix> choose_by_words(const ModelFile& file, const MixWords& words,
                            std::span<const Scheme> candidates, const TensorRecipe& base,
                            const std::vector<Rule>& rules, const std::string& output,
                            const std::string& calibration_path, ThreadPool& pool) {
  MixOptions options{.target = {}, .output = output, .rounder = base.rounder, .rules = rules};
  std::optional<double> max_kld;
  if (Status parsed = parse_target(words, options.target, max_kld); !parsed)
    return std::move(parsed).error();
  const auto stored = tensors_of(file, pool);
  const auto folded = fold_model(*stored, base, pool);
  if (!folded) return Error(folded.error());
  if (!base.transforms.empty()) options.transformed = *folded ? folded->get() : stored.get();
  const auto estimator = estimator_named(words.estimator);
  if (!estimator) return Error(estimator.error());
  auto calibration = read_windows(file, calibration_path);
  if (!calibration) return std::move(calibration).error();
  auto sensitivities = sensitivities_of(file,
                                        {.candidates = {candidates.begin(), candidates.end()},
                                         .estimator = *estimator,
                                         .stats = nullptr,
                                         .windows = calibration->windows},
                                        *calibration, pool);
  if (!sensitivities) return std::move(sensitivities).error();
  if (!max_kld) return choose_mix(file, candidates, *sensitivities, options);
  if (Status added = add_statistics(file, *calibration, pool); !added)
    return std::move(added).error();
  Progress progress("measuring mixes");
  return choose_mix_under_kld(
      file, candidates, *sensitivities, options,
      {.most_kld = *max_kld,
       .stats = &calibration->stats,
       .windows = calibration->windows,
       .progress = [&](std::int64_t done, std::int64_t total) { return progress(done, total); }},
      pool);
}

std::string mix_text(const Mix& mix) {
  std::size_t width = 0;
  for (const MixRow& row : mix.rows) width = std::max(width, row.group.size());
  std::string text = fmt::format("{:<{}}  {:<12} {:>7}  {:>10}\n", "matrices", width, "scheme",
                                 "bits", "predicted");
  for (const MixRow& row : mix.rows) {
    text += fmt::format("{:<{}}  {:<12} {:>7.4g}  {}\n", row.group, width, to_string(row.scheme),
                        row.bits_per_weight,
                        row.is_chosen ? fmt::format("{:>10.3g}", row.loss) : "   by rule");
  }
  constexpr double bytes_per_mb = 1e6;
  return text +
         fmt::format("chosen: {:.4f} bits per weight, {:.2f} MB, predicted loss {:.4g}\n",
                     mix.bits_per_weight, static_cast<double>(mix.n_bytes) / bytes_per_mb,
                     mix.loss) +
         (mix.measured_kld ? fmt::format("measured KL divergence on calibration text: {:.5f}\n",
                                         *mix.measured_kld)
                           : std::string());
}

ordered_json mix_json(const Mix& mix) {
  ordered_json rows = ordered_json::array();
  for (const MixRow& row : mix.rows) {
    rows.push_back({{"matrices", row.group},
                    {"scheme", to_string(row.scheme)},
                    {"weights", row.n_weights},
                    {"bytes", row.n_bytes},
                    {"bits_per_weight", row.bits_per_weight},
                    {"predicted_loss", row.is_chosen ? ordered_json(row.loss) : nullptr}});
  }
  return {{"bits_per_weight", mix.bits_per_weight},
          {"bytes", mix.n_bytes},
          {"predicted_loss", mix.loss},
          {"measured_kld", mix.measured_kld ? ordered_json(*mix.measured_kld) : nullptr},
          {"matrices", std::move(rows)}};
}

}  // namespace lowbit::app
