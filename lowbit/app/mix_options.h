// SPDX-License-Identifier: Apache-2.0
// The options of `quantize` by which schemes are chosen instead of named, and the table that says
// what was chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/mixed_precision.h"
#include "lowbit/compress/tensor_recipe.h"

namespace lowbit::app {

struct MixWords {
  std::string target_bpw, target_size, max_kld, candidates, estimator = "probe";
  bool dry_run = false;

  bool are_given() const { return !target_bpw.empty() || !target_size.empty() || !max_kld.empty(); }
};

/// What estimators are told: a few windows of text and what the matrices' inputs look like on them.
struct Calibration {
  CalibrationWindows windows, stats_windows;
  ModelStats stats;
};
/// path: a text; "" stands for the one that is part of the program. With statistics only where they
/// are needed, because they cost a pass over the model.
Result<Calibration> read_windows(const ModelFile& file, const std::string& path);
Status add_statistics(const ModelFile& file, Calibration& calibration, ThreadPool& pool);

void add_mix_options(CLI::App& command, MixWords& words);

/// Errors: several targets, one that is no number, an estimator that does not fit it.
Status check_words(const MixWords& words);

/// [TRANSFORM+]...[METHOD] without a scheme: the recipe that every chosen scheme gets. Errors: a
/// scheme stands in it.
Result<TensorRecipe> parse_method(std::string_view text, const Scheme& any_scheme);

/// What --candidates says, or the default for the output.
Result<std::vector<Scheme>> candidates_of(const MixWords& words, const std::string& output);

/// Measures, or takes what was measured before for this model, and chooses. `base` is the recipe of
/// every matrix but for its scheme; calibration: the text's path or "".
Result<Mix> choose_by_words(const ModelFile& file, const MixWords& words,
                            std::span<const Scheme> candidates, const TensorRecipe& base,
                            const std::vector<Rule>& rules, const std::string& output,
                            const std::string& calibration, ThreadPool& pool);

std::string mix_text(const Mix& mix);
nlohmann::ordered_json mix_json(const Mix& mix);

}  // namespace lowbit::app
