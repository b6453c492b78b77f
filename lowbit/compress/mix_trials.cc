// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/mix_trials.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string_view>
#include <utility>

#include "lowbit/compress/allocate.h"
#include "lowbit/compress/logit_probe.h"
#include "lowbit/quant/rounder.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {
namespace {

constexpr double bits_per_byte = 8;

std::int64_t planar_bytes(const Scheme& scheme, const TensorGroup& group) {
  double bits = 0;
  for (const ModelTensor* tensor : group.tensors) {
    bits += planar_bits_per_weight(scheme, tensor->rows(), tensor->cols()) *
            static_cast<double>(tensor->rows() * tensor->cols());
  }
  return static_cast<std::int64_t>(std::ceil(bits / bits_per_byte));
}

/// A mix as allocation makes it, of sensitivities that are off by random factors: the mixes that
/// somebody could choose, good ones and bad ones.
Result<Allocation> random_mix(std::span<const std::vector<Candidate>> items, std::int64_t budget,
                              std::mt19937_64& random) {
  constexpr double spread = 8;  // factors from 1/8 to 8
  std::vector<std::vector<Candidate>> distorted(items.begin(), items.end());
  for (std::vector<Candidate>& candidates : distorted) {
    const double uniform =
        static_cast<double>(random()) / static_cast<double>(std::mt19937_64::max());
    const double factor = std::pow(spread, 2 * uniform - 1);
    for (Candidate& candidate : candidates) candidate.loss *= factor;
  }
  return allocate(distorted, budget);
}

/// Every matrix in every scheme that a mix gave it so far: rounding takes longer than asking.
class RoundedTensors {
 public:
  RoundedTensors(const ModelFile& file, std::span<const Scheme> schemes, const ModelStats* stats,
                 ThreadPool& pool)
      : file_(file), schemes_(schemes), stats_(stats), pool_(pool) {}

  Result<const QuantizedTensor*> get(const ModelTensor& tensor, std::size_t scheme) {
    const auto key = std::pair(std::string_view(tensor.name), scheme);
    if (const auto found = tensors_.find(key); found != tensors_.end()) return &found->second;
    auto rounded = rounded_tensor(file_, tensor, schemes_[scheme], stats_, pool_);
    if (!rounded) return std::move(rounded).error();
    return &tensors_.emplace(key, *std::move(rounded)).first->second;
  }

 private:
  const ModelFile& file_;
  std::span<const Scheme> schemes_;
  const ModelStats* stats_;
  ThreadPool& pool_;
  std::map<std::pair<std::string_view, std::size_t>, QuantizedTensor> tensors_;
};

Result<double> measured(std::span<const GroupSensitivity> groups,
                        std::span<const std::size_t> chosen, RoundedTensors& rounded,
                        LogitProbe& probe) {
  std::vector<LogitProbe::Replacement> replaced;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (const ModelTensor* tensor : groups[g].group.tensors) {
      const auto result = rounded.get(*tensor, chosen[g]);
      if (!result) return Error(result.error());
      replaced.push_back({tensor->name, *result});
    }
  }
  return probe.divergence(replaced);
}

/// Ranks from 0; equal values share the mean of theirs.
std::vector<double> ranks_of(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return values[i]; });
  std::vector<double> ranks(values.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t last = first;
    while (last + 1 < order.size() && values[order[last + 1]] == values[order[first]]) ++last;
    for (std::size_t i = first; i <= last; ++i)
      ranks[order[i]] = static_cast<double>(first + last) / 2;
    first = last + 1;
  }
  return ranks;
}

}  // namespace

double correlation(std::span<const double> a, std::span<const double> b) {
  const auto n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
}

double rank_correlation(std::span<const double> a, std::span<const double> b) {
  return correlation(ranks_of(a), ranks_of(b));
}

Result<std::vector<MixTrial>> try_mixes(const ModelFile& file, std::span<const Scheme> candidates,
                                        std::span<const std::vector<GroupSensitivity>> estimates,
                                        const TrialOptions& options, ThreadPool& pool) {
  const std::vector<GroupSensitivity>& groups = estimates.front();
  std::vector<std::vector<Candidate>> items;
  std::int64_t n_weights = 0;
  for (const GroupSensitivity& entry : groups) {
    n_weights += entry.group.n_weights();
    std::vector<Candidate>& item = items.emplace_back();
    for (std::size_t c = 0; c < candidates.size(); ++c) {
      // A candidate that does not fit is never worth its bytes.
      const bool fits = std::isfinite(entry.losses[c]);
      item.push_back({fits ? planar_bytes(candidates[c], entry.group)
                           : std::numeric_limits<std::int32_t>::max(),
                      fits ? entry.losses[c] : std::numeric_limits<float>::max()});
    }
  }
  const auto source = tensors_of(file, pool);
  auto probe = LogitProbe::create(*source, options.windows, pool);
  if (!probe) return std::move(probe).error();
  const auto budget = static_cast<std::int64_t>(options.bits_per_weight *
                                                static_cast<double>(n_weights) / bits_per_byte);
  std::mt19937_64 random(options.seed);
  RoundedTensors rounded(file, candidates, options.stats, pool);
  std::vector<MixTrial> trials;
  for (std::int64_t i = 0; i < options.n_mixes; ++i) {
    if (options.progress && !options.progress(i, options.n_mixes)) return Error("interrupted");
    auto mix = random_mix(items, budget, random);
    if (!mix) return std::move(mix).error();
    MixTrial trial;
    trial.bits_per_weight =
        bits_per_byte * static_cast<double>(mix->n_bytes) / static_cast<double>(n_weights);
    for (const std::vector<GroupSensitivity>& estimate : estimates) {
      double sum = 0;
      for (std::size_t g = 0; g < estimate.size(); ++g) sum += estimate[g].losses[mix->chosen[g]];
      trial.predicted.push_back(sum);
    }
    auto kld = measured(groups, mix->chosen, rounded, **probe);
    if (!kld) return std::move(kld).error();
    trial.measured = *kld;
    trials.push_back(std::move(trial));
  }
  return trials;
}

}  // namespace lowbit
