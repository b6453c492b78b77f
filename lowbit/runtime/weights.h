// SPDX-License-Identifier: Apache-2.0
// Binds named tensors to an architecture and packs them for a backend: what every weight must be
// called and how large it must be is written here once, as a list. Tensors are loaded, packed and
// dropped one by one, so memory holds the packed model and one tensor in planar form.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/backend/backend.h"
#include "lowbit/backend/pack_cache.h"
#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/model/config.h"
#include "lowbit/model/model_file.h"

namespace lowbit {

/// Where tensors come from, by canonical name.
class TensorSource {
 public:
  struct Shape {
    std::int64_t rows = 0, cols = 0;  // a vector is one row
    bool operator==(const Shape&) const = default;
  };
  virtual ~TensorSource() = default;
  virtual const ModelConfig& config() const = 0;
  virtual std::optional<Shape> shape(std::string_view name) const = 0;
  virtual Result<QuantizedTensor> load(std::string_view name) const = 0;
  /// The basis that load() gives the matrix.
  virtual Basis input(std::string_view /*name*/) const { return {}; }
  /// The same a few rows at a time; nothing where that cannot be.
  virtual std::optional<RowSource> rows(std::string_view /*name*/) const { return std::nullopt; }
  /// The tensor will be loaded soon.
  virtual void prefetch(std::string_view /*name*/) const {}
  /// The tensor has been packed and will not be read again soon.
  virtual void drop(std::string_view name) const = 0;
};

/// Another source, some of whose tensors are changed: what is not overridden comes from it.
class TensorOverlay : public TensorSource {
 public:
  const ModelConfig& config() const override { return source_.config(); }
  std::optional<Shape> shape(std::string_view name) const override { return source_.shape(name); }
  Result<QuantizedTensor> load(std::string_view name) const override { return source_.load(name); }
  Basis input(std::string_view name) const override { return source_.input(name); }
  std::optional<RowSource> rows(std::string_view name) const override { return source_.rows(name); }
  void prefetch(std::string_view name) const override { source_.prefetch(name); }
  void drop(std::string_view name) const override { source_.drop(name); }

 protected:
  /// `source` must outlive this.
  explicit TensorOverlay(const TensorSource& source) : source_(source) {}
  const TensorSource& source() const { return source_; }

 private:
  const TensorSource& source_;
};

/// `file` and `pool` must outlive the result.
std::unique_ptr<TensorSource> tensors_of(const ModelFile& file, ThreadPool& pool);

struct Linear {
  std::unique_ptr<Weight> w;     // (outputs, inputs)
  std::unique_ptr<Tensor> bias;  // (1, outputs) or null
};

struct LayerWeights {
  std::unique_ptr<Tensor> attention_norm, feed_forward_norm;  // (1, d_model)
  std::unique_ptr<Tensor> q_norm, k_norm;                     // (1, head_dim) or null
  Linear q, k, v, o, gate, up, down;
};

/// The matrices of a layer by the input they share, in the order of the forward pass.
enum class LayerStage : std::uint8_t {
  qkv,      // q, k, v: norm(x)
  o,        // o: the mixed values of attention
  gate_up,  // gate, up: norm(x + attention)
  down,     // down: silu(gate) * up
};
inline constexpr std::array layer_stages{LayerStage::qkv, LayerStage::o, LayerStage::gate_up,
                                         LayerStage::down};
/// Canonical names of the stage's matrices.
std::vector<std::string> stage_matrices(std::int64_t layer, LayerStage stage);
/// Their width.
std::int64_t stage_inputs(const ModelConfig& config, LayerStage stage);

/// The names of what stands outside the layers.
inline constexpr std::string_view embedding_name = "model.embed_tokens.weight";
inline constexpr std::string_view head_name = "lm_head.weight";
inline constexpr std::string_view final_norm_name = "model.norm.weight";

/// A model ready to run.
struct ModelWeights {
  ModelConfig config;
  std::unique_ptr<Weight> embedding;  // (n_vocab, d_model)
  std::vector<LayerWeights> layers;
  std::unique_ptr<Tensor> final_norm;  // (1, d_model)
  std::unique_ptr<Weight> head;        // (n_vocab, d_model); null: the embedding is the head too

  const Weight& output_head() const { return head ? *head : *embedding; }
  /// Bytes of all packed matrices.
  std::int64_t n_bytes() const;
};

/// Takes the place of a matrix before it is packed, e.g. re-quantized: (canonical name, tensor).
using TensorTransform = std::function<Result<QuantizedTensor>(std::string_view, QuantizedTensor)>;

struct LoadOptions {
  std::optional<Activations> activations = {};  // nothing: each tensor's default
  TensorTransform transform = {};               // for matrices; null: as stored
  /// A matrix in a scheme without a kernel is packed as the f32 numbers it decodes to, for those
  /// who need what it computes and not how fast.
  bool decode_without_kernel = false;
  /// Matrices that were packed before, found by canonical name; null: none. `transform` has been
  /// applied to them.
  const PackCache* packed = nullptr;
  /// Sees every matrix that was bound, with its canonical name.
  std::function<void(const std::string& name, const Weight& matrix)> on_matrix = {};
  /// In tensors; false stops.
  std::function<bool(std::int64_t n_done, std::int64_t n_total)> progress = {};
};

/// Errors name the tensor: missing, of another shape, scales not finite, activations it cannot
/// take.
Result<ModelWeights> load_weights(const TensorSource& source, Backend& backend,
                                  const LoadOptions& options);

/// The tensors of one stage alone, with the norms and biases that belong to it: for those who walk
/// through a model layer by layer and keep little in memory. What `layer` held of it is replaced.
Status load_stage(const TensorSource& source, Backend& backend, std::int64_t layer_index,
                  LayerStage stage, const LoadOptions& options, LayerWeights& layer);
/// The two norms of a layer's inputs.
Status load_norms(const TensorSource& source, Backend& backend, std::int64_t layer_index,
                  LayerWeights& layer);
/// The table of the tokens' vectors alone.
Result<std::unique_ptr<Weight>> load_embedding(const TensorSource& source, Backend& backend,
                                               const LoadOptions& options);
/// The norm before the head.
Result<std::unique_ptr<Tensor>> load_final_norm(const TensorSource& source, Backend& backend);
/// Whether every tensor the architecture asks for is there in the right shape; names the first that
/// is not.
Status check_tensors(const TensorSource& source);

}  // namespace lowbit
