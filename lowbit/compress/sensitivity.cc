// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/sensitivity.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "lowbit/quant/rounder.h"

namespace lowbit {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// Evenly spread rows of a matrix: errors are sums over rows, which a part of them predicts.
std::vector<float> sampled_rows(const QuantizedTensor& tensor, std::int64_t& n_sampled) {
  constexpr std::int64_t share = 8, least = 64;
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

class ErrorMeter {
 public:
  ErrorMeter(const ModelFile& file, const SensitivityOptions& options, ThreadPool& pool)
      : file_(file), options_(options), pool_(pool) {}

  /// Adds the error of every candidate in one tensor to `losses`.
  Status add(const ModelTensor& tensor, std::vector<double>& losses) {
    auto stored = file_.load(tensor, &pool_);
    if (!stored) return std::move(stored).error();
    std::int64_t n_sampled = 0;
    const std::vector<float> rows = sampled_rows(*stored, n_sampled);
    const MatrixView w(rows.data(), n_sampled, tensor.cols());
    InputStats stats;
    if (options_.stats != nullptr) {
      const auto found = options_.stats->find(tensor.name);
      if (found != options_.stats->end()) stats = found->second.view();
    }
    double unit = static_cast<double>(tensor.rows()) / static_cast<double>(n_sampled);
    if (options_.estimator != Estimator::error) {
      const double energy = energy_of(w, stats);
      unit = energy > 0 ? 1 / energy : 0;
    }
    for (std::size_t c = 0; c < losses.size(); ++c) {
      if (losses[c] == infinity) continue;
      auto rounded = round_to_nearest(w, stats, options_.candidates[c], pool_);
      if (!rounded) return std::move(rounded).error().in(to_string(options_.candidates[c]));
      losses[c] += unit * weighted_error(w, stats, *rounded);
    }
    file_.drop_pages(tensor);
    return ok();
  }

 private:
  const ModelFile& file_;
  const SensitivityOptions& options_;
  ThreadPool& pool_;
};

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

bool fits_rows(const Scheme& scheme, const TensorGroup& group) {
  return std::ranges::all_of(group.tensors, [&](const ModelTensor* tensor) {
    return tensor->cols() % required_multiple(scheme) == 0;
  });
}

Result<std::vector<GroupSensitivity>> measure_sensitivity(const ModelFile& file,
                                                          const SensitivityOptions& options,
                                                          ThreadPool& pool) {
  std::vector<GroupSensitivity> sensitivities;
  std::int64_t n_total = 0, n_done = 0;
  for (TensorGroup& group : tensor_groups(file)) {
    GroupSensitivity entry{.group = std::move(group), .losses = {}};
    for (const Scheme& scheme : options.candidates)
      entry.losses.push_back(fits_rows(scheme, entry.group) ? 0 : infinity);
    n_total += static_cast<std::int64_t>(entry.group.tensors.size());
    sensitivities.push_back(std::move(entry));
  }
  ErrorMeter meter(file, options, pool);
  for (GroupSensitivity& entry : sensitivities) {
    for (const ModelTensor* tensor : entry.group.tensors) {
      if (options.progress && !options.progress(n_done++, n_total)) return Error("interrupted");
      if (Status added = meter.add(*tensor, entry.losses); !added)
        return std::move(added).error().in(tensor->name);
    }
  }
  return sensitivities;
}

}  // namespace lowbit
