// SPDX-License-Identifier: Apache-2.0
// Writing a checkpoint: everything about the tensors but their numbers is declared first, then each
// tensor is added in the declared order as soon as it is made, so that memory holds one at a time.
// The output appears whole at commit() or not at all.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/io/metadata.h"

namespace lowbit {

struct TensorDeclaration {
  std::string name;
  std::vector<std::int64_t> shape;  // outermost first
  Scheme scheme;
  Basis input = {};
};

class CheckpointWriter {
 public:
  /// Without commit() nothing stays behind.
  virtual ~CheckpointWriter() = default;
  /// The next declared tensor. Errors: not of the declared shape and scheme, numbers that the
  /// container cannot hold, a full disk.
  virtual Status add(const QuantizedTensor& tensor) = 0;
  /// All declared tensors must have been added. Then the output stands under its name, fsynced.
  virtual Status commit() = 0;
  /// Bytes of the finished output (known from the declarations; side files included).
  virtual std::int64_t file_bytes() const = 0;
};

/// Whether a container can hold a tensor of this scheme and shape. The error says which scheme or
/// row length is in the way and what to do (another scheme, -o DIR/, --fallback).
Status fits_gguf(const Scheme& scheme, const std::vector<std::int64_t>& shape);
Status fits_lowbit(const Scheme& scheme, const std::vector<std::int64_t>& shape);
Status fits_compressed_tensors(std::string_view name, const Scheme& scheme,
                               const std::vector<std::int64_t>& shape);

/// general.alignment is taken from the metadata where it is set.
Result<std::unique_ptr<CheckpointWriter>> create_gguf(const std::string& path,
                                                      const Metadata& metadata,
                                                      std::vector<TensorDeclaration> tensors);

/// A file that lies beside the tensors of a folder: tokenizer.json, generation_config.json ...
struct SideFile {
  std::string name;
  std::string text;
};
/// DIR/model.safetensors and DIR/config.json in our own convention; quantization_config is added to
/// config_json (a JSON object, "" for none). A folder that exists is replaced only if it is empty
/// or was written by lowbit.
Result<std::unique_ptr<CheckpointWriter>> create_lowbit_folder(
    const std::string& folder, const std::string& config_json, std::vector<SideFile> side_files,
    std::vector<TensorDeclaration> tensors);

/// The same in the compressed-tensors convention, which transformers and vLLM load. activations:
/// what their matrix products shall quantize x to (int8.token, e4m3.token); nothing: x stays as it
/// is.
Result<std::unique_ptr<CheckpointWriter>> create_compressed_tensors_folder(
    const std::string& folder, const std::string& config_json, std::vector<SideFile> side_files,
    std::vector<TensorDeclaration> tensors, const std::optional<Scheme>& activations);

}  // namespace lowbit
