// SPDX-License-Identifier: Apache-2.0
// Schemes chosen by the machine: for a size or a loss that is asked for, which of the candidates
// every group of matrices gets. The answer is a list of rules, so that every method and every
// container works with it, and a table for people.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/plan_tensors.h"
#include "lowbit/compress/sensitivity.h"
#include "lowbit/model/model_writer.h"

namespace lowbit {

/// What the choice is made for: one of them.
struct MixTarget {
  std::optional<double> bits_per_weight;  // of all matrices, embeddings and head included
  std::optional<std::int64_t> n_bytes;    // of everything that is written
  std::optional<double> loss;             // sum of the predicted losses
};

/// "4.25"; "90MB", "90MiB", "1.5GB", or bytes. Errors say what is understood.
Result<double> parse_bits_per_weight(std::string_view text);
Result<std::int64_t> parse_size(std::string_view text);

/// The schemes that are tried where nobody names others.
std::vector<Scheme> default_candidates(Container container);
/// 'q3_k,q4_k,...'
Result<std::vector<Scheme>> parse_candidates(std::string_view text);

struct MixRow {
  std::string group;
  std::int64_t n_weights = 0, n_bytes = 0;
  Scheme scheme;
  double bits_per_weight = 0, loss = 0;
  bool is_chosen = true;  // false: a rule decided, or the tensor is kept
};

struct Mix {
  std::vector<Rule> rules;  // the caller's first
  std::vector<MixRow> rows;
  std::int64_t n_bytes = 0;  // of everything that is written
  double bits_per_weight = 0, loss = 0;
  std::optional<double> measured_kld = {};  // of the whole mix, where it was measured
};

struct MixOptions {
  MixTarget target;
  std::string output;  // whose container and file size count
  const Rounder* rounder = nullptr;
  std::vector<Rule> rules;                    // come before the choice
  const TensorSource* transformed = nullptr;  // the model behind the recipe's transforms, if any
};

/// Errors: a target that cannot be reached, with the least that can; a candidate that fits nowhere.
Result<Mix> choose_mix(const ModelFile& file, std::span<const Scheme> candidates,
                       std::span<const GroupSensitivity> sensitivities, const MixOptions& options);

}  // namespace lowbit
