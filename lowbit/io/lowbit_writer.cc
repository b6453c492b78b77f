// SPDX-License-Identifier: Apache-2.0
// Writes a folder in our own convention. Sizes follow from the declarations, so every plane has its
// place before the first tensor comes; planes are ordered by the size of their elements, so that
// each is aligned for readers that map the file. The folder is made beside its place and exchanged
// with what stands there at commit().
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <unordered_set>
#include <utility>

#include "lowbit/base/mapped_file.h"
#include "lowbit/formats/codes.h"
#include "lowbit/formats/learned_code.h"
#include "lowbit/io/checkpoint_writer.h"
#include "lowbit/io/json.h"
#include "lowbit/io/layout.h"
#include "lowbit/io/lowbit_convention.h"
#include "lowbit/io/safetensors_file.h"

namespace lowbit {
namespace {

namespace fs = std::filesystem;
using convention::PlaneInfo;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

class LowbitWriter final : public CheckpointWriter {
 public:
  LowbitWriter(std::string folder, std::vector<SideFile> side_files)
      : folder_(std::move(folder)), side_files_(std::move(side_files)) {}

  Status declare(const std::string& config_json, const std::vector<TensorDeclaration>& tensors) {
    std::vector<convention::NamedTensor> named;
    std::unordered_set<std::string> names;
    for (const TensorDeclaration& tensor : tensors) {
      auto fits = fits_lowbit(tensor.scheme, tensor.shape);
      if (!fits) return std::move(fits).error().in("tensor " + tensor.name);
      named.push_back({tensor.name, tensor.shape, tensor.scheme});
      Stored stored{tensor, {}};
      for (PlaneInfo& info : convention::plane_infos(tensor.scheme, tensor.shape)) {
        if (!names.insert(tensor.name + info.suffix).second) {
          return Error(fmt::format("the name {}{} occurs twice", tensor.name, info.suffix));
        }
        stored.planes.push_back({std::move(info), 0});
      }
      tensors_.push_back(std::move(stored));
    }
    const Json description = convention::description(named);
    Json config = Json::object();
    if (!config_json.empty()) {
      auto parsed = parse_json_object(config_json);
      if (!parsed) return std::move(parsed).error().in("config.json");
      config = std::move(*parsed);
    }
    config["quantization_config"] = description;
    side_files_.push_back({std::string(convention::config_file), to_text(config, 2) + "\n"});
    header_ = header_of(description);
    return ok();
  }

  Status open() {
    auto usable = check_folder();
    if (!usable) return usable;
    fs::path parent = fs::path(folder_).parent_path();
    if (parent.empty()) parent = ".";
    auto file = AtomicFile::create_in(parent.string(), model_path(folder_));
    if (!file) return std::move(file).error();
    file_ = std::make_unique<AtomicFile>(std::move(*file));
    return file_->write(bytes_of(header_));
  }

  Status add(const QuantizedTensor& tensor) override {
    if (n_added_ == tensors_.size()) return Error(folder_ + ": more tensors than were declared");
    const Stored& stored = tensors_[n_added_];
    const TensorDeclaration& declared = stored.declared;
    if (!same_but_for_tables(tensor.scheme, declared.scheme) ||
        tensor.rows != convention::rows_of(declared.shape) ||
        tensor.cols != convention::cols_of(declared.shape)) {
      return Error(fmt::format("tensor {} was declared as {} of {} and is {} x {} of {}",
                               declared.name, fmt::join(declared.shape, " x "),
                               to_string(declared.scheme), tensor.rows, tensor.cols,
                               to_string(tensor.scheme)));
    }
    auto arrays = convention::planes_of(tensor);
    const CodeArray table = convention::table_plane(tensor.scheme);
    if (table.width() != 0) arrays.push_back(&table);
    for (std::size_t p = 0; p < arrays.size(); ++p) {
      auto written = write_plane(*arrays[p], stored.planes[p].offset);
      if (!written) return written;
    }
    ++n_added_;
    return ok();
  }

  Status commit() override {
    if (n_added_ != tensors_.size()) {
      return Error(fmt::format("{}: only {} of {} tensors were written", folder_, n_added_,
                               tensors_.size()));
    }
    const std::string made = temporary_name(folder_);
    if (::mkdir(made.c_str(), 0777) != 0) return system_error("write", folder_, errno);
    auto filled = fill(made);
    auto placed = filled ? exchange(made) : std::move(filled);
    std::error_code ignored;
    fs::remove_all(made, ignored);  // the unfinished folder, or the one that was replaced
    return placed;
  }

  std::int64_t file_bytes() const override {
    std::size_t n_bytes = header_.size() + n_data_bytes_;
    for (const SideFile& side : side_files_) n_bytes += side.text.size();
    return static_cast<std::int64_t>(n_bytes);
  }

 private:
  struct StoredPlane {
    PlaneInfo info;
    std::size_t offset;  // in the file
  };
  struct Stored {
    TensorDeclaration declared;
    std::vector<StoredPlane> planes;
  };

  static std::string model_path(const std::string& folder) {
    return (fs::path(folder) / convention::model_file).string();
  }

