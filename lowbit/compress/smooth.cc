// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/smooth.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "lowbit/base/assert.h"
#include "lowbit/compress/fold.h"

namespace lowbit {
namespace {

constexpr float least_factor = 1e-5f;  // as in the paper's program

template <class Change>
Status edit(const std::string& name, QuantizedModel& block, const Change& change) {
  static const Scheme f32 = *parse_scheme("f32");
  auto tensor = block.load(name);
  if (!tensor) return std::move(tensor).error().in(name);
  std::vector<float> numbers = decode(*tensor);
  change(EditedMatrix{numbers, tensor->rows, tensor->cols});
  QuantizedTensor changed = encode_plain(numbers, f32, tensor->rows, tensor->cols);
  changed.input = tensor->input;
  block.replace(name, std::move(changed));
  return ok();
}

}  // namespace

Status scale_block(const Fold& fold, std::span<const float> factors, QuantizedModel& block) {
  Status done =
      edit(fold.producer, block, [&](EditedMatrix w) { divide_channels(fold, factors, w); });
  if (done && !fold.bias.empty()) {
    done = edit(fold.bias, block, [&](EditedMatrix bias) {
      for (std::size_t i = 0; i < bias.numbers.size(); ++i) bias.numbers[i] /= factors[i];
    });
  }
  for (const std::string& consumer : fold.consumers) {
    if (!done) return done;
    done = edit(consumer, block, [&](EditedMatrix w) { multiply_columns(fold, factors, w); });
  }
  return done;
}

std::vector<LayerFold> folds_of_layer(const ModelGraph& graph, std::int64_t layer) {
  std::vector<LayerFold> found;
  for (const Fold& fold : graph.folds) {
    for (const LayerStage stage : layer_stages) {
      const std::vector<std::string> matrices = stage_matrices(layer, stage);
      const bool is_here = std::ranges::all_of(fold.consumers, [&](const std::string& name) {
        return std::ranges::count(matrices, name) != 0;
      });
      if (is_here) found.push_back({&fold, stage});
    }
  }
  return found;
}

bool is_straight(const Fold& fold, const TensorSource& source) {
  return std::ranges::all_of(
      fold.consumers, [&](const std::string& name) { return source.input(name).is_plain(); });
}

std::vector<float> largest_by_channel(const Fold& fold, std::span<const float> by_column) {
  LOWBIT_ASSERT(static_cast<std::int64_t>(by_column.size()) == fold.n_columns());
  std::vector<float> largest(static_cast<std::size_t>(fold.n_channels));
  for (std::int64_t c = 0; c < fold.n_columns(); ++c) {
    float& channel = largest[static_cast<std::size_t>(fold.channel_of(c))];
    channel = std::max(channel, by_column[static_cast<std::size_t>(c)]);
  }
  return largest;
}

std::vector<float> mean_by_channel(const Fold& fold, std::span<const float> by_column) {
  LOWBIT_ASSERT(static_cast<std::int64_t>(by_column.size()) == fold.n_columns());
  std::vector<float> mean(static_cast<std::size_t>(fold.n_channels));
  for (std::int64_t c = 0; c < fold.n_columns(); ++c) {
    mean[static_cast<std::size_t>(fold.channel_of(c))] +=
        by_column[static_cast<std::size_t>(c)] / static_cast<float>(fold.n_repeats);
  }
  return mean;
}

std::vector<float> smooth_factors(std::span<const float> max_x, std::span<const float> max_w,
                                  double alpha) {
  LOWBIT_ASSERT(max_x.size() == max_w.size());
  std::vector<float> factors(max_x.size(), 1.0f);
  for (std::size_t j = 0; j < factors.size(); ++j) {
    if (!(max_x[j] > 0) || !(max_w[j] > 0)) continue;
    const double s = std::pow(static_cast<double>(max_x[j]), alpha) /
                     std::pow(static_cast<double>(max_w[j]), 1 - alpha);
    if (std::isfinite(s)) factors[j] = std::max(static_cast<float>(s), least_factor);
  }
  return factors;
}

BlockTransform smoothquant(const ModelGraph& graph, double alpha) {
  const auto shared = std::make_shared<const ModelGraph>(graph);
  return [shared, alpha](std::int64_t layer, QuantizedModel& block, const BlockInputs& inputs,
                         ThreadPool&) -> Status {
    for (const auto& [fold, stage] : folds_of_layer(*shared, layer)) {
      if (!is_straight(*fold, block)) continue;
      std::vector<float> max_w(static_cast<std::size_t>(fold->n_columns()));
      for (const std::string& consumer : fold->consumers) {
        auto tensor = block.load(consumer);
        if (!tensor) return std::move(tensor).error().in(consumer);
        const std::vector<float> w = decode(*tensor);
        for (std::size_t i = 0; i < w.size(); ++i) {
          float& largest = max_w[i % max_w.size()];
          largest = std::max(largest, std::fabs(w[i]));
        }
      }
      const std::vector<float> factors =
          smooth_factors(largest_by_channel(*fold, inputs.stages.at(stage).stats.max_abs),
                         largest_by_channel(*fold, max_w), alpha);
      if (Status done = scale_block(*fold, factors, block); !done) return done;
    }
    return ok();
  };
}

}  // namespace lowbit
