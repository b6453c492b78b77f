// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "lowbit/compress/calibration_pass.h"
#include "lowbit/compress/work_folder.h"

namespace lowbit {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// How matrices are multiplied here: exactly, whatever their scheme.
const LoadOptions exact{.activations = Activations::f32, .decode_without_kernel = true};

/// Rows of a stage's inputs, evenly spread over the windows.
class Sampler {
 public:
  Sampler(std::int64_t n_windows, std::int64_t n_ctx) {
    constexpr std::int64_t most_rows = 512;
    per_window_ = std::clamp<std::int64_t>(most_rows / n_windows, 1, n_ctx);
  }
  void add(MatrixView x, BlockInputs::Stage& stage) const {
    for (std::int64_t i = 0; i < per_window_; ++i) {
      const std::span<const float> row = x.row_span((2 * i + 1) * x.rows / (2 * per_window_));
      stage.sample.insert(stage.sample.end(), row.begin(), row.end());
      ++stage.n_samples;
    }
  }

 private:
  std::int64_t per_window_;
};

class Pipeline {
 public:
  Pipeline(const TensorSource& source, const PipelineOptions& options, const TensorSink& sink,
           ThreadPool& pool)
      : source_(source), config_(source.config()), options_(options), sink_(sink), pool_(pool) {}

  Result<PipelineReport> run() {
    if (Status checked = check_tensors(source_); !checked) return std::move(checked).error();
    if (Status checked = check_memory(); !checked) return std::move(checked).error();
    // Block 0 is the embedding, then the layers, then the head.
    const std::int64_t first = options_.work == nullptr ? 0 : options_.work->n_finished();
    if (options_.work != nullptr) {
      for (const auto& [tensor, text] : options_.work->notes()) {
        report_.notes.push_back({tensor, text});
      }
    }
    report_.n_resumed_blocks = first;
    n_done_ = first * block_steps();
    auto pass = CalibrationPass::create(config_, options_.windows,
                                        options_.work == nullptr ? "" : options_.work->folder(),
                                        std::max<std::int64_t>(first - 1, 0), pool_);
    if (!pass) return std::move(pass).error();
    pass_ = *std::move(pass);
    pass_->set_progress([this] { return step(1); });
    for (std::int64_t block = first; block < n_blocks(); ++block) {
      Status done = block == 0                ? quantize_embedding()
                    : block + 1 == n_blocks() ? quantize_head()
                                              : quantize_layer(block - 1);
      if (!done) return std::move(done).error();
      if (Status kept = finish_block(block); !kept) return std::move(kept).error();
    }
    report_.forward_seconds = pass_->times().forward;
    report_.statistics_seconds = pass_->times().statistics;
    return std::move(report_);
  }

 private:
  std::int64_t n_blocks() const { return config_.n_layers + 2; }
  /// Steps of progress in a block: a layer goes through all windows five times.
  std::int64_t block_steps() const {
    return std::ssize(options_.windows) * (std::ssize(layer_stages) + 1);
  }
  bool step(std::int64_t n_steps) {
    n_done_ = std::min(n_done_ + n_steps, n_blocks() * block_steps());
    return !options_.progress || options_.progress(what_, n_done_, n_blocks() * block_steps());
  }

  std::optional<TensorRecipe> recipe_of(std::string_view name) const {
    return options_.recipe_of(name);
  }

  /// What the rounders of some matrices must be told.
  Needs needs_of(std::span<const std::string> names) const {
    Needs needs = Needs::weights;
    for (const std::string& name : names) {
      const auto recipe = recipe_of(name);
      // Without asking for them, a rounder weights its errors by the inputs where it can.
      if (recipe) needs = std::max({needs, recipe->rounder->needs, Needs::activations});
    }
    return needs;
  }