  /// Gives every plane its offset; returns the length and the text of the header.
  std::string header_of(const Json& description) {
    std::vector<std::pair<std::string, StoredPlane*>> planes;
    for (Stored& tensor : tensors_) {
      for (StoredPlane& plane : tensor.planes) {
        planes.emplace_back(tensor.declared.name + plane.info.suffix, &plane);
      }
    }
    std::stable_sort(planes.begin(), planes.end(), [](const auto& a, const auto& b) {
      return *safetensors_dtype_bytes(a.second->info.dtype) >
             *safetensors_dtype_bytes(b.second->info.dtype);
    });
    Json header{{"__metadata__",
                 {{"format", "lowbit"},
                  {std::string(convention::metadata_key), to_text(description, -1)}}}};
    for (auto& [name, plane] : planes) {
      const auto n_bytes = static_cast<std::size_t>(plane->info.n_bytes);
      header[name] = {{"dtype", plane->info.dtype},
                      {"shape", plane->info.shape},
                      {"data_offsets", {n_data_bytes_, n_data_bytes_ + n_bytes}}};
      plane->offset = n_data_bytes_;
      n_data_bytes_ += n_bytes;
    }
    std::string text = to_text(header, -1);
    constexpr std::size_t alignment = 8;
    text.resize((text.size() + alignment - 1) / alignment * alignment, ' ');
    const std::uint64_t n_header = text.size();
    std::string length(sizeof n_header, '\0');
    std::memcpy(length.data(), &n_header, sizeof n_header);
    for (auto& [name, plane] : planes) plane->offset += sizeof n_header + text.size();
    return length + text;
  }

  /// A folder that is in the way may go only if it is empty or was written by lowbit.
  Status check_folder() const {
    std::error_code ignored;
    if (!fs::exists(fs::symlink_status(folder_, ignored))) return ok();
    if (!fs::is_directory(folder_, ignored)) {
      return Error(
          fmt::format("cannot write the folder '{}': a file of that name is in the way", folder_));
    }
    if (fs::is_empty(folder_, ignored)) return ok();
    const std::string path = (fs::path(folder_) / convention::config_file).string();
    auto config = MappedFile::open(path);
    if (config) {
      const auto bytes = config->bytes();
      auto json = parse_json_object({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
      if (json && json->contains("quantization_config")) {
        const Json& quantization = (*json)["quantization_config"];
        if (quantization.is_object() &&
            quantization.value("quant_method", Json()) == Json(convention::quant_method)) {
          return ok();
        }
      }
    }
    return Error(
        fmt::format("cannot write the folder '{}': it holds something that lowbit did not "
                    "write; choose another name or remove it",
                    folder_));
  }

  Status write_plane(const CodeArray& array, std::size_t offset) {
    constexpr std::size_t most_buffered = 4 << 20;
    std::vector<std::byte> buffer;
    for (std::int64_t r = 0; r < array.n_rows(); ++r) {
      const auto row = array.row(r);
      buffer.insert(buffer.end(), row.begin(), row.end());
      if (buffer.size() < most_buffered && r + 1 < array.n_rows()) continue;
      auto written = file_->write_at(offset, buffer);
      if (!written) return written;
      offset += buffer.size();
      buffer.clear();
    }
    return ok();
  }

  Status fill(const std::string& made) {
    auto model = file_->commit_as(model_path(made));
    if (!model) return model;
    for (const SideFile& side : side_files_) {
      auto file = AtomicFile::create((fs::path(made) / side.name).string());
      if (!file) return std::move(file).error();
      auto written = file->write(bytes_of(side.text));
      if (!written) return written;
      auto committed = file->commit();
      if (!committed) return committed;
    }
    return ok();
  }

  /// The folder that was made takes the name; what had it takes the other's.
  Status exchange(const std::string& made) const {
    if (::rename(made.c_str(), folder_.c_str()) == 0) return ok();
    if (errno != ENOTEMPTY && errno != EEXIST) return system_error("write", folder_, errno);
    if (::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, folder_.c_str(), RENAME_EXCHANGE) == 0) {
      return ok();
    }
    // File systems without an exchange: two renames, the old folder is never lost between them.
    const std::string old = temporary_name(folder_);
    if (::rename(folder_.c_str(), old.c_str()) != 0 ||
        ::rename(made.c_str(), folder_.c_str()) != 0) {
      return system_error("write", folder_, errno);
    }
    std::error_code ignored;
    fs::remove_all(old, ignored);
    return ok();
  }

  std::string folder_;
  std::vector<SideFile> side_files_;
  std::vector<Stored> tensors_;
  std::string header_;
  std::size_t n_data_bytes_ = 0, n_added_ = 0;
  std::unique_ptr<AtomicFile> file_;
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
  std::string name = fs::path(folder).lexically_normal().string();
  while (name.size() > 1 && name.ends_with('/')) name.pop_back();
  auto writer = std::make_unique<LowbitWriter>(name, std::move(side_files));
  auto declared = writer->declare(config_json, tensors);
  if (!declared) return std::move(declared).error().in(name);
  auto opened = writer->open();
  if (!opened) return std::move(opened).error();
  return std::unique_ptr<CheckpointWriter>(std::move(writer));
}

}  // namespace lowbit
