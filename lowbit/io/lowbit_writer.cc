// SPDX-License-Identifier: Apache-2.0
// Writes a folder in our own convention (docs/lowbit-safetensors.md): a tensor of the file for
// every plane, with the scheme as JSON in the header and in config.json.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>
#include <utility>

#include "lowbit/formats/codes.h"
#include "lowbit/formats/learned_code.h"
#include "lowbit/io/checkpoint_writer.h"
#include "lowbit/io/declared_tensors.h"
#include "lowbit/io/json.h"
#include "lowbit/io/lowbit_convention.h"
#include "lowbit/io/safetensors_folder.h"

namespace lowbit {
namespace {

class LowbitWriter final : public CheckpointWriter {
 public:
  static Result<std::unique_ptr<CheckpointWriter>> create(const std::string& folder,
                                                          const std::string& config_json,
                                                          std::vector<SideFile> side_files,
                                                          std::vector<TensorDeclaration> tensors) {
    auto writer = std::make_unique<LowbitWriter>();
    std::vector<convention::NamedTensor> named;
    std::vector<SafetensorsFolder::Tensor> planes;
    for (const TensorDeclaration& tensor : tensors) {
      if (Status fits = fits_lowbit(tensor.scheme, tensor.shape); !fits) {
        return std::move(fits).error().in("tensor " + tensor.name).in(folder);
      }
      named.push_back({tensor.name, tensor.shape, tensor.scheme, tensor.input});
      writer->first_plane_.push_back(planes.size());
      for (const auto& info : convention::plane_infos(tensor.scheme, tensor.shape)) {
        planes.push_back({tensor.name + info.suffix, info.dtype, info.shape, info.n_bytes});
      }
    }
    const Json description = convention::description(named);
    Json config = Json::object();
    if (!config_json.empty()) {
      auto parsed = parse_json_object(config_json);
      if (!parsed) return std::move(parsed).error().in("config.json").in(folder);
      config = std::move(*parsed);
    }
    config["quantization_config"] = description;
    constexpr int indent = 2;
    side_files.push_back({std::string(convention::config_file), to_text(config, indent) + "\n"});
    auto place = SafetensorsFolder::create(
        folder, std::move(planes),
        {{"format", "lowbit"}, {std::string(convention::metadata_key), to_text(description, -1)}},
        std::move(side_files));
    if (!place) return std::move(place).error();
    writer->declared_.emplace(folder, std::move(tensors));
    writer->place_.emplace(std::move(*place));
    return std::unique_ptr<CheckpointWriter>(std::move(writer));
  }

  Status add(const QuantizedTensor& tensor) override {
    const auto index = declared_->next(tensor);
    if (!index) return Error(index.error());
    auto arrays = convention::planes_of(tensor);
    const CodeArray table = convention::table_plane(tensor.scheme);
    if (table.width() != 0) arrays.push_back(&table);
    for (std::size_t p = 0; p < arrays.size(); ++p) {
      Status written = write_plane(first_plane_[*index] + p, *arrays[p]);
      if (!written) return written;
    }
    declared_->advance();
    return ok();
  }

  Status commit() override {
    if (Status complete = declared_->check_complete(); !complete) return complete;
    return place_->commit();
  }
  std::int64_t file_bytes() const override { return place_->file_bytes(); }

 private:
  Status write_plane(std::size_t index, const CodeArray& array) {
    constexpr std::size_t most_buffered = 4 << 20;
    std::vector<std::byte> buffer;
    std::size_t offset = 0;
    for (std::int64_t r = 0; r < array.n_rows(); ++r) {
      const auto row = array.row(r);
      buffer.insert(buffer.end(), row.begin(), row.end());
      if (buffer.size() < most_buffered && r + 1 < array.n_rows()) continue;
      if (Status written = place_->write(index, offset, buffer); !written) return written;
      offset += buffer.size();
      buffer.clear();
    }
    return ok();
  }

  std::optional<DeclaredTensors> declared_;
  std::vector<std::size_t> first_plane_;  // of each tensor, among those of the file
  std::optional<SafetensorsFolder> place_;
};

/// Numbers that are scaled together at the widest level and must be whole along a row: the
/// super-blocks of two-level scales, the groups of microscaling formats and nvfp4.
std::int64_t whole_numbers(const Scheme& scheme) {
  const Scheme* scale = scheme.scale;
  if (scale == nullptr || scheme.group.cols == 0) return scheme.code->dim;
  if (scale->scale != nullptr && scale->group.cols != 0) {
    return std::int64_t{scheme.group.cols} * scale->group.cols;
  }
  const bool is_container_block = scale->scale != nullptr || scale->code == &codes::named("e8m0");
  return is_container_block ? scheme.group.cols : scheme.code->dim;
}

}  // namespace

Status fits_lowbit(const Scheme& scheme, const std::vector<std::int64_t>& shape) {
  if (shape.empty()) return Error("a tensor needs at least one dimension");
  const std::int64_t n_together = whole_numbers(scheme);
  if (shape.back() % n_together == 0) return ok();
  return Error(
      fmt::format("rows of {} numbers are not whole blocks of {} ({} numbers each); choose "
                  "another scheme or give --fallback SCHEME",
                  shape.back(), to_string(scheme), n_together));
}

Result<std::unique_ptr<CheckpointWriter>> create_lowbit_folder(
    const std::string& folder, const std::string& config_json, std::vector<SideFile> side_files,
    std::vector<TensorDeclaration> tensors) {
  return LowbitWriter::create(folder_name(folder), config_json, std::move(side_files),
                              std::move(tensors));
}

}  // namespace lowbit
