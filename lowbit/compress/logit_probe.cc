// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/logit_probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "lowbit/backend/cpu_backend.h"
#include "lowbit/measure/log_softmax.h"
#include "lowbit/runtime/kv_cache.h"
#include "lowbit/runtime/layer_pass.h"

namespace lowbit {
namespace {

/// A matrix of the model, and the first layer whose input it leaves alone (0: the embedding).
struct Slot {
  std::unique_ptr<Weight>* weight = nullptr;
  std::size_t first_layer = 0;
  bool changes_input = false;  // the embedding: layer 0 has another input as well
};

}  // namespace

struct LogitProbe::State {
  ThreadPool& pool;
  std::unique_ptr<Backend> backend;
  ModelWeights model;
  std::map<std::string, Slot, std::less<>> slots;
  CalibrationWindows windows;
  std::vector<std::int32_t> ids, rows;  // of all windows; the rows that predict
  std::unique_ptr<KvCache> cache;
  std::vector<KvSequence> sequences;
  std::vector<StepSequence> steps;
  std::unique_ptr<LayerPass> pass;
  std::vector<std::vector<float>>
      inputs;  // of every layer, and of the last norm: (tokens, d_model)
  std::unique_ptr<Tensor> picked, picked_normed, logits;
  std::vector<float> host_logits;
  // The teacher at the rows that predict: (rows, n_vocab), and log(sum exp) of each.
  std::vector<float> teacher, teacher_p;
  std::vector<double> teacher_norm;

  explicit State(ThreadPool& the_pool) : pool(the_pool) {}

  std::int64_t n_tokens() const { return static_cast<std::int64_t>(ids.size()); }

