// SPDX-License-Identifier: Apache-2.0
// Writes a model that was read from a ModelFile, its tensors perhaps in other schemes, as GGUF (-o
// X.gguf) or as a folder (-o DIR/). Names, row order, sizes, tokenizer and chat template are
// carried over to what the container calls them; where it has no word for something, creating the
// writer fails and says so.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "lowbit/base/result.h"
#include "lowbit/io/checkpoint_writer.h"
#include "lowbit/model/model_file.h"

namespace lowbit {

/// folder: in our own convention.
enum class Container : std::uint8_t { gguf, folder, compressed_tensors };

/// What a folder shall be like.
struct FolderConvention {
  bool compressed_tensors = false;  // else our own
  /// Of compressed-tensors: what its readers shall quantize the inputs of their matrix products to.
  std::optional<Scheme> activations = {};
};
/// "lowbit", "compressed-tensors" or "compressed-tensors,a=int8.token".
Result<FolderConvention> parse_convention(std::string_view text);

/// By the name: ".gguf" is GGUF; a name that ends in '/' or has no extension is a folder; all else
/// is an error that says which two there are.
Result<Container> container_of(const std::string& output, const FolderConvention& convention = {});

/// Whether the container can hold the tensor in this scheme; the error says what to do.
Status fits(Container container, const Scheme& scheme, const ModelTensor& tensor);
/// What the tensor takes there in a scheme that fits, scales and zeros included.
std::int64_t stored_bytes(Container container, const Scheme& scheme, const ModelTensor& tensor);

struct OutputTensor {
  const ModelTensor* source = nullptr;
  Scheme
      scheme;  // vectors in GGUF are written as f32 whatever stands here: its readers expect that
  Basis input = {};
};

class ModelWriter {
 public:
  /// `source` must outlive the writer. Tensors are added in the order given here.
  static Result<ModelWriter> create(const ModelFile& source, const std::string& output,
                                    std::span<const OutputTensor> tensors,
                                    const FolderConvention& convention = {});

  /// The next tensor, in canonical row order.
  Status add(QuantizedTensor tensor);
  /// The output stands under its name, whole and on the disk.
  Status commit() { return writer_->commit(); }
  std::int64_t file_bytes() const { return writer_->file_bytes(); }

 private:
  ModelWriter() = default;
  std::unique_ptr<CheckpointWriter> writer_;
  std::vector<OutputTensor> tensors_;
  Container container_ = Container::gguf;
  std::int64_t head_dim_ = 0;
  bool permutes_qk_ = false;
  const ModelConfig* config_ = nullptr;
  std::size_t n_added_ = 0;
  bool writes_divisors_ = false;
};

}  // namespace lowbit