  /// The largest moment: a Hessian and what gptq makes of it (it ordered, and its factor), a matrix
  /// as f32 before and after with what gptq keeps of it meanwhile, and one window.
  Status check_memory() const {
    constexpr std::int64_t n_hessians = 3, n_matrices = 2, n_hessian_matrices = 5;
    std::int64_t most = 0;
    std::string where;
    for (std::int64_t i = 0; i < config_.n_layers; ++i) {
      // Transforms change a whole block as f32 before its first matrix is rounded.
      std::int64_t n_block = 0;
      for (const LayerStage stage : layer_stages) {
        for (const std::string& name : stage_matrices(i, stage)) {
          if (!options_.transforms.empty()) {
            n_block += source_.shape(name)->rows * source_.shape(name)->cols;
          }
        }
      }
      for (const LayerStage stage : layer_stages) {
        const std::vector<std::string> names = stage_matrices(i, stage);
        const std::int64_t n_inputs = stage_inputs(config_, stage);
        std::int64_t n_numbers = n_block;
        const bool has_hessian = needs_of(names) == Needs::hessian;
        if (has_hessian) n_numbers += n_hessians * n_inputs * n_inputs;
        std::int64_t n_outputs = 0;
        for (const std::string& name : names) {
          n_outputs = std::max(n_outputs, source_.shape(name)->rows);
        }
        n_numbers += (has_hessian ? n_hessian_matrices : n_matrices) * n_outputs * n_inputs;
        const std::int64_t n_bytes = n_numbers * std::int64_t{sizeof(float)};
        if (n_bytes > most) {
          most = n_bytes;
          where = names.front();
        }
      }
    }
    const auto n_ctx =
        options_.windows.empty() ? 0 : static_cast<std::int64_t>(options_.windows.front().size());
    constexpr std::int64_t n_wide = 3, n_narrow = 10, base_bytes = std::int64_t{64} << 20;
    most +=
        n_ctx * (n_wide * config_.d_ff + n_narrow * config_.d_model) * std::int64_t{sizeof(float)};
    most += base_bytes;
    if (most <= options_.memory_bytes) return ok();
    return Error(
        fmt::format("{} needs {} MiB to be calibrated, the budget is {} MiB; use "
                    "--memory {}MiB or a method without a Hessian",
                    where, (most >> 20) + 1, options_.memory_bytes >> 20, (most >> 20) + 1));
  }

  Status round(const std::string& name, const TensorSource& source, const TensorStats& stats,
               const TensorRecipe& recipe, QuantizedModel& rounded) {
    const auto start = Clock::now();
    auto result = round_tensor(source, name, stats.view(), recipe, matrix_bytes(), pool_);
    if (!result) return std::move(result).error();
    if (!result->note.empty()) report_.notes.push_back({name, result->note});
    report_.rounding_seconds += seconds_since(start);
    rounded.replace(name, std::move(result->tensor));
    finished_.push_back(name);
    return ok();
  }

  /// What the f32 numbers of one matrix may take, beside what its rounder makes of them.
  std::int64_t matrix_bytes() const { return options_.memory_bytes / 4; }

  /// The rounder that needs no Hessian, for matrices outside the layers.
  static TensorRecipe without_hessian(TensorRecipe recipe) {
    if (recipe.rounder->needs == Needs::hessian) recipe.rounder = *rounder_named("rtn");
    return recipe;
  }

  Status quantize_embedding() {
    what_ = "embedding";
    QuantizedModel rounded(source_);
    const std::string name(embedding_name);
    // What a table holds is looked up and not multiplied, so no input weights its errors. A tied
    // one is rounded again when the head's inputs are known.
    if (const auto recipe = recipe_of(name)) {
      Status done = round(name, source_, TensorStats(), without_hessian(*recipe), rounded);
      if (!done) return done;
    }
    auto embedding = load_embedding(rounded, pass_->backend(), exact);
    if (!embedding) return std::move(embedding).error();
    if (Status embedded = pass_->embed(**embedding); !embedded) return embedded;
    if (config_.tied_embeddings) finished_.clear();
    return keep_finished(rounded);
  }

  Status quantize_head() {
    what_ = "head";
    QuantizedModel rounded(source_);
    const std::string name(head_matrix(config_));
    if (const auto recipe = recipe_of(name)) {
      const auto norm = load_final_norm(source_, pass_->backend());
      if (!norm) return Error(norm.error());
      auto stats = pass_->head_inputs(**norm, Needs::activations, {}, source_.input(name));
      if (!stats) return std::move(stats).error().in(name);
      Status done = round(name, source_, *stats, without_hessian(*recipe), rounded);
      if (!done) return done;
    }
    return keep_finished(rounded);
  }

