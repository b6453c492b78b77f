// SPDX-License-Identifier: Apache-2.0
// A model as tensors under canonical names and in canonical order, whatever container holds it.
// Canonical are the Hugging Face names (model.layers.3.self_attn.q_proj.weight) and the rotate-half
// order of the q and k rows; a GGUF file's names and row permutation are undone here and nowhere
// else.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/formats/row_source.h"
#include "lowbit/io/checkpoint.h"
#include "lowbit/model/config.h"
#include "lowbit/model/tokenizer_load.h"

namespace lowbit {

struct ModelTensor {
  std::string name;                 // canonical
  std::string stored_name;          // in the container
  std::vector<std::int64_t> shape;  // outermost first
  Scheme scheme;
  std::int64_t n_bytes = 0;  // in the container
  std::size_t index = 0;     // in the container
  std::int64_t permuted_heads =
      0;  // rows are stored [h, d/2, 2] for this many heads; 0: as they are
  Basis input = {};

  std::int64_t rows() const { return shape.size() < 2 ? 1 : shape[0]; }
  std::int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  bool is_matrix() const { return shape.size() == 2; }
};

class ModelFile {
 public:
  /// A .gguf file (or the first of a split) or a model folder with config.json. Errors name the
  /// file, what is wrong with it and what to do.
  static Result<ModelFile> open(const std::string& path);

  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  std::span<const ModelTensor> tensors() const { return tensors_; }
  const ModelTensor* find(std::string_view name) const;

  /// Fails with a sentence when the file holds no tokenizer, or one of an unsupported kind.
  Result<TokenizerData> tokenizer() const;
  /// The chat template's source; empty when the file has none.
  std::string chat_template() const;

  /// The tensor in planar form and canonical row order.
  Result<QuantizedTensor> load(const ModelTensor& tensor, ThreadPool* pool) const;
  /// The same a few rows at a time; nothing where the container does not hold whole rows. *this
  /// must outlive it.
  std::optional<RowSource> rows_of(const ModelTensor& tensor) const;
  void prefetch(const ModelTensor& tensor) const { checkpoint_->prefetch(tensor.index); }
  /// After packing: the mapped pages leave resident memory.
  void drop_pages(const ModelTensor& tensor) const { checkpoint_->drop_pages(tensor.index); }

  std::int64_t n_parameters() const;
  /// Bits of all matrices in the container over their numbers, embeddings and head included.
  double bits_per_weight() const;

  /// Files of a model folder, empty JSON objects for GGUF: config.json, tokenizer.json, ...
  const nlohmann::json& folder_json(std::string_view file) const;

 private:
  std::string path_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig config_;
  std::vector<ModelTensor> tensors_;
  nlohmann::json config_json_, tokenizer_json_, tokenizer_config_json_, generation_config_json_;
  std::string template_file_;

  Status read_folder();
  Status read_rope_divisors();
  Status name_tensors();
};

/// Rows of every plane in a new order: row i of the result is row order[i] of the tensor. Errors: a
/// scale that is shared by several rows.
Status permute_rows(QuantizedTensor& tensor, std::span<const std::int64_t> order);

/// The same for a matrix or, number by number, for a plain vector (a bias).
Status reorder_outputs(QuantizedTensor& tensor, std::span<const std::int64_t> order,
                       bool is_matrix);

/// Heads whose rows a GGUF file of an architecture with gguf_permutes_qk interleaves; 0 for other
/// tensors.
std::int64_t gguf_permuted_heads(const ModelConfig& config, std::string_view canonical_name);

/// Order that turns [h, d/2, 2] rows (GGUF llama) into [h, 2, d/2] rows (rotate-half), and its
/// inverse.
std::vector<std::int64_t> halves_from_interleaved(std::int64_t n_heads, std::int64_t head_dim);
std::vector<std::int64_t> interleaved_from_halves(std::int64_t n_heads, std::int64_t head_dim);

}  // namespace lowbit
