// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "lowbit/base/assert.h"

namespace lowbit {
namespace {

class FileTensors final : public TensorSource {
 public:
  FileTensors(const ModelFile& file, ThreadPool& pool) : file_(file), pool_(pool) {}

  const ModelConfig& config() const override { return file_.config(); }
  std::optional<Shape> shape(std::string_view name) const override {
    const ModelTensor* tensor = file_.find(name);
    if (tensor == nullptr) return std::nullopt;
    return Shape{tensor->rows(), tensor->cols()};
  }
  Result<QuantizedTensor> load(std::string_view name) const override {
    const ModelTensor* tensor = file_.find(name);
    if (tensor == nullptr) return Error(fmt::format("there is no tensor {}", name));
    return file_.load(*tensor, &pool_);
  }
  Basis input(std::string_view name) const override {
    const ModelTensor* tensor = file_.find(name);
    return tensor != nullptr ? tensor->input : Basis();
  }
  std::optional<RowSource> rows(std::string_view name) const override {
    const ModelTensor* tensor = file_.find(name);
    return tensor != nullptr ? file_.rows_of(*tensor) : std::nullopt;
  }
  void prefetch(std::string_view name) const override {
    if (const ModelTensor* tensor = file_.find(name)) file_.prefetch(*tensor);
  }
  void drop(std::string_view name) const override {
    if (const ModelTensor* tensor = file_.find(name)) file_.drop_pages(*tensor);
  }

