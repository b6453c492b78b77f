// SPDX-License-Identifier: Apache-2.0
// A checkpoint is named tensors in a container, whatever the container: readers give every tensor
// in planar form with the scheme its bytes mean, writers take the same back. Nothing above this
// interface knows about GGUF blocks or safetensors headers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/mapped_file.h"
#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/io/metadata.h"

namespace lowbit {

struct TensorInfo {
  std::string name;
  std::vector<std::int64_t> shape;  // outermost first; a vector is {n}, a number {1}
  Scheme scheme;
  std::int64_t n_bytes = 0;  // in the container, scales included
  Basis input = {};

  std::int64_t rows() const;  // product of all but the innermost dimension; 1 for a vector
  std::int64_t cols() const;  // the innermost dimension
  std::int64_t n_numbers() const { return rows() * cols(); }
};

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  /// "gguf", "safetensors" or "lowbit".
  virtual std::string_view container() const = 0;
  /// The file or folder that was opened.
  virtual const std::string& path() const = 0;
  /// GGUF's key-values (of the first file of a split); empty for safetensors.
  virtual const Metadata& metadata() const = 0;
  virtual std::span<const TensorInfo> tensors() const = 0;
  /// The tensor in planar form, rows in parallel over the pool (null: on this thread).
  virtual Result<QuantizedTensor> load(std::size_t index, ThreadPool* pool) const = 0;
  /// Reads row rows[i] of a tensor into row i of `out`, as RowSource::read does; null where the
  /// container does not hold whole rows.
  using ReadRows = std::function<void(std::span<const std::int64_t> rows, QuantizedTensor& out)>;
  virtual ReadRows row_reader(std::size_t /*index*/) const { return {}; }
  /// The tensor is wanted soon: the system starts reading it.
  virtual void prefetch(std::size_t /*index*/) const {}
  /// The tensor's file pages leave resident memory: for use after packing.
  virtual void drop_pages(std::size_t index) const = 0;
  /// What the tensors are in, in order: for hashing.
  virtual std::vector<const MappedFile*> files() const = 0;
  /// The whole text of a file beside the tensors (config.json, tokenizer.json); an error names the
  /// path when there is none. GGUF has no such files.
  virtual Result<std::string> side_file(std::string_view name) const = 0;

  /// The place of a tensor in tensors(), or -1.
  std::int64_t index_of(std::string_view name) const;
  const TensorInfo* find(std::string_view name) const;
  /// All files together.
  std::int64_t file_bytes() const;

 protected:
  template <class File>
  static std::vector<const MappedFile*> mapped_of(const std::vector<File>& files) {
    std::vector<const MappedFile*> mapped;
    for (const File& file : files) mapped.push_back(&file.mapped);
    return mapped;
  }
  /// What load() has read from `place`. Error: a scale that is not a finite number.
  static Result<QuantizedTensor> checked(QuantizedTensor tensor, const std::string& place,
                                         std::string_view name);
};

/// A file ending in .gguf (the first or any file of NAME-00001-of-0000N.gguf opens the whole
/// split), or a safetensors file or folder.
Result<std::unique_ptr<Checkpoint>> open_checkpoint(const std::string& path);
Result<std::unique_ptr<Checkpoint>> open_gguf(const std::string& path);
/// A Hugging Face folder with or without an index (f32, f16, bf16), one .safetensors file, or a
/// folder in our own convention (docs/lowbit-safetensors.md).
Result<std::unique_ptr<Checkpoint>> open_safetensors(const std::string& folder_or_file);

/// Bits per number over all tensors of a checkpoint, as its container stores them.
double bits_per_weight(const Checkpoint& checkpoint);

}  // namespace lowbit
