// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/model_work.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

namespace lowbit {
namespace {

/// The key with the largest count, with a "+" where there are others.
std::string most_common(const std::map<std::string, std::int64_t>& counts) {
  if (counts.empty()) return "";
  const auto most =
      std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; });
  return most->first + (counts.size() > 1 ? "+" : "");
}

double operations(const Weight& w) {
  return 2.0 * static_cast<double>(w.rows) * static_cast<double>(w.cols);
}

}  // namespace

ModelWork work_of(const LoadedModel& model) {
  const ModelWeights& weights = model.weights();
  ModelWork work;
  std::map<std::string, std::int64_t> schemes, activations;
  for (const LayerWeights& layer : weights.layers) {
    for (const Linear* linear :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      const Weight& w = *linear->w;
      (w.activations == Activations::f32 ? work.f32_ops : work.int8_ops) += operations(w);
      work.decode_bytes += w.n_bytes;
      schemes[to_string(w.scheme)] += w.rows * w.cols;
      activations[std::string(name_of(w.activations))] += w.rows * w.cols;
    }
  }
  const Weight& head = weights.output_head();
  (head.activations == Activations::f32 ? work.head_f32_ops : work.head_int8_ops) +=
      operations(head);
  work.decode_bytes += head.n_bytes;
  work.scheme = most_common(schemes);
  work.activations = most_common(activations);
  return work;
}

std::string recipe_in_use(const LoadedModel& model) {
  const ModelWork work = work_of(model);
  return fmt::format("w={},a={},kv={}", model.recipe().weights.value_or(work.scheme),
                     work.activations, name_of(model.recipe().kv));
}

}  // namespace lowbit
