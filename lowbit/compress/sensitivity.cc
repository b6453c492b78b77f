// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/sensitivity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "lowbit/compress/logit_probe.h"
#include "lowbit/compress/pipeline.h"
#include "lowbit/compress/round_tensor.h"
#include "lowbit/quant/rounder.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// What the probe rounds to: they fit rows of any length; the error between and beyond them is
/// turned into KL divergence by a power law through both.
constexpr std::array<std::string_view, 2> probe_schemes{"int3.g32", "int5.g32"};

struct ProbePoint {
  double error = 0, kld = 0;
};

/// KL divergence at an error: kld = a * error^b through both points. In theory b is 1 while errors
/// are small (arXiv 2411.17525); the second point says how far this holds. b is kept near 1, so
/// that noise in small divergences cannot turn the order of candidates around.
double divergence_at(double error, std::span<const ProbePoint> points) {
  const ProbePoint &coarse = points[0], &fine = points[1];
  constexpr double least_power = 0.5, most_power = 2;
  double power = 1;
  if (coarse.kld > fine.kld && fine.kld > 0 && coarse.error > fine.error && fine.error > 0) {
    power = std::clamp(std::log(coarse.kld / fine.kld) / std::log(coarse.error / fine.error),
                       least_power, most_power);
  }
  return coarse.error > 0 ? coarse.kld * std::pow(error / coarse.error, power) : 0;
}

/// Evenly spread rows of a matrix: errors are sums over rows, which a part of them predicts.
std::vector<float> sampled_rows(const QuantizedTensor& tensor, std::int64_t& n_sampled) {
  constexpr std::int64_t share = 16, least = 32;
  n_sampled = std::min(std::max(tensor.rows / share, least), tensor.rows);
  std::vector<float> rows(static_cast<std::size_t>(n_sampled * tensor.cols));
  for (std::int64_t i = 0; i < n_sampled; ++i) {
    decode_rows(tensor, (2 * i + 1) * tensor.rows / (2 * n_sampled), 1,
                std::span(rows).subspan(static_cast<std::size_t>(i * tensor.cols),
                                        static_cast<std::size_t>(tensor.cols)));
  }
  return rows;
}

/// E|w x|^2 summed over the rows: sum w^2 E[x^2].
double energy_of(MatrixView w, const InputStats& stats) {
  double sum = 0;
  for (std::int64_t r = 0; r < w.rows; ++r) {
    for (std::int64_t c = 0; c < w.cols; ++c) {
      const auto number = static_cast<double>(w.row(r)[c]);
      const auto at = static_cast<std::size_t>(c);
      sum += number * number *
             (stats.mean_square.empty() ? 1 : static_cast<double>(stats.mean_square[at]));
    }
  }
  return sum;
}

/// What is known of a matrix's inputs.
InputStats stats_of(const ModelTensor& tensor, const ModelStats* stats) {
  if (stats == nullptr) return {};
  const auto found = stats->find(tensor.name);
  return found == stats->end() ? InputStats() : found->second.view();
}

class ErrorMeter {
 public:
  ErrorMeter(const ModelFile& file, const SensitivityOptions& options, ThreadPool& pool)
      : file_(file), options_(options), pool_(pool) {}

  /// Adds the error of every scheme in one tensor to `losses`.
  Status add(const ModelTensor& tensor, std::span<const Scheme> schemes,
             std::vector<double>& losses) {
    auto stored = file_.load(tensor, &pool_);
    if (!stored) return std::move(stored).error();
    std::int64_t n_sampled = 0;
    const std::vector<float> rows = sampled_rows(*stored, n_sampled);
    const MatrixView w(rows.data(), n_sampled, tensor.cols());
    const InputStats stats = stats_of(tensor, options_.stats);
    double unit = static_cast<double>(tensor.rows()) / static_cast<double>(n_sampled);
    if (options_.estimator != Estimator::error) {
      const double energy = energy_of(w, stats);
      unit = energy > 0 ? 1 / energy : 0;
    }
    for (std::size_t s = 0; s < schemes.size(); ++s) {
      if (losses[s] == infinity) continue;
      auto rounded = round_to_nearest(w, stats, schemes[s], pool_);
      if (!rounded) return std::move(rounded).error().in(to_string(schemes[s]));
      losses[s] += unit * weighted_error(w, stats, *rounded);
    }
    file_.drop_pages(tensor);
    return ok();
  }

 private:
  const ModelFile& file_;
  const SensitivityOptions& options_;
  ThreadPool& pool_;
};

/// One group rounded to a scheme: what the model says then.
Result<double> divergence_of(const ModelFile& file, const TensorGroup& group, const Scheme& scheme,
                             const ModelStats* stats, LogitProbe& probe, ThreadPool& pool) {
  std::vector<QuantizedTensor> rounded;
  std::vector<LogitProbe::Replacement> replaced;
  for (const ModelTensor* tensor : group.tensors) {
    auto result = rounded_tensor(file, *tensor, scheme, stats, pool);
    if (!result) return std::move(result).error();
    rounded.push_back(*std::move(result));
  }
  for (std::size_t i = 0; i < rounded.size(); ++i)
    replaced.push_back({group.tensors[i]->name, &rounded[i]});
  return probe.divergence(replaced);
}

}  // namespace