  Status load(const TensorSource& source) {
    auto made = make_cpu_backend(pool);
    if (!made) return std::move(made).error();
    backend = *std::move(made);
    std::map<const Weight*, std::string> names;
    auto weights = load_weights(source, *backend,
                                {.activations = Activations::f32,
                                 .on_matrix = [&](const std::string& name, const Weight& matrix) {
                                   names[&matrix] = name;
                                 }});
    if (!weights) return std::move(weights).error();
    model = *std::move(weights);
    slots[names[model.embedding.get()]] = {&model.embedding, 0, /*changes_input=*/true};
    if (model.head) slots[names[model.head.get()]] = {&model.head, model.layers.size()};
    for (std::size_t i = 0; i < model.layers.size(); ++i) {
      LayerWeights& layer = model.layers[i];
      for (Linear* linear :
           {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
        slots[names[linear->w.get()]] = {&linear->w, i};
      }
    }
    return ok();
  }

  Status prepare(const CalibrationWindows& the_windows, const ProbeOptions& options) {
    if (the_windows.empty() || the_windows.front().empty())
      return Error("there is no calibration text to measure sensitivity with");
    windows = the_windows;
    const auto n_ctx = static_cast<std::int64_t>(windows.front().size());
    if (n_ctx > model.config.n_ctx_train) {
      return Error(fmt::format("calibration windows of {} tokens are beyond the context of {}",
                               n_ctx, model.config.n_ctx_train));
    }
    const std::int64_t n_second_half = n_ctx - n_ctx / 2;
    const std::int64_t n_picked = std::min(options.n_positions, n_second_half);
    for (const auto& window : windows) {
      const auto first = static_cast<std::int64_t>(ids.size());
      ids.insert(ids.end(), window.begin(), window.end());
      for (std::int64_t i = 0; i < n_picked; ++i) {
        rows.push_back(static_cast<std::int32_t>(first + n_ctx / 2 + i * n_second_half / n_picked));
      }
    }
    const KvShape shape{KvKind::f32, model.config.n_layers, model.config.n_kv_heads,
                        model.config.head_dim};
    const std::int64_t n_padded = KvCache::n_blocks_for(n_ctx) * kv_block_positions;
    auto made =
        KvCache::create(*backend, shape, n_padded * static_cast<std::int64_t>(windows.size()));
    if (!made) return std::move(made).error();
    cache = std::make_unique<KvCache>(*std::move(made));
    sequences.resize(windows.size());
    for (std::size_t i = 0; i < windows.size(); ++i) {
      if (!cache->grow(sequences[i], n_ctx)) return Error("the KV cache has no room for a window");
      steps.push_back({windows[i], 0, &sequences[i], 0});
    }
    pass = std::make_unique<LayerPass>(*backend, model.config, n_tokens());
    pass->begin(steps);
    const auto n_rows = static_cast<std::int64_t>(rows.size());
    picked = backend->make_tensor(n_rows, model.config.d_model);
    picked_normed = backend->make_tensor(n_rows, model.config.d_model);
    logits = backend->make_tensor(n_rows, model.config.n_vocab);
    host_logits.resize(static_cast<std::size_t>(n_rows * model.config.n_vocab));
    return ok();
  }

  void keep_input(std::vector<std::vector<float>>* kept) {
    if (kept == nullptr) return;
    std::vector<float>& input =
        kept->emplace_back(static_cast<std::size_t>(n_tokens() * model.config.d_model));
    backend->download(pass->x(), input);
  }

  /// Logits of `rows`, in host_logits; from the kept input of a layer on, or from the tokens.
  void run(std::size_t first_layer, bool from_tokens, std::vector<std::vector<float>>* kept) {
    if (from_tokens) {
      backend->embed(*model.embedding, ids, pass->x());
    } else {
      backend->upload(inputs[first_layer], pass->x());
    }
    for (std::size_t i = first_layer; i < model.layers.size(); ++i) {
      keep_input(kept);
      const LayerWeights& layer = model.layers[i];
      pass->project(layer, static_cast<std::int64_t>(i), steps, *cache);
      pass->mix(*cache);
      pass->add_attention(layer);
      pass->gate(layer);
      pass->add_feed_forward(layer);
    }
    keep_input(kept);
    backend->gather(pass->x(), rows, *picked);
    backend->norm_matmul(
        *picked,
        {.w = model.final_norm.get(), .eps = model.config.norm_eps, .y = picked_normed.get()},
        std::array{Product{&model.output_head(), nullptr, logits.get()}});
    backend->download(*logits, host_logits);
  }

  std::span<const float> row_of(const std::vector<float>& matrix, std::int64_t row) const {
    const auto n_vocab = static_cast<std::size_t>(model.config.n_vocab);
    return std::span(matrix).subspan(static_cast<std::size_t>(row) * n_vocab, n_vocab);
  }

  /// Teacher log-probabilities are kept as logits and their norm: differences of logits are exact
  /// where those of rounded probabilities would not be.
  void keep_teacher() {
    run(0, /*from_tokens=*/true, &inputs);
    teacher = host_logits;
    teacher_p.resize(teacher.size());
    teacher_norm.resize(rows.size());
    const auto n_vocab = model.config.n_vocab;
    pool.parallel_for(
        static_cast<std::int64_t>(rows.size()), 1, [&](std::int64_t first, std::int64_t last, int) {
          for (std::int64_t r = first; r < last; ++r) {
            const auto row = row_of(teacher, r);
            const double norm = log_sum_exp(row);
            teacher_norm[static_cast<std::size_t>(r)] = norm;
            for (std::int64_t i = 0; i < n_vocab; ++i) {
              teacher_p[static_cast<std::size_t>(r * n_vocab + i)] = static_cast<float>(
                  std::exp(static_cast<double>(row[static_cast<std::size_t>(i)]) - norm));
            }
          }
        });
  }

  Result<double> mean_divergence() {
    std::vector<double> klds(rows.size());
    pool.parallel_for(
        static_cast<std::int64_t>(rows.size()), 1, [&](std::int64_t first, std::int64_t last, int) {
          for (std::int64_t r = first; r < last; ++r) {
            const auto student = row_of(host_logits, r), truth = row_of(teacher, r),
                       p = row_of(teacher_p, r);
            double sum = log_sum_exp(student) - teacher_norm[static_cast<std::size_t>(r)];
            for (std::size_t i = 0; i < p.size(); ++i) {
              sum += static_cast<double>(p[i]) *
                     (static_cast<double>(truth[i]) - static_cast<double>(student[i]));
            }
            klds[static_cast<std::size_t>(r)] = sum;
          }
        });
    double sum = 0;
    for (const double kld : klds) sum += kld;
    if (!std::isfinite(sum)) return Error("the predictions are not finite numbers");
    return std::max(sum / static_cast<double>(klds.size()), 0.0);
  }
};

LogitProbe::LogitProbe() = default;
LogitProbe::~LogitProbe() = default;

Result<std::unique_ptr<LogitProbe>> LogitProbe::create(const TensorSource& source,
                                                       const CalibrationWindows& windows,
                                                       ThreadPool& pool,
                                                       const ProbeOptions& options) {
  std::unique_ptr<LogitProbe> probe(new LogitProbe);
  probe->state_ = std::make_unique<State>(pool);
  if (Status loaded = probe->state_->load(source); !loaded) return std::move(loaded).error();
  if (Status ready = probe->state_->prepare(windows, options); !ready)
    return std::move(ready).error();
  probe->state_->keep_teacher();
  return probe;
}

Result<double> LogitProbe::divergence(std::span<const Replacement> replaced) {
  State& state = *state_;
  std::size_t first_layer = state.model.layers.size();
  bool from_tokens = false;
  std::vector<std::pair<Slot*, std::unique_ptr<Weight>>> originals;
  Status packed = ok();
  for (const Replacement& each : replaced) {
    const auto slot = state.slots.find(each.name);
    if (slot == state.slots.end()) {
      packed = Error(fmt::format("{} is no matrix of the model", each.name));
      break;
    }
    auto weight = state.backend->pack(*each.tensor, Activations::f32);
    if (!weight) {
      packed = std::move(weight).error().in(each.name);
      break;
    }
    first_layer = std::min(first_layer, slot->second.first_layer);
    from_tokens = from_tokens || slot->second.changes_input;
    originals.emplace_back(&slot->second, std::exchange(*slot->second.weight, *std::move(weight)));
  }
  Result<double> kld = 0.0;
  if (packed) {
    state.run(first_layer, from_tokens, nullptr);
    kld = state.mean_divergence();
  } else {
    kld = Error(packed.error());
  }
  for (auto& [slot, weight] : originals) *slot->weight = std::move(weight);
  return kld;
}

std::int64_t LogitProbe::n_bytes() const {
  std::size_t n_floats = state_->teacher.size() + state_->teacher_p.size();
  for (const auto& input : state_->inputs) n_floats += input.size();
  return static_cast<std::int64_t>(n_floats * sizeof(float));
}

}  // namespace lowbit
