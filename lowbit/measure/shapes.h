// SPDX-License-Identifier: Apache-2.0
// Models of known sizes with random weights: the speed of a model that nobody has to download. The
// list is a table of sizes; the tensors follow from them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/scheme.h"
#include "lowbit/model/config.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

/// The sizes of a published model, from its config.json. Rope divisors are left out: they change
/// angles, not time.
struct ModelShape {
  std::string_view name;
  std::string_view family;  // ArchSpec::hf_model_type
  std::int64_t n_layers, d_model, d_ff, n_heads, n_kv_heads, head_dim, n_vocab, n_ctx_train;
  bool tied;
  float norm_eps, rope_base;
};
std::span<const ModelShape> model_shapes();

/// Errors: a name that is not in the list; the sentence holds the list.
Result<ModelConfig> config_of_shape(std::string_view name);

/// Random tensors of a model, made when they are asked for.
class RandomWeights : public TensorSource {
 public:
  /// Matrices in `scheme`, vectors in f32. `pool` must outlive this. Errors: rows that the scheme's
  /// blocks do not fill.
  static Result<std::unique_ptr<RandomWeights>> create(const ModelConfig& config,
                                                       const Scheme& scheme, ThreadPool& pool);

  const ModelConfig& config() const override { return config_; }
  std::optional<Shape> shape(std::string_view name) const override;
  Result<QuantizedTensor> load(std::string_view name) const override;
  void drop(std::string_view) const override {}

  struct Named {
    std::string name;  // canonical
    Shape shape;
    bool is_vector = false;
  };
  /// In the order of the layers.
  std::span<const Named> tensors() const { return tensors_; }
  const Scheme& scheme_of(const Named& tensor) const;

 private:
  RandomWeights(const ModelConfig& config, const Scheme& scheme, ThreadPool& pool);
  const Named* find(std::string_view name) const;

  ModelConfig config_;
  Scheme scheme_, plain_;
  ThreadPool& pool_;
  std::vector<Named> tensors_;
};

}  // namespace lowbit
