// SPDX-License-Identifier: Apache-2.0
#include "lowbit/app/mix_options.h"

#include <fmt/format.h>

#include <algorithm>

#include "lowbit/app/terminal.h"
#include "lowbit/compress/quantize.h"

namespace lowbit::app {

using nlohmann::ordered_json;

void add_mix_options(CLI::App& command, MixWords& words) {
  command.add_option(
      "--target-bpw", words.target_bpw,
      "choose the scheme of every matrix: at most this many bits per weight, such as "
      "4.25");
  command.add_option("--target-size", words.target_size,
                     "the same: at most this many bytes are written, such as 90MB");
  command.add_option("--candidates", words.candidates,
                     "schemes to choose from, such as 'q3_k,q4_k,q6_k'");
  command.add_option("--estimator", words.estimator,
                     "what predicts the loss of a choice: error, relative");
  command.add_flag("--dry-run", words.dry_run, "print what was chosen and write nothing");
}

Result<TensorRecipe> parse_method(std::string_view text, const Scheme& any_scheme) {
  if (text.find(':') != std::string_view::npos || parse_scheme(text)) {
    return Error(fmt::format(
        "recipe \"{}\" names a scheme, but --target-bpw and --target-size choose it; give a method "
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

Result<Mix> choose_by_words(const ModelFile& file, const MixWords& words,
                            std::span<const Scheme> candidates, const TensorRecipe& base,
                            const std::vector<Rule>& rules, const std::string& output,
                            ThreadPool& pool) {
  MixOptions options{.target = {}, .output = output, .rounder = base.rounder, .rules = rules};
  if (!words.target_bpw.empty()) {
    const auto wanted = parse_bits_per_weight(words.target_bpw);
    if (!wanted) return Error(wanted.error()).in("--target-bpw");
    options.target.bits_per_weight = *wanted;
  } else {
    const auto wanted = parse_size(words.target_size);
    if (!wanted) return Error(wanted.error()).in("--target-size");
    options.target.n_bytes = *wanted;
  }
  const auto estimator = estimator_named(words.estimator);
  if (!estimator) return Error(estimator.error());
  SensitivityOptions how{.candidates = {candidates.begin(), candidates.end()},
                         .estimator = *estimator};
  Progress progress("measuring sensitivity");
  how.progress = [&](std::int64_t n_done, std::int64_t n_total) {
    return progress(n_done, n_total);
  };
  auto sensitivities = measure_sensitivity(file, how, pool);
  if (!sensitivities) return std::move(sensitivities).error();
  return choose_mix(file, candidates, *sensitivities, options);
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
  return text + fmt::format("chosen: {:.4f} bits per weight, {:.2f} MB, predicted loss {:.4g}\n",
                            mix.bits_per_weight, static_cast<double>(mix.n_bytes) / bytes_per_mb,
                            mix.loss);
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
          {"matrices", std::move(rows)}};
}

}  // namespace lowbit::app
