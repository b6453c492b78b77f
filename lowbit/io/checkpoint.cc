// SPDX-License-Identifier: Apache-2.0
#include "lowbit/io/checkpoint.h"

#include <fmt/format.h>

#include <filesystem>

#include "lowbit/base/byte_reader.h"
#include "lowbit/base/mapped_file.h"
#include "lowbit/io/gguf_format.h"

namespace lowbit {

Result<std::unique_ptr<Checkpoint>> open_checkpoint(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored) || path.ends_with(".safetensors")) {
    return open_safetensors(path);
  }
  auto file = MappedFile::open(path);
  if (!file) return std::move(file).error();
  const bool is_gguf = ByteReader(file->bytes()).text(gguf::magic.size()) == gguf::magic;
  if (is_gguf || path.ends_with(".gguf")) return open_gguf(path);
  return Error(
      fmt::format("{} is no model that lowbit reads: neither a GGUF file nor a safetensors "
                  "file or folder",
                  path));
}

std::int64_t TensorInfo::cols() const {
  return shape.empty() ? 1 : shape.back();
}

std::int64_t TensorInfo::rows() const {
  std::int64_t product = 1;
  for (std::size_t d = 0; d + 1 < shape.size(); ++d) product *= shape[d];
  return product;
}

std::int64_t Checkpoint::index_of(std::string_view name) const {
  const auto all = tensors();
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i].name == name) return static_cast<std::int64_t>(i);
  }
  return -1;
}

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const std::int64_t index = index_of(name);
  return index < 0 ? nullptr : &tensors()[static_cast<std::size_t>(index)];
}

std::int64_t Checkpoint::file_bytes() const {
  std::size_t n_bytes = 0;
  for (const MappedFile* file : files()) n_bytes += file->bytes().size();
  return static_cast<std::int64_t>(n_bytes);
}

Result<QuantizedTensor> Checkpoint::checked(QuantizedTensor tensor, const std::string& place,
                                            std::string_view name) {
  if (has_finite_scales(tensor)) return tensor;
  return Error(
      fmt::format("{}: tensor {} has a scale that is not a finite number; the file is damaged, "
                  "get it again",
                  place, shown(name)));
}

double bits_per_weight(const Checkpoint& checkpoint) {
  std::int64_t n_bytes = 0, n_numbers = 0;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    n_bytes += tensor.n_bytes;
    n_numbers += tensor.n_numbers();
  }
  return n_numbers == 0 ? 0 : 8.0 * static_cast<double>(n_bytes) / static_cast<double>(n_numbers);
}

}  // namespace lowbit
