// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/calibration_pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "lowbit/backend/cpu_backend.h"
#include "lowbit/base/assert.h"

namespace lowbit {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Status check_windows(const ModelConfig& config, const CalibrationWindows& windows) {
  if (windows.empty() || windows.front().empty()) return Error("there is no calibration text");
  const std::size_t n_ctx = windows.front().size();
  if (static_cast<std::int64_t>(n_ctx) > config.n_ctx_train) {
    return Error(fmt::format(
        "a calibration window of {} tokens is beyond the model's context of {}; use a smaller "
        "--calibration-ctx",
        n_ctx, config.n_ctx_train));
  }
  for (const std::vector<std::int32_t>& window : windows) {
    if (window.size() != n_ctx) return Error("calibration windows differ in length");
    for (const std::int32_t id : window) {
      if (id < 0 || id >= config.n_vocab) {
        return Error(fmt::format("the calibration text has token {}, the model only {}", id,
                                 config.n_vocab));
      }
    }
  }
  return ok();
}

}  // namespace

CalibrationPass::CalibrationPass(const ModelConfig& config, const CalibrationWindows& windows,
                                 std::unique_ptr<Backend> backend, const KernelTable& kernels,
                                 ThreadPool& pool)
    : config_(config),
      windows_(windows),
      backend_(std::move(backend)),
      kernels_(kernels),
      pool_(pool),
      pass_(*backend_, config, static_cast<std::int64_t>(windows.front().size())) {}

std::string CalibrationPass::hidden_path(const std::string& folder, std::int64_t index) {
  // Two take turns: the states of a layer stand until those of the next one do.
  constexpr std::int64_t n_files = 2;
  return folder.empty() ? "" : fmt::format("{}/hidden-{}", folder, index % n_files);
}

Result<std::unique_ptr<CalibrationPass>> CalibrationPass::create(const ModelConfig& config,
                                                                 const CalibrationWindows& windows,
                                                                 const std::string& folder,
                                                                 std::int64_t first_layer,
                                                                 ThreadPool& pool) {
  if (Status checked = check_windows(config, windows); !checked) return std::move(checked).error();
  const auto kernels = select_kernels();
  if (!kernels) return Error(kernels.error());
  auto backend = make_cpu_backend(pool);
  if (!backend) return std::move(backend).error();
  std::unique_ptr<CalibrationPass> pass(
      new CalibrationPass(config, windows, *std::move(backend), **kernels, pool));
  const auto n_ctx = static_cast<std::int64_t>(windows.front().size());
  auto cache = KvCache::create(*pass->backend_,
                               {.kind = KvKind::f32,
                                .n_layers = 1,
                                .n_kv_heads = config.n_kv_heads,
                                .head_dim = config.head_dim},
                               n_ctx);
  if (!cache) return std::move(cache).error();
  pass->cache_ = std::make_unique<KvCache>(*std::move(cache));
  if (!pass->cache_->grow(pass->sequence_, n_ctx)) return Error("no room for one window");
  const std::int64_t side_cols = std::max(config.d_ff, config.n_heads * config.head_dim);
  const auto open = [&](RowStore& store, const std::string& path, std::int64_t n_cols) -> Status {
    auto created = RowStore::create(path, pass->n_windows(), n_ctx * n_cols);
    if (!created) return std::move(created).error();
    store = *std::move(created);
    return ok();
  };
  for (Status status : {open(pass->x_, hidden_path(folder, first_layer), config.d_model),
                        open(pass->next_x_, hidden_path(folder, first_layer + 1), config.d_model),
                        open(pass->side_, folder.empty() ? "" : folder + "/inputs", side_cols)}) {
    if (!status) return std::move(status).error();
  }
  return pass;
}

Status CalibrationPass::load(const RowStore& store, Tensor& tensor) {
  host_.resize(static_cast<std::size_t>(tensor.rows * tensor.cols));
  if (Status status = store.read(window_, host_); !status) return status;
  backend_->upload(host_, tensor);
  return ok();
}

Status CalibrationPass::save(RowStore& store, const Tensor& tensor) {
  host_.resize(static_cast<std::size_t>(tensor.rows * tensor.cols));
  backend_->download(tensor, host_);
  return store.write(window_, host_);
}

Result<TensorStats> CalibrationPass::each_window(
    std::int64_t n_inputs, Needs needs, const RowVisitor& visit, const Basis& basis,
    const std::function<Result<const Tensor*>()>& body) {
  InputSums sums(n_inputs, needs, kernels_, pool_);
  for (window_ = 0; window_ < n_windows(); ++window_) {
    const auto start = Clock::now();
    const StepSequence step{.tokens = windows_[static_cast<std::size_t>(window_)],
                            .first_position = 0,
                            .kv = &sequence_,
                            .n_logits = 0};
    pass_.begin({&step, 1});
    const auto inputs = body();
    if (!inputs) return Error(inputs.error());
    times_.forward += seconds_since(start);
    if (*inputs != nullptr && (needs != Needs::weights || visit)) {
      const auto collecting = Clock::now();
      host_.resize(static_cast<std::size_t>((*inputs)->rows * (*inputs)->cols));
      backend_->download(**inputs, host_);
      const MatrixView x(host_.data(), (*inputs)->rows, (*inputs)->cols);
      turn(basis, x.cols);
      sums.add(x);
      if (visit) visit(window_, x);
      times_.statistics += seconds_since(collecting);
    }
    if (progress_ && !progress_()) return Error("interrupted");
  }
  const auto start = Clock::now();
  auto stats = sums.take();
  times_.statistics += seconds_since(start);
  return stats;
}

