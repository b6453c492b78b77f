// SPDX-License-Identifier: Apache-2.0
#include "lowbit/io/safetensors_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <unordered_set>

#include "lowbit/base/text_file.h"
#include "lowbit/io/json.h"
#include "lowbit/io/lowbit_convention.h"
#include "lowbit/io/safetensors_file.h"

namespace lowbit {
namespace {

namespace fs = std::filesystem;

std::string model_path(const std::string& folder) {
  return (fs::path(folder) / convention::model_file).string();
}

bool is_ours(std::string_view config) {
  const auto json = parse_json_object(config);
  if (!json || !json->contains("quantization_config")) return false;
  const Json& quantization = (*json)["quantization_config"];
  return quantization.is_object() &&
         (quantization.value(std::string(writer_key), Json()) == Json(writer_word) ||
          quantization.value("quant_method", Json()) == Json(convention::quant_method));
}

}  // namespace

std::string folder_name(const std::string& folder) {
  std::string name = fs::path(folder).lexically_normal().string();
  while (name.size() > 1 && name.ends_with('/')) name.pop_back();
  return name;
}

Result<SafetensorsFolder> SafetensorsFolder::create(
    const std::string& folder, std::vector<Tensor> tensors,
    const std::map<std::string, std::string>& metadata, std::vector<SideFile> side_files) {
  SafetensorsFolder made;
  made.folder_ = folder;
  made.side_files_ = std::move(side_files);
  if (Status status = made.check_place(); !status) return std::move(status).error();

  // Ordered by the size of their elements, so that each is aligned for readers that map the file.
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(), [&](std::size_t i) {
    return *safetensors_dtype_bytes(tensors[i].dtype);
  });
  Json header{{"__metadata__", metadata}};
  std::unordered_set<std::string_view> names;
  std::size_t n_data = 0;
  made.offsets_.resize(tensors.size());
  for (const std::size_t i : order) {
    const Tensor& tensor = tensors[i];
    if (!names.insert(tensor.name).second) {
      return Error(fmt::format("{}: the name {} occurs twice", folder, tensor.name));
    }
    made.offsets_[i] = n_data;
    n_data += static_cast<std::size_t>(tensor.n_bytes);
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {made.offsets_[i], n_data}}};
  }
  std::string text = to_text(header, -1);
  constexpr std::size_t alignment = 8;
  text.resize((text.size() + alignment - 1) / alignment * alignment, ' ');
  const std::uint64_t n_header = text.size();
  std::string start(sizeof n_header, '\0');
  std::memcpy(start.data(), &n_header, sizeof n_header);
  start += text;
  for (std::size_t& offset : made.offsets_) offset += start.size();
  made.n_bytes_ = start.size() + n_data;

  fs::path parent = fs::path(folder).parent_path();
  if (parent.empty()) parent = ".";
  auto file = AtomicFile::create_in(parent.string(), model_path(folder));
  if (!file) return std::move(file).error();
  made.file_ = std::make_unique<AtomicFile>(std::move(*file));
  if (Status status = made.file_->write(std::as_bytes(std::span(start))); !status) {
    return std::move(status).error();
  }
  return made;
}

Status SafetensorsFolder::write(std::size_t index, std::size_t offset,
                                std::span<const std::byte> bytes) {
  return file_->write_at(offsets_[index] + offset, bytes);
}

Status SafetensorsFolder::commit() {
  const std::string made = temporary_name(folder_);
  if (::mkdir(made.c_str(), 0777) != 0) return system_error("write", folder_, errno);
  auto filled = fill(made);
  auto placed = filled ? exchange(made) : std::move(filled);
  std::error_code ignored;
  fs::remove_all(made, ignored);  // the unfinished folder, or the one that was replaced
  return placed;
}

std::int64_t SafetensorsFolder::file_bytes() const {
  std::size_t n_bytes = n_bytes_;
  for (const SideFile& side : side_files_) n_bytes += side.text.size();
  return static_cast<std::int64_t>(n_bytes);
}

Status SafetensorsFolder::check_place() const {
  std::error_code ignored;
  if (!fs::exists(fs::symlink_status(folder_, ignored))) return ok();
  if (!fs::is_directory(folder_, ignored)) {
    return Error(
        fmt::format("cannot write the folder '{}': a file of that name is in the way", folder_));
  }
  if (fs::is_empty(folder_, ignored)) return ok();
  const auto config = read_text((fs::path(folder_) / convention::config_file).string());
  if (config && is_ours(*config)) return ok();
  return Error(
      fmt::format("cannot write the folder '{}': it holds something that lowbit did not write; "
                  "choose another name or remove it",
                  folder_));
}

Status SafetensorsFolder::fill(const std::string& made) {
  if (Status model = file_->commit_as(model_path(made)); !model) return model;
  for (const SideFile& side : side_files_) {
    Status written = write_text((fs::path(made) / side.name).string(), side.text);
    if (!written) return written;
  }
  return ok();
}

Status SafetensorsFolder::exchange(const std::string& made) const {
  if (::rename(made.c_str(), folder_.c_str()) == 0) return ok();
  if (errno != ENOTEMPTY && errno != EEXIST) return system_error("write", folder_, errno);
  if (::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, folder_.c_str(), RENAME_EXCHANGE) == 0) {
    return ok();
  }
  // File systems without an exchange: two renames, the old folder is never lost between them.
  const std::string old = temporary_name(folder_);
  if (::rename(folder_.c_str(), old.c_str()) != 0 || ::rename(made.c_str(), folder_.c_str()) != 0) {
    return system_error("write", folder_, errno);
  }
  std::error_code ignored;
  fs::remove_all(old, ignored);
  return ok();
}

}  // namespace lowbit
