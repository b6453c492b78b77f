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
  std::string target_bpw, target_size, candidates, estimator = "relative";
  bool dry_run = false;

  bool are_given() const { return !target_bpw.empty() || !target_size.empty(); }
};

void add_mix_options(CLI::App& command, MixWords& words);

/// [TRANSFORM+]...[METHOD] without a scheme: the recipe that every chosen scheme gets. Errors: a
/// scheme stands in it.
Result<TensorRecipe> parse_method(std::string_view text, const Scheme& any_scheme);

/// What --candidates says, or the default for the output.
Result<std::vector<Scheme>> candidates_of(const MixWords& words, const std::string& output);

/// Measures and chooses. `base` is the recipe of every matrix but for its scheme.
Result<Mix> choose_by_words(const ModelFile& file, const MixWords& words,
                            std::span<const Scheme> candidates, const TensorRecipe& base,
                            const std::vector<Rule>& rules, const std::string& output,
                            ThreadPool& pool);

std::string mix_text(const Mix& mix);
nlohmann::ordered_json mix_json(const Mix& mix);

}  // namespace lowbit::app
