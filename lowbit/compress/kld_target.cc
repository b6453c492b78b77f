// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/kld_target.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "lowbit/compress/logit_probe.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {
namespace {

Result<double> divergence_of(const ModelFile& file, const Mix& mix, const ModelStats* stats,
                             LogitProbe& probe, ThreadPool& pool) {
  std::vector<QuantizedTensor> rounded;
  std::vector<std::string_view> names;
  for (const ModelTensor& tensor : file.tensors()) {
    const Rule* rule = tensor.is_matrix() ? rule_for(mix.rules, tensor) : nullptr;
    if (rule == nullptr || !rule->recipe || rule->recipe->scheme == tensor.scheme) continue;
    auto result =
        rounded_tensor(file, tensor, rule->recipe->scheme, stats, pool, rule->recipe->rounder);
    if (!result) return std::move(result).error();
    rounded.push_back(*std::move(result));
    names.push_back(tensor.name);
  }
  std::vector<LogitProbe::Replacement> replaced;
  for (std::size_t i = 0; i < rounded.size(); ++i) replaced.push_back({names[i], &rounded[i]});
  return probe.divergence(replaced);
}

}  // namespace

Result<Mix> choose_mix_under_kld(const ModelFile& file, std::span<const Scheme> candidates,
                                 std::span<const GroupSensitivity> sensitivities,
                                 const MixOptions& options, const KldTarget& target,
                                 ThreadPool& pool) {
  const auto source = tensors_of(file, pool);
  auto probe = LogitProbe::create(*source, target.windows, pool);
  if (!probe) return std::move(probe).error();
  MixOptions with_aim = options;
  // Near enough below the limit that another try would not pay.
  constexpr double close_enough = 0.95, headroom = 0.98, least_step = 0.25, most_step = 4;
  constexpr std::int64_t most_tries = 6;
  double aim = target.most_kld, least_measured = 0;
  std::optional<Mix> best;
  for (std::int64_t i = 0; i < most_tries; ++i) {
    if (target.progress && !target.progress(i, most_tries)) return Error("interrupted");
    with_aim.target = {.bits_per_weight = {}, .n_bytes = {}, .loss = aim};
    auto mix = choose_mix(file, candidates, sensitivities, with_aim);
    if (!mix && best) break;
    if (!mix) {
      return Error(fmt::format(
          "a KL divergence of {} cannot be reached with these candidates{}; name larger ones with "
          "--candidates",
          target.most_kld,
          i == 0 ? std::string() : fmt::format(" (tried: {:.5f})", least_measured)));
    }
    const auto measured = divergence_of(file, *mix, target.stats, **probe, pool);
    if (!measured) return Error(measured.error());
    mix->measured_kld = *measured;
    least_measured = i == 0 ? *measured : std::min(least_measured, *measured);
    const bool is_kept = *measured <= target.most_kld;
    const bool is_smallest = !best || mix->n_bytes < best->n_bytes;
    if (is_kept && is_smallest) best = *std::move(mix);
    if (is_kept && (*measured >= close_enough * target.most_kld || !is_smallest)) break;
    aim *=
        std::clamp(headroom * target.most_kld / std::max(*measured, 1e-9), least_step, most_step);
  }
  if (best) return *std::move(best);
  return Error(
      fmt::format("a KL divergence of {} was not reached (best: {:.5f}); name larger "
                  "candidates with --candidates",
                  target.most_kld, least_measured));
}

}  // namespace lowbit
