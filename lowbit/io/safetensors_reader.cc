// SPDX-License-Identifier: Apache-2.0
// Hugging Face folders (one file or shards with an index) in f32, f16, bf16, and folders in our own
// convention. Tensors of integers and booleans in a Hugging Face folder are buffers of its program
// (position ids, masks), no weights, and are left out.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <unordered_set>
#include <utility>

#include "lowbit/base/byte_reader.h"
#include "lowbit/base/text_file.h"
#include "lowbit/io/checkpoint.h"
#include "lowbit/io/compressed_tensors.h"
#include "lowbit/io/compressed_tensors_reader.h"
#include "lowbit/io/json.h"
#include "lowbit/io/layout.h"
#include "lowbit/io/lowbit_convention.h"
#include "lowbit/io/safetensors_file.h"

namespace lowbit {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view index_file = "model.safetensors.index.json";
constexpr std::string_view extension = ".safetensors";

Result<Json> read_json(const std::string& path) {
  auto text = read_text(path);
  if (!text) return std::move(text).error();
  auto json = parse_json_object(*text);
  if (!json) return std::move(json).error().in(path);
  return json;
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

/// The layout of a float dtype; null for the dtypes of buffers.
Result<const BlockLayout*> layout_of(const SafetensorsEntry& entry) {
  constexpr std::pair<std::string_view, std::string_view> floats[] = {
      {"F32", "f32"}, {"F16", "f16"}, {"BF16", "bf16"}};
  for (const auto& [dtype, scheme] : floats) {
    if (entry.dtype == dtype) return layout_named(scheme);
  }
  if (entry.dtype[0] == 'I' || entry.dtype[0] == 'U' || entry.dtype == "BOOL") return nullptr;
  return Error(fmt::format("tensor {} has the dtype {}; lowbit reads F32, F16 and BF16",
                           shown(entry.name), entry.dtype));
}

class SafetensorsCheckpoint final : public Checkpoint {
 public:
  SafetensorsCheckpoint(std::string path, std::string folder, std::vector<SafetensorsFile> files)
      : path_(std::move(path)), folder_(std::move(folder)), files_(std::move(files)) {}

  /// Plain floats: every tensor of the files, or those that the index names.
  Status bind_floats(const Json* weight_map) {
    std::unordered_set<std::string_view> names;
    for (const SafetensorsFile& file : files_) {
      for (const SafetensorsEntry& entry : file.entries) {
        if (weight_map != nullptr && !weight_map->contains(entry.name)) continue;
        auto bound = bind_float(file, entry);
        if (!bound) return bound;
        if (!names.insert(entry.name).second) {
          return Error(fmt::format("{}: tensor {} is in another file of the model too",
                                   file.mapped.path(), shown(entry.name)));
        }
      }
    }
    if (weight_map == nullptr) return ok();
    for (const auto& [name, file] : weight_map->items()) {
      if (names.contains(name)) continue;
      return Error(
          fmt::format("{}: the index names the tensor {}, which is in none of the files; "
                      "get the model again",
                      path_, shown(name)));
    }
    return ok();
  }

  /// Our own convention: planes are joined to the tensors that the description names.
  Status bind_lowbit() {
    const SafetensorsFile& file = files_[0];
    is_lowbit_ = true;
    const auto text = file.metadata.find(std::string(convention::metadata_key));
    if (text == file.metadata.end()) {
      return Error(
          fmt::format("{}: the file has no description of its schemes although config.json "
                      "says quant_method lowbit; get the model again",
                      file.mapped.path()));
    }
    auto json = parse_json_object(text->second);
    if (!json) return std::move(json).error().in(file.mapped.path());
    auto described = convention::read_description(*json);
    if (!described) return std::move(described).error().in(file.mapped.path());
    std::unordered_set<std::string_view> planes;
    for (const auto& tensor : *described) {
      Entry entry{&file, nullptr, {}, tensor.scheme};
      std::int64_t n_bytes = 0;
      for (const auto& info : convention::plane_infos(tensor.scheme, tensor.shape)) {
        const SafetensorsEntry* plane = file.find(tensor.name + info.suffix);
        if (plane == nullptr || plane->dtype != info.dtype || plane->shape != info.shape) {
          return Error(
              fmt::format("{}: tensor {} needs {}{} as {} of shape {}; the file is damaged, "
                          "get it again",
                          file.mapped.path(), shown(tensor.name), shown(tensor.name), info.suffix,
                          info.dtype, fmt::join(info.shape, " x ")));
        }
        planes.insert(plane->name);
        entry.planes.push_back(plane);
        n_bytes += info.n_bytes;
      }
      infos_.push_back({tensor.name, tensor.shape, tensor.scheme, n_bytes, tensor.input});
      entries_.push_back(std::move(entry));
    }
    for (const SafetensorsEntry& entry : file.entries) {
      if (planes.contains(entry.name)) continue;
      auto bound = bind_float(file, entry);
      if (!bound) return bound;
    }
    return ok();
  }

  std::string_view container() const override { return is_lowbit_ ? "lowbit" : "safetensors"; }
  const std::string& path() const override { return path_; }
  const Metadata& metadata() const override { return metadata_; }
  std::span<const TensorInfo> tensors() const override { return infos_; }

  Result<QuantizedTensor> load(std::size_t index, ThreadPool* pool) const override {
    const Entry& entry = entries_[index];
    const TensorInfo& info = infos_[index];
    if (entry.layout != nullptr) {
      return load_blocks(*entry.layout, entry.planes[0]->bytes, info.rows(), info.cols(), pool);
    }
    QuantizedTensor tensor(entry.scheme, info.rows(), info.cols());
    tensor.input = info.input;
    auto arrays = convention::planes_of(tensor);
    CodeArray table = convention::table_plane(entry.scheme);
    if (table.width() != 0) arrays.push_back(&table);
    for (std::size_t p = 0; p < arrays.size(); ++p) {
      CodeArray& array = *arrays[p];
      const auto row_bytes = static_cast<std::size_t>(array.row_bytes());
      for (std::int64_t r = 0; r < array.n_rows(); ++r) {
        const auto row =
            entry.planes[p]->bytes.subspan(static_cast<std::size_t>(r) * row_bytes, row_bytes);
        std::copy(row.begin(), row.end(), array.row(r).begin());
        clear_padding(array, r);
      }
    }
    if (table.width() != 0) {
      if (Status learned = convention::set_table(table, tensor.scheme); !learned) {
        return std::move(learned).error().in(
            fmt::format("{}: tensor {}", entry.file->mapped.path(), shown(info.name)));
      }
    }
    return checked(std::move(tensor), entry.file->mapped.path(), info.name);
  }
  void drop_pages(std::size_t index) const override {
    for (const auto* plane : entries_[index].planes) {
      entries_[index].file->mapped.drop_pages(plane->bytes);
    }
  }
  std::vector<const MappedFile*> files() const override { return mapped_of(files_); }
  Result<std::string> side_file(std::string_view name) const override {
    return read_text((fs::path(folder_) / name).string());
  }

 private:
  struct Entry {
    const SafetensorsFile* file;
    const BlockLayout* layout;  // of a plain float; else null
    std::vector<const SafetensorsEntry*> planes;
    Scheme scheme;
  };

  Status bind_float(const SafetensorsFile& file, const SafetensorsEntry& entry) {
    auto layout = layout_of(entry);
    if (!layout) return std::move(layout).error().in(file.mapped.path());
    if (*layout == nullptr) return ok();
    std::vector<std::int64_t> shape = entry.shape;
    if (shape.empty()) shape = {1};
    if (entry.bytes.empty()) {
      return Error(fmt::format("{}: tensor {} has no numbers (shape {}); the file is damaged",
                               file.mapped.path(), shown(entry.name), fmt::join(shape, " x ")));
    }
    infos_.push_back({entry.name, std::move(shape), (*layout)->scheme,
                      static_cast<std::int64_t>(entry.bytes.size())});
    entries_.push_back({&file, *layout, {&entry}, (*layout)->scheme});
    return ok();
  }

  /// A CodeArray keeps the unused bits at the end of a row at zero, whatever the file holds.
  static void clear_padding(CodeArray& array, std::int64_t row) {
    const std::int64_t n_used = array.n_per_row() * array.width() % 8;
    if (n_used == 0) return;
    array.row(row).back() &= static_cast<std::byte>((1 << n_used) - 1);
  }

  std::string path_, folder_;
  std::vector<SafetensorsFile> files_;  // not changed after construction: entries point into it
  Metadata metadata_;
  std::vector<TensorInfo> infos_;
  std::vector<Entry> entries_;
  bool is_lowbit_ = false;
};

/// The files of a folder and, where it has an index, which tensor is in which.
struct FolderFiles {
  std::vector<std::string> paths;
  std::optional<Json> weight_map;
};

Result<FolderFiles> read_index(const fs::path& folder) {
  const std::string path = (folder / index_file).string();
  auto index = read_json(path);
  if (!index) return std::move(index).error();
  const auto map = index->find("weight_map");
  if (map == index->end() || !map->is_object() || map->empty()) {
    return Error(path + " has no weight_map; get the file again");
  }
  FolderFiles files;
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (name.empty() || fs::path(name).filename() != name) {
      return Error(fmt::format("{}: tensor {} is said to be in {}, which is no file of the folder",
                               path, shown(tensor), shown(name)));
    }
    names.insert(name);
  }
  for (const auto& name : names) {
    if (!is_file(folder / name)) {
      return Error(
          fmt::format("{} names the file {}, which is missing; get it into the same folder", path,
                      shown(name)));
    }
    files.paths.push_back((folder / name).string());
  }
  files.weight_map = *map;
  return files;
}

Result<FolderFiles> find_files(const fs::path& folder) {
  if (is_file(folder / index_file)) return read_index(folder);
  FolderFiles files;
  std::string gguf;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(folder, failed)) {
    const fs::path& path = entry.path();
    if (path.extension() == extension) files.paths.push_back(path.string());
    if (path.extension() == ".gguf") gguf = path.string();
  }
  if (failed) return Error(fmt::format("cannot read '{}': {}", folder.string(), failed.message()));
  const std::string usual = (folder / convention::model_file).string();
  if (std::find(files.paths.begin(), files.paths.end(), usual) != files.paths.end()) {
    files.paths = {usual};
  }
  if (files.paths.size() == 1) return files;
  if (files.paths.empty()) {
    return Error(fmt::format("the folder '{}' holds no model: neither {} nor {}{}", folder.string(),
                             convention::model_file, index_file,
                             gguf.empty() ? "" : "; open the file in it: " + gguf));
  }
  return Error(
      fmt::format("the folder '{}' holds {} .safetensors files and no {}; name one of them",
                  folder.string(), files.paths.size(), index_file));
}