std::string_view name_of(Estimator estimator) {
  switch (estimator) {
    case Estimator::error:
      return "error";
    case Estimator::relative:
      return "relative";
    case Estimator::probe:
      return "probe";
    case Estimator::measured:
      break;
  }
  return "measured";
}

Result<Estimator> estimator_named(std::string_view name) {
  std::string known;
  for (const Estimator estimator : estimator_list) {
    if (name_of(estimator) == name) return estimator;
    known += (known.empty() ? "" : ", ") + std::string(name_of(estimator));
  }
  return Error(fmt::format("unknown estimator \"{}\"; known are {}", name, known));
}

Result<QuantizedTensor> rounded_tensor(const ModelFile& file, const ModelTensor& tensor,
                                       const Scheme& scheme, const ModelStats* stats,
                                       ThreadPool& pool, const Rounder* rounder) {
  auto stored = file.load(tensor, &pool);
  if (!stored) return std::move(stored).error().in(tensor.name);
  const bool is_usable = rounder != nullptr && rounder->needs != Needs::hessian;
  const TensorRecipe recipe{.rounder = is_usable ? rounder : *rounder_named("rtn"),
                            .scheme = scheme};
  constexpr std::int64_t all_memory = std::numeric_limits<std::int64_t>::max();
  auto rounded = round_tensor(*stored, stats_of(tensor, stats), recipe, all_memory, pool);
  if (!rounded) return std::move(rounded).error().in(tensor.name);
  file.drop_pages(tensor);
  return std::move(rounded->tensor);
}

bool fits_rows(const Scheme& scheme, const TensorGroup& group) {
  return std::ranges::all_of(group.tensors, [&](const ModelTensor* tensor) {
    return tensor->cols() % required_multiple(scheme) == 0;
  });
}

Result<std::vector<GroupSensitivity>> measure_sensitivity(const ModelFile& file,
                                                          const SensitivityOptions& options,
                                                          ThreadPool& pool) {
  // The schemes whose errors are measured: the candidates, then the probe's own.
  std::vector<Scheme> schemes = options.candidates;
  const std::size_t n_candidates = schemes.size();
  if (options.estimator == Estimator::probe) {
    for (const std::string_view name : probe_schemes) schemes.push_back(*parse_scheme(name));
  }
  std::vector<GroupSensitivity> sensitivities;
  std::int64_t n_total = 0, n_done = 0;
  for (TensorGroup& group : tensor_groups(file)) {
    GroupSensitivity entry{.group = std::move(group), .losses = {}};
    for (const Scheme& scheme : schemes)
      entry.losses.push_back(fits_rows(scheme, entry.group) ? 0 : infinity);
    sensitivities.push_back(std::move(entry));
  }
  const bool is_probed =
      options.estimator == Estimator::probe || options.estimator == Estimator::measured;
  const auto n_groups = static_cast<std::int64_t>(sensitivities.size());
  n_total = n_groups * (options.estimator == Estimator::measured
                            ? static_cast<std::int64_t>(n_candidates)
                            : 1 + (is_probed ? std::ssize(probe_schemes) : 0));
  const auto step = [&] { return !options.progress || options.progress(n_done++, n_total); };

  if (options.estimator != Estimator::measured) {
    ErrorMeter meter(file, options, pool);
    for (GroupSensitivity& entry : sensitivities) {
      if (!step()) return Error("interrupted");
      for (const ModelTensor* tensor : entry.group.tensors) {
        if (Status added = meter.add(*tensor, schemes, entry.losses); !added)
          return std::move(added).error().in(tensor->name);
      }
    }
  }
  if (!is_probed) return sensitivities;

  const auto source = tensors_of(file, pool);
  auto probe = LogitProbe::create(*source, options.windows, pool);
  if (!probe) return std::move(probe).error();
  for (GroupSensitivity& entry : sensitivities) {
    if (options.estimator == Estimator::measured) {
      for (std::size_t c = 0; c < n_candidates; ++c) {
        if (!step()) return Error("interrupted");
        if (entry.losses[c] == infinity) continue;
        auto kld = divergence_of(file, entry.group, schemes[c], options.stats, **probe, pool);
        if (!kld) return std::move(kld).error();
        entry.losses[c] = *kld;
      }
      continue;
    }
    std::vector<ProbePoint> points;
    for (std::size_t s = n_candidates; s < schemes.size(); ++s) {
      if (!step()) return Error("interrupted");
      auto kld = divergence_of(file, entry.group, schemes[s], options.stats, **probe, pool);
      if (!kld) return std::move(kld).error();
      points.push_back({entry.losses[s], *kld});
    }
    entry.losses.resize(n_candidates);
    for (double& loss : entry.losses) {
      if (loss != infinity) loss = divergence_at(loss, points);
    }
  }
  return sensitivities;
}

}  // namespace lowbit
