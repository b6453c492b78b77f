// SPDX-License-Identifier: Apache-2.0
// Many recipes judged alike: what each costs in bits per weight and in KL divergence from the
// source, as a list to read, a table and a picture. Knows nothing of how a recipe becomes a model;
// that comes from outside, point by point.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"

namespace lowbit {

/// One line of a list of recipes.
struct SweepLine {
  std::string family;  // "lowbit" until a line "[NAME]" begins another
  std::string label;   // what the picture calls it; by default the line itself
  std::string text;    // a recipe and its options, or the path of a model file
  std::int64_t number = 0;
};
/// A line each: "RECIPE [OPTIONS]", "LABEL: RECIPE [OPTIONS]" (a colon and a blank), or "[FAMILY]"
/// for what follows; # begins a comment. Errors: no recipe at all, one that stands there twice.
Result<std::vector<SweepLine>> parse_sweep(std::string_view text);

/// The list that --sweep standard stands for: one recipe of every kind from 2 to 8 bits.
std::string_view standard_sweep();

struct SweepPoint {
  std::string family, label, text;  // of its line
  double bits_per_weight = 0;       // of all matrices, embeddings and head included
  double kld_mean = 0, kld_stderr = 0, kld_median = 0, kld_p99 = 0, kld_max = 0;  // nats
  double top1_agreement = 0, top1_stderr = 0, perplexity = 0;
  double seconds = 0;  // to quantize
  std::string note;    // what people should know, such as a method that gave up
};

/// What all points of a sweep have in common; it stands above each of its outputs.
struct SweepSetting {
  std::string model, text;
  std::string protocol;  // windows and activations, in words
  bool operator==(const SweepSetting&) const = default;
};

/// For each point whether no other of its family is at most as large and diverges less.
std::vector<bool> pareto_front(std::span<const SweepPoint> points);

/// Comma-separated values behind one line "# setting"; read_sweep_csv gives the same points back.
std::string sweep_csv(const SweepSetting& setting, std::span<const SweepPoint> points);
/// Errors: not such a file; another setting than the given one, with both.
Result<std::vector<SweepPoint>> read_sweep_csv(std::string_view csv, const SweepSetting& setting);

/// Ordered by size, family by family; points of the front are marked.
std::string sweep_markdown(const SweepSetting& setting, std::span<const SweepPoint> points);

/// Divergence (log scale) against bits per weight; readable on light and dark pages.
std::string sweep_svg(const SweepSetting& setting, std::span<const SweepPoint> points);

}  // namespace lowbit