 private:
  const ModelFile& file_;
  ThreadPool& pool_;
};

/// One tensor that the architecture asks for.
struct Wanted {
  std::string name;
  TensorSource::Shape shape;
  std::unique_ptr<Weight>* matrix = nullptr;  // one of the two receives it
  std::unique_ptr<Tensor>* vector = nullptr;
  bool is_required = true;
  bool takes_activations = true;  // false for a table that is only read row by row
};

void want_linear(std::vector<Wanted>& wanted, const std::string& name, Linear& linear,
                 std::int64_t n_outputs, std::int64_t n_inputs, bool needs_bias) {
  wanted.push_back({.name = name + ".weight", .shape = {n_outputs, n_inputs}, .matrix = &linear.w});
  wanted.push_back({.name = name + ".bias",
                    .shape = {1, n_outputs},
                    .vector = &linear.bias,
                    .is_required = needs_bias});
}

void want_vector(std::vector<Wanted>& wanted, const std::string& name,
                 std::unique_ptr<Tensor>& vector, std::int64_t n_numbers) {
  wanted.push_back({.name = name, .shape = {1, n_numbers}, .vector = &vector});
}

/// What a stage of a layer asks for.
void want_stage(std::vector<Wanted>& wanted, const ModelConfig& config, std::int64_t index,
                LayerStage stage, LayerWeights& layer) {
  const std::int64_t d_model = config.d_model, d_ff = config.d_ff;
  const std::int64_t d_q = config.n_heads * config.head_dim;
  const std::int64_t d_kv = config.n_kv_heads * config.head_dim;
  const std::string prefix = fmt::format("model.layers.{}.", index);
  const std::string attention = prefix + "self_attn.";
  switch (stage) {
    case LayerStage::qkv: {
      want_vector(wanted, prefix + "input_layernorm.weight", layer.attention_norm, d_model);
      const bool needs_bias = config.arch->needs_qkv_bias;
      want_linear(wanted, attention + "q_proj", layer.q, d_q, d_model, needs_bias);
      want_linear(wanted, attention + "k_proj", layer.k, d_kv, d_model, needs_bias);
      want_linear(wanted, attention + "v_proj", layer.v, d_kv, d_model, needs_bias);
      if (config.arch->qk_norm) {
        want_vector(wanted, attention + "q_norm.weight", layer.q_norm, config.head_dim);
        want_vector(wanted, attention + "k_norm.weight", layer.k_norm, config.head_dim);
      }
      break;
    }
    case LayerStage::o:
      want_linear(wanted, attention + "o_proj", layer.o, d_model, d_q, false);
      break;
    case LayerStage::gate_up:
      want_vector(wanted, prefix + "post_attention_layernorm.weight", layer.feed_forward_norm,
                  d_model);
      want_linear(wanted, prefix + "mlp.gate_proj", layer.gate, d_ff, d_model, false);
      want_linear(wanted, prefix + "mlp.up_proj", layer.up, d_ff, d_model, false);
      break;
    case LayerStage::down:
      want_linear(wanted, prefix + "mlp.down_proj", layer.down, d_model, d_ff, false);
      break;
  }
}

/// THE list of tensors, in the order in which they are loaded: the largest first, because memory
/// peaks while a tensor exists in the file, in planar form and packed.
std::vector<Wanted> wanted_tensors(ModelWeights& model, bool has_head) {
  const ModelConfig& config = model.config;
  std::vector<Wanted> wanted;
  wanted.push_back({.name = std::string(embedding_name),
                    .shape = {config.n_vocab, config.d_model},
                    .matrix = &model.embedding,
                    .takes_activations = !has_head});
  if (has_head) {
    wanted.push_back({.name = std::string(head_name),
                      .shape = {config.n_vocab, config.d_model},
                      .matrix = &model.head});
  }
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    for (const LayerStage stage : layer_stages) {
      want_stage(wanted, config, static_cast<std::int64_t>(i), stage, model.layers[i]);
    }
  }
  want_vector(wanted, std::string(final_norm_name), model.final_norm, config.d_model);
  return wanted;
}

Status bind_vector(const QuantizedTensor& tensor, std::unique_ptr<Tensor>& out, Backend& backend) {
  const std::vector<float> numbers = decode(tensor);
  for (const float number : numbers) {
    if (!std::isfinite(number)) {
      return Error("holds a number that is not finite; the file is damaged");
    }
  }
  out = backend.make_tensor(1, static_cast<std::int64_t>(numbers.size()));
  backend.upload(numbers, *out);
  return ok();
}

std::optional<Activations> activations_of(const Wanted& want, const LoadOptions& options) {
  return want.takes_activations ? options.activations : std::nullopt;
}

/// A matrix of the pack cache; false when it is not there.
Result<bool> adopt_matrix(const Wanted& want, Backend& backend, const LoadOptions& options) {
  if (options.packed == nullptr) return false;
  auto found = options.packed->find(want.name);
  if (!found || found->rows() != want.shape.rows || found->cols() != want.shape.cols) return false;
  auto weight = backend.adopt(*std::move(found), activations_of(want, options));
  if (!weight) return std::move(weight).error();
  *want.matrix = *std::move(weight);
  return true;
}

/// A matrix as it is stored, packed while it is read; false where it has to be loaded first, also
/// when something is wrong with it: loading says what, in the container's words.
bool stream_matrix(const Wanted& want, const TensorSource& source, Backend& backend,
                   const LoadOptions& options) {
  if (options.transform) return false;
  const auto rows = source.rows(want.name);
  if (!rows || rows->rows != want.shape.rows || rows->cols != want.shape.cols) return false;
  auto weight = backend.pack(*rows, activations_of(want, options));
  if (!weight) return false;
  *want.matrix = *std::move(weight);
  source.drop(want.name);
  return true;
}

Status bind_matrix(const Wanted& want, QuantizedTensor tensor, Backend& backend,
                   const LoadOptions& options) {
  if (options.transform) {
    if (!has_finite_scales(tensor)) {
      return Error("has a scale that is not finite; the file is damaged");
    }
    auto transformed = options.transform(want.name, std::move(tensor));
    if (!transformed) return std::move(transformed).error();
    tensor = *std::move(transformed);
    LOWBIT_ASSERT(tensor.rows == want.shape.rows && tensor.cols == want.shape.cols);
  }
  auto packed = backend.pack(tensor, activations_of(want, options));
  if (!packed && options.decode_without_kernel && has_finite_scales(tensor)) {
    const Scheme f32 = *parse_scheme("f32");
    QuantizedTensor decoded = encode_plain(decode(tensor), f32, tensor.rows, tensor.cols);
    decoded.input = tensor.input;
    packed = backend.pack(decoded, activations_of(want, options));
  }
  if (!packed) return std::move(packed).error();
  *want.matrix = *std::move(packed);
  return ok();
}

Status bind(const Wanted& want, const TensorSource& source, Backend& backend,
            const LoadOptions& options) {
  if (want.matrix != nullptr) {
    const auto adopted = adopt_matrix(want, backend, options);
    if (!adopted) return Error(adopted.error());
    if (*adopted || stream_matrix(want, source, backend, options)) return ok();
  }
  auto tensor = source.load(want.name);
  if (!tensor) return std::move(tensor).error();
  if (tensor->rows != want.shape.rows || tensor->cols != want.shape.cols) {
    return Error(fmt::format("holds {} x {} numbers, its header says {} x {}", tensor->rows,
                             tensor->cols, want.shape.rows, want.shape.cols));
  }
  auto bound = want.vector != nullptr ? bind_vector(*tensor, *want.vector, backend)
                                      : bind_matrix(want, *std::move(tensor), backend, options);
  source.drop(want.name);
  return bound;
}

Status check_shapes(const std::vector<Wanted>& wanted, const TensorSource& source) {
  for (const Wanted& want : wanted) {
    const auto found = source.shape(want.name);
    if (!found && want.is_required) {
      return Error(fmt::format("the tensor {} ({} x {}) is missing", want.name, want.shape.rows,
                               want.shape.cols));
    }
    if (found && *found != want.shape) {
      return Error(
          fmt::format("the tensor {} is {} x {}, the model's configuration asks for {} x {}",
                      want.name, found->rows, found->cols, want.shape.rows, want.shape.cols));
    }
  }
  return ok();
}

/// What is not required may be absent.
void drop_absent(std::vector<Wanted>& wanted, const TensorSource& source) {
  std::erase_if(wanted, [&](const Wanted& want) { return !source.shape(want.name); });
}

Status bind_all(std::vector<Wanted>& wanted, const TensorSource& source, Backend& backend,
                const LoadOptions& options) {
  if (auto checked = check_shapes(wanted, source); !checked) return checked;
  drop_absent(wanted, source);
  for (const Wanted& want : wanted) {
    if (auto bound = bind(want, source, backend, options); !bound) {
      return std::move(bound).error().in(want.name);
    }
  }
  return ok();
}

}  // namespace