/// Every row that was downloaded, into the basis.
void CalibrationPass::turn(const Basis& basis, std::int64_t n_cols) {
  if (basis.is_plain()) return;
  constexpr std::int64_t rows_per_chunk = 8;
  const auto n = static_cast<std::size_t>(n_cols);
  const auto n_rows = static_cast<std::int64_t>(host_.size() / n);
  pool_.parallel_for(n_rows, rows_per_chunk, [&](std::int64_t first, std::int64_t last, int) {
    for (auto row = static_cast<std::size_t>(first); row < static_cast<std::size_t>(last); ++row) {
      float* const x = host_.data() + row * n;
      kernels_.vector.hadamard(x, basis.hadamard, n_cols, x);
    }
  });
}

Status CalibrationPass::embed(const Weight& embedding) {
  auto done = each_window(config_.d_model, Needs::weights, {}, {}, [&]() -> Result<const Tensor*> {
    backend_->embed(embedding, windows_[static_cast<std::size_t>(window_)], pass_.x());
    if (Status saved = save(x_, pass_.x()); !saved) return std::move(saved).error();
    return nullptr;
  });
  if (!done) return std::move(done).error();
  return ok();
}

Result<TensorStats> CalibrationPass::inputs_of(LayerStage stage, const LayerWeights& layer,
                                               Needs needs, const RowVisitor& visit,
                                               const Basis& basis) {
  const auto qkv = [&]() -> Result<const Tensor*> {
    if (Status loaded = load(x_, pass_.x()); !loaded) return std::move(loaded).error();
    pass_.norm_x(*layer.attention_norm);
    return &pass_.normed();
  };
  const auto o = [&]() -> Result<const Tensor*> {
    if (Status loaded = load(x_, pass_.x()); !loaded) return std::move(loaded).error();
    const StepSequence step{.tokens = windows_[static_cast<std::size_t>(window_)],
                            .first_position = 0,
                            .kv = &sequence_,
                            .n_logits = 0};
    pass_.project(layer, /*layer_index=*/0, {&step, 1}, *cache_);
    pass_.mix(*cache_);
    if (Status saved = save(side_, pass_.mixed()); !saved) return std::move(saved).error();
    return &pass_.mixed();
  };
  const auto gate_up = [&]() -> Result<const Tensor*> {
    if (Status loaded = load(x_, pass_.x()); !loaded) return std::move(loaded).error();
    if (Status loaded = load(side_, pass_.mixed()); !loaded) return std::move(loaded).error();
    pass_.add_attention(layer);
    if (Status saved = save(next_x_, pass_.x()); !saved) return std::move(saved).error();
    pass_.norm_x(*layer.feed_forward_norm);
    return &pass_.normed();
  };
  const auto down = [&]() -> Result<const Tensor*> {
    if (Status loaded = load(next_x_, pass_.x()); !loaded) return std::move(loaded).error();
    pass_.gate(layer);
    if (Status saved = save(side_, pass_.gated()); !saved) return std::move(saved).error();
    return &pass_.gated();
  };
  const std::int64_t n_inputs = stage_inputs(config_, stage);
  switch (stage) {
    case LayerStage::qkv:
      return each_window(n_inputs, needs, visit, basis, qkv);
    case LayerStage::o:
      return each_window(n_inputs, needs, visit, basis, o);
    case LayerStage::gate_up:
      return each_window(n_inputs, needs, visit, basis, gate_up);
    case LayerStage::down:
      break;
  }
  return each_window(n_inputs, needs, visit, basis, down);
}

Status CalibrationPass::finish_layer(const LayerWeights& layer) {
  auto done = each_window(config_.d_model, Needs::weights, {}, {}, [&]() -> Result<const Tensor*> {
    if (Status loaded = load(next_x_, pass_.x()); !loaded) return std::move(loaded).error();
    if (Status loaded = load(side_, pass_.gated()); !loaded) return std::move(loaded).error();
    pass_.add_feed_forward(layer);
    if (Status saved = save(next_x_, pass_.x()); !saved) return std::move(saved).error();
    return nullptr;
  });
  if (!done) return std::move(done).error();
  std::swap(x_, next_x_);
  return ok();
}

Result<TensorStats> CalibrationPass::head_inputs(const Tensor& final_norm, Needs needs,
                                                 const RowVisitor& visit, const Basis& basis) {
  return each_window(config_.d_model, needs, visit, basis, [&]() -> Result<const Tensor*> {
    if (Status loaded = load(x_, pass_.x()); !loaded) return std::move(loaded).error();
    pass_.norm_x(final_norm);
    return &pass_.normed();
  });
}

}  // namespace lowbit