  Status quantize_layer(std::int64_t index) {
    what_ = fmt::format("layer {} of {}", index + 1, config_.n_layers);
    QuantizedModel block(source_);
    if (Status transformed = transform(index, block); !transformed) return transformed;
    LayerWeights layer;
    if (Status s = load_norms(block, pass_->backend(), index, layer); !s) return s;
    for (const LayerStage stage : layer_stages) {
      const std::vector<std::string> names = stage_matrices(index, stage);
      const auto basis = basis_of_inputs(block, names);
      if (!basis) return Error(basis.error());
      auto stats = pass_->inputs_of(stage, layer, needs_of(names), {}, *basis);
      if (!stats) return std::move(stats).error().in(names.front());
      report_.n_inputs += stats->n_inputs() * stats->n_tokens;
      report_.n_outliers += stats->n_outliers;
      for (const std::string& name : names) {
        const auto recipe = recipe_of(name);
        if (!recipe) continue;
        if (Status done = round(name, block, *stats, *recipe, block); !done) return done;
      }
      if (Status s = load_stage(block, pass_->backend(), index, stage, exact, layer); !s) return s;
    }
    if (Status finished = pass_->finish_layer(layer); !finished) return finished;
    return keep_finished(block);
  }

  /// The block's transforms, on what its stages read before anything of it is rounded.
  Status transform(std::int64_t index, QuantizedModel& block) {
    for (const BlockTransform& transform : options_.transforms) {
      LayerWeights layer;
      for (const LayerStage stage : layer_stages) {
        if (Status s = load_stage(block, pass_->backend(), index, stage, exact, layer); !s) {
          return s;
        }
      }
      BlockInputs inputs;
      const Sampler sampler(pass_->n_windows(), std::ssize(options_.windows.front()));
      for (const LayerStage stage : layer_stages) {
        BlockInputs::Stage& captured = inputs.stages[stage];
        const auto basis = basis_of_inputs(block, stage_matrices(index, stage));
        if (!basis) return Error(basis.error());
        auto stats = pass_->inputs_of(
            stage, layer, Needs::activations,
            [&](std::int64_t, MatrixView x) { sampler.add(x, captured); }, *basis);
        if (!stats) return std::move(stats).error().in(stage_matrices(index, stage).front());
        captured.stats = *std::move(stats);
      }
      layer = LayerWeights();
      if (Status done = transform(index, block, inputs, pool_); !done) return done;
    }
    for (const auto& [name, tensor] : block.replaced()) {
      if (!recipe_of(name)) finished_.push_back(name);
    }
    return ok();
  }

  /// Takes what was finished in a block out of its overlay.
  Status keep_finished(QuantizedModel& block) {
    for (const std::string& name : finished_) tensors_.emplace_back(name, block.take(name));
    finished_.clear();
    return ok();
  }

  Status finish_block(std::int64_t block) {
    if (options_.work != nullptr) {
      std::vector<std::pair<std::string, std::string>> notes;
      for (; n_kept_notes_ < report_.notes.size(); ++n_kept_notes_) {
        notes.emplace_back(report_.notes[n_kept_notes_].tensor, report_.notes[n_kept_notes_].text);
      }
      const std::string hidden = block + 1 < n_blocks()
                                     ? CalibrationPass::hidden_path(options_.work->folder(), block)
                                     : "";
      Status kept = options_.work->finish_block(tensors_, hidden, std::move(notes), pool_);
      tensors_.clear();
      return kept;
    }
    for (auto& [name, tensor] : tensors_) {
      if (Status taken = sink_(name, std::move(tensor)); !taken) return taken;
    }
    tensors_.clear();
    return ok();
  }

  const TensorSource& source_;
  const ModelConfig& config_;
  const PipelineOptions& options_;
  const TensorSink& sink_;
  ThreadPool& pool_;
  std::unique_ptr<CalibrationPass> pass_;
  PipelineReport report_;
  std::size_t n_kept_notes_ = 0;
  std::vector<std::string> finished_;  // names, of the current block
  WorkFolder::Tensors tensors_;        // of the current block
  std::string what_;
  std::int64_t n_done_ = 0;
};

}  // namespace

Result<QuantizedTensor> QuantizedModel::load(std::string_view name) const {
  const auto at = replaced_.find(name);
  if (at != replaced_.end()) return at->second.clone();
  return source().load(name);
}

Basis QuantizedModel::input(std::string_view name) const {
  const auto at = replaced_.find(name);
  return at != replaced_.end() ? at->second.input : source().input(name);
}

std::optional<RowSource> QuantizedModel::rows(std::string_view name) const {
  return replaced_.contains(name) ? std::nullopt : source().rows(name);
}

QuantizedTensor QuantizedModel::take(std::string_view name) {
  const auto at = replaced_.find(name);
  QuantizedTensor tensor = std::move(at->second);
  replaced_.erase(at);
  return tensor;
}

Result<PipelineReport> quantize_blocks(const TensorSource& source, const PipelineOptions& options,
                                       const TensorSink& sink, ThreadPool& pool) {
  return Pipeline(source, options, sink, pool).run();
}

}  // namespace lowbit
