// SPDX-License-Identifier: Apache-2.0
// A model that can run: its weights packed for a backend, its tokenizer, and the recipe by which it
// runs.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/model/model_file.h"
#include "lowbit/model/tokenizer.h"
#include "lowbit/runtime/forward.h"
#include "lowbit/runtime/recipe.h"

namespace lowbit {

class LoadedModel {
 public:
  struct Note {
    std::string text;
    bool is_warning = false;
  };
  /// `pool` must outlive the model; the file is needed only while loading. Re-quantization (w= in
  /// the recipe) is the caller's: it comes as options.transform. Errors: no tokenizer, weights that
  /// do not fit the architecture, activations a tensor cannot take, an instruction set that is not
  /// there.
  /// With pack_cache the packed matrices are taken from the file beside the model, which is written
  /// when it cannot be used; notes() says which.
  static Result<std::unique_ptr<LoadedModel>> load(const ModelFile& file, const Recipe& recipe,
                                                   ThreadPool& pool, LoadOptions options,
                                                   bool pack_cache = false);
  /// A model of tensors alone, for measuring: tokens are ids, tokenizer() must not be called.
  static Result<std::unique_ptr<LoadedModel>> load(const TensorSource& tensors,
                                                   const Recipe& recipe, ThreadPool& pool,
                                                   LoadOptions options);

  Backend& backend() const { return *backend_; }
  const ModelWeights& weights() const { return weights_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const Recipe& recipe() const { return recipe_; }
  /// What happened to the pack cache, for people to read.
  const std::vector<Note>& notes() const { return notes_; }
  /// One line for each kind of matrix: how many, scheme, activations, the kernels that run it.
  std::vector<std::string> describe() const;
  KvShape kv_shape() const {
    const ModelConfig& config = weights_.config;
    return {recipe_.kv, config.n_layers, config.n_kv_heads, config.head_dim};
  }

 private:
  LoadedModel() = default;
  /// Without weights and tokenizer yet.
  static Result<std::unique_ptr<LoadedModel>> create(const Recipe& recipe, ThreadPool& pool);
  Status load_weights_of(const TensorSource& tensors, const LoadOptions& options);
  Status load_weights_cached(const ModelFile& file, ThreadPool& pool, LoadOptions options);

  std::unique_ptr<Backend> backend_;
  ModelWeights weights_;
  std::unique_ptr<Tokenizer> tokenizer_;
  Recipe recipe_;
  std::vector<Note> notes_;
};

/// The recipe of a teacher: nothing but the stored weights loses anything.
inline Recipe exact_recipe() {
  return {.weights = {}, .activations = Activations::f32, .kv = KvKind::f32};
}

}  // namespace lowbit
