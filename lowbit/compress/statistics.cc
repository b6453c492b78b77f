// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/statistics.h"

#include <fmt/format.h>

#include <utility>

#include "lowbit/base/assert.h"
#include "lowbit/compress/calibration_pass.h"

namespace lowbit {

InputStats TensorStats::view() const {
  const std::int64_t n = hessian.empty() ? 0 : n_inputs();
  return {.mean_square = mean_square,
          .mean_abs = mean_abs,
          .max_abs = max_abs,
          .hessian = MatrixView(hessian.data(), n, n),
          .n_tokens = n_tokens};
}

Result<Basis> basis_of_inputs(const TensorSource& source, std::span<const std::string> names) {
  LOWBIT_ASSERT(!names.empty());
  const Basis basis = source.input(names.front());
  for (const std::string& name : names) {
    if (source.input(name) == basis) continue;
    return Error(
        fmt::format("{} reads its inputs in another basis than {}; calibrate the model it was "
                    "made from",
                    name, names.front()));
  }
  return basis;
}

std::string_view head_matrix(const ModelConfig& config) {
  return config.tied_embeddings ? embedding_name : head_name;
}

Status for_each_statistics(const TensorSource& source, const CalibrationWindows& windows,
                           Needs needs, ThreadPool& pool, const StatisticsVisitor& visit,
                           const StatisticsOptions& options) {
  const ModelConfig& config = source.config();
  if (Status checked = check_tensors(source); !checked) return checked;
  auto created = CalibrationPass::create(config, windows, options.folder, 0, pool);
  if (!created) return std::move(created).error();
  CalibrationPass& pass = **created;
  std::int64_t n_done = 0;
  // A layer is four stages and its end; the embedding and the head are one more each.
  const std::int64_t n_total =
      (config.n_layers * (std::ssize(layer_stages) + 1) + 2) * pass.n_windows();
  if (options.progress) pass.set_progress([&] { return options.progress(++n_done, n_total); });
  const LoadOptions exact{.activations = Activations::f32, .decode_without_kernel = true};
  {
    auto embedding = load_embedding(source, pass.backend(), exact);
    if (!embedding) return std::move(embedding).error();
    if (Status embedded = pass.embed(**embedding); !embedded) return embedded;
  }
  for (std::int64_t i = 0; i < config.n_layers; ++i) {
    LayerWeights layer;
    for (const LayerStage stage : layer_stages) {
      if (Status s = load_stage(source, pass.backend(), i, stage, exact, layer); !s) return s;
    }
    for (const LayerStage stage : layer_stages) {
      const std::vector<std::string> names = stage_matrices(i, stage);
      const auto basis = basis_of_inputs(source, names);
      if (!basis) return Error(basis.error());
      auto stats = pass.inputs_of(stage, layer, needs, {}, *basis);
      if (!stats) return std::move(stats).error().in(names.front());
      if (Status visited = visit(names, *stats); !visited) return visited;
    }
    if (Status finished = pass.finish_layer(layer); !finished) return finished;
  }
  const auto norm = load_final_norm(source, pass.backend());
  if (!norm) return Error(norm.error());
  const std::string head(head_matrix(config));
  auto stats = pass.head_inputs(**norm, needs, {}, source.input(head));
  if (!stats) return std::move(stats).error().in(head);
  return visit({&head, 1}, *stats);
}

Result<ModelStats> collect_statistics(const TensorSource& source, const CalibrationWindows& windows,
                                      Needs needs, ThreadPool& pool,
                                      const StatisticsOptions& options) {
  ModelStats all;
  const auto keep = [&](std::span<const std::string> names, const TensorStats& stats) -> Status {
    for (const std::string& name : names) all[name] = stats;
    return ok();
  };
  if (Status done = for_each_statistics(source, windows, needs, pool, keep, options); !done) {
    return std::move(done).error();
  }
  return all;
}

}  // namespace lowbit
