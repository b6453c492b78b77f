// SPDX-License-Identifier: Apache-2.0
// A model folder that is being written: one model.safetensors and the files beside it. Tensors are
// declared first, so that each has its place before the first byte comes; the folder is made beside
// its place and exchanged with what stands there at commit(), so it appears whole or not at all.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lowbit/base/mapped_file.h"
#include "lowbit/base/result.h"
#include "lowbit/io/checkpoint_writer.h"

namespace lowbit {

/// Marks a quantization_config that lowbit wrote where its quant_method is the name of another's.
inline constexpr std::string_view writer_key = "written_by", writer_word = "lowbit";

class SafetensorsFolder {
 public:
  struct Tensor {
    std::string name, dtype;
    std::vector<std::int64_t> shape;
    std::int64_t n_bytes = 0;
  };

  /// folder: without '/' at the end. A folder that is there is replaced only if it is empty or if
  /// its config.json says that lowbit wrote it, in whatever convention.
  static Result<SafetensorsFolder> create(const std::string& folder, std::vector<Tensor> tensors,
                                          const std::map<std::string, std::string>& metadata,
                                          std::vector<SideFile> side_files);

  /// Bytes of tensor `index`, from `offset` of its own on.
  Status write(std::size_t index, std::size_t offset, std::span<const std::byte> bytes);
  Status commit();
  std::int64_t file_bytes() const;

 private:
  SafetensorsFolder() = default;
  Status check_place() const;
  Status fill(const std::string& made);
  Status exchange(const std::string& made) const;

  std::string folder_;
  std::vector<SideFile> side_files_;
  std::vector<std::size_t> offsets_;  // in the file
  std::size_t n_bytes_ = 0;           // of the file
  std::unique_ptr<AtomicFile> file_;
};

/// The name of a folder without the '/' at its end.
std::string folder_name(const std::string& folder);

}  // namespace lowbit