std::unique_ptr<TensorSource> tensors_of(const ModelFile& file, ThreadPool& pool) {
  return std::make_unique<FileTensors>(file, pool);
}

std::vector<std::string> stage_matrices(std::int64_t layer, LayerStage stage) {
  const auto named = [&](std::initializer_list<std::string_view> matrices) {
    std::vector<std::string> names;
    for (const std::string_view matrix : matrices) {
      names.push_back(fmt::format("model.layers.{}.{}.weight", layer, matrix));
    }
    return names;
  };
  switch (stage) {
    case LayerStage::qkv:
      return named({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"});
    case LayerStage::o:
      return named({"self_attn.o_proj"});
    case LayerStage::gate_up:
      return named({"mlp.gate_proj", "mlp.up_proj"});
    case LayerStage::down:
      break;
  }
  return named({"mlp.down_proj"});
}

std::int64_t stage_inputs(const ModelConfig& config, LayerStage stage) {
  if (stage == LayerStage::o) return config.n_heads * config.head_dim;
  return stage == LayerStage::down ? config.d_ff : config.d_model;
}

std::int64_t ModelWeights::n_bytes() const {
  std::int64_t total = embedding->n_bytes + (head ? head->n_bytes : 0);
  for (const LayerWeights& layer : layers) {
    for (const Linear* linear :
         std::array{&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      total += linear->w->n_bytes;
    }
  }
  return total;
}

Result<ModelWeights> load_weights(const TensorSource& source, Backend& backend,
                                  const LoadOptions& options) {
  ModelWeights model;
  model.config = source.config();
  model.layers.resize(static_cast<std::size_t>(model.config.n_layers));
  const bool has_head = !model.config.tied_embeddings;
  std::vector<Wanted> wanted = wanted_tensors(model, has_head);
  if (auto checked = check_shapes(wanted, source); !checked) return std::move(checked).error();
  drop_absent(wanted, source);

  // What comes next is read from the disk meanwhile; not everything at once, for models that are
  // larger than memory.
  std::size_t n_ahead = 0;
  const auto prefetch_after = [&](std::size_t i) {
    constexpr std::size_t most_ahead = 24;
    for (; n_ahead < std::min(i + most_ahead, wanted.size()); ++n_ahead) {
      if (wanted[n_ahead].matrix == nullptr || options.packed == nullptr)
        source.prefetch(wanted[n_ahead].name);
    }
  };
  const auto n_total = static_cast<std::int64_t>(wanted.size());
  for (std::int64_t i = 0; i < n_total; ++i) {
    prefetch_after(static_cast<std::size_t>(i));
    const Wanted& want = wanted[static_cast<std::size_t>(i)];
    if (auto bound = bind(want, source, backend, options); !bound) {
      return std::move(bound).error().in(want.name);
    }
    if (options.on_matrix && want.matrix != nullptr) options.on_matrix(want.name, **want.matrix);
    if (options.progress && !options.progress(i + 1, n_total)) return Error("loading was stopped");
  }
  return model;
}

Status load_stage(const TensorSource& source, Backend& backend, std::int64_t layer_index,
                  LayerStage stage, const LoadOptions& options, LayerWeights& layer) {
  std::vector<Wanted> wanted;
  want_stage(wanted, source.config(), layer_index, stage, layer);
  return bind_all(wanted, source, backend, options);
}

Status load_norms(const TensorSource& source, Backend& backend, std::int64_t layer_index,
                  LayerWeights& layer) {
  std::vector<Wanted> wanted;
  for (const LayerStage stage : {LayerStage::qkv, LayerStage::gate_up}) {
    std::vector<Wanted> stage_wanted;
    want_stage(stage_wanted, source.config(), layer_index, stage, layer);
    for (Wanted& want : stage_wanted) {
      const bool is_norm =
          want.vector == &layer.attention_norm || want.vector == &layer.feed_forward_norm;
      if (is_norm) wanted.push_back(std::move(want));
    }
  }
  return bind_all(wanted, source, backend, {});
}

Result<std::unique_ptr<Tensor>> load_final_norm(const TensorSource& source, Backend& backend) {
  std::unique_ptr<Tensor> norm;
  std::vector<Wanted> wanted;
  want_vector(wanted, std::string(final_norm_name), norm, source.config().d_model);
  if (auto bound = bind_all(wanted, source, backend, {}); !bound) return std::move(bound).error();
  return norm;
}

Result<std::unique_ptr<Weight>> load_embedding(const TensorSource& source, Backend& backend,
                                               const LoadOptions& options) {
  const ModelConfig& config = source.config();
  std::unique_ptr<Weight> embedding;
  std::vector<Wanted> wanted{{.name = std::string(embedding_name),
                              .shape = {config.n_vocab, config.d_model},
                              .matrix = &embedding,
                              .takes_activations = false}};
  if (auto bound = bind_all(wanted, source, backend, options); !bound) {
    return std::move(bound).error();
  }
  return embedding;
}

Status check_tensors(const TensorSource& source) {
  ModelWeights model;
  model.config = source.config();
  model.layers.resize(static_cast<std::size_t>(model.config.n_layers));
  return check_shapes(wanted_tensors(model, !model.config.tied_embeddings), source);
}

}  // namespace lowbit