/// The quantization_config of a config.json, null without one.
Result<Json> quantization_of(const fs::path& folder) {
  const fs::path path = folder / convention::config_file;
  if (!is_file(path)) return Json();
  auto config = read_json(path.string());
  if (!config) return std::move(config).error();
  const auto quantization = config->find("quantization_config");
  if (quantization == config->end() || !quantization->is_object()) return Json();
  return *quantization;
}

std::string quant_method_of(const Json& quantization) {
  if (quantization.is_null()) return {};
  const auto method = quantization.find("quant_method");
  return method != quantization.end() && method->is_string() ? method->get<std::string>()
                                                             : std::string("unknown");
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> open_safetensors(const std::string& folder_or_file) {
  std::error_code ignored;
  const bool is_folder = fs::is_directory(folder_or_file, ignored);
  fs::path folder = is_folder ? fs::path(folder_or_file) : fs::path(folder_or_file).parent_path();
  if (folder.empty()) folder = ".";
  FolderFiles found;
  if (is_folder) {
    auto files = find_files(folder);
    if (!files) return std::move(files).error();
    found = std::move(*files);
  } else {
    found.paths = {folder_or_file};
  }
  const auto quantization = quantization_of(folder);
  if (!quantization) return Error(quantization.error());
  const std::string method = quant_method_of(*quantization);
  const bool says_lowbit = method == convention::quant_method;
  const bool says_compressed = method == compressed_tensors::quant_method;
  if (!method.empty() && !says_lowbit && !says_compressed) {
    return Error(
        fmt::format("{} is quantized with {}, which lowbit does not read; get the model it "
                    "was made from, or a GGUF of it",
                    folder_or_file, shown(method)));
  }
  std::vector<SafetensorsFile> files;
  for (const auto& path : found.paths) {
    auto file = SafetensorsFile::open(path);
    if (!file) return std::move(file).error();
    files.push_back(std::move(*file));
  }
  if (says_compressed) {
    return open_compressed_tensors(folder_or_file, folder.string(), std::move(files),
                                   *quantization);
  }
  const bool is_lowbit =
      says_lowbit || files[0].metadata.contains(std::string(convention::metadata_key));
  auto checkpoint =
      std::make_unique<SafetensorsCheckpoint>(folder_or_file, folder.string(), std::move(files));
  auto bound = is_lowbit ? checkpoint->bind_lowbit()
                         : checkpoint->bind_floats(found.weight_map ? &*found.weight_map : nullptr);
  if (!bound) return std::move(bound).error();
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace lowbit
