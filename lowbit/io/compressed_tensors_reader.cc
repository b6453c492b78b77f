// SPDX-License-Identifier: Apache-2.0
// Opens a folder in the compressed-tensors convention (compressed_tensors.h). What config.json says
// of a module is believed only where the tensors of the file have the shapes it asks for.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <utility>

#include "lowbit/base/byte_reader.h"
#include "lowbit/base/text_file.h"
#include "lowbit/io/checkpoint.h"
#include "lowbit/io/compressed_tensors.h"
#include "lowbit/io/compressed_tensors_reader.h"
#include "lowbit/io/layout.h"

namespace lowbit {
namespace {

using compressed_tensors::Format;
namespace fs = std::filesystem;

constexpr std::string_view packed_suffix = ".weight_packed", scale_suffix = ".weight_scale",
                           shape_suffix = ".weight_shape", zero_suffix = ".weight_zero_point";
constexpr std::string_view linear_class = "Linear";

/// Of one entry of config_groups.
struct Group {
  std::string name;
  std::vector<std::string> targets;
  Json weights;
};

Result<std::vector<Group>> read_groups(const Json& quantization) {
  const auto broken = [](std::string_view where) {
    return Error(
        fmt::format("quantization_config of config.json is broken at {}; get the model "
                    "again",
                    shown(where)));
  };
  const auto listed = quantization.find("config_groups");
  if (listed == quantization.end() || !listed->is_object() || listed->empty()) {
    return broken("config_groups");
  }
  std::vector<Group> groups;
  for (const auto& [name, json] : listed->items()) {
    if (!json.is_object() || !json.contains("weights") || !json["weights"].is_object() ||
        !json.contains("targets") || !json["targets"].is_array()) {
      return broken(name);
    }
    Group group{.name = name, .targets = {}, .weights = json["weights"]};
    for (const Json& target : json["targets"]) {
      if (target.is_string()) group.targets.push_back(target.get<std::string>());
    }
    groups.push_back(std::move(group));
  }
  return groups;
}

class CompressedTensorsCheckpoint final : public Checkpoint {
 public:
  CompressedTensorsCheckpoint(std::string path, std::string folder,
                              std::vector<SafetensorsFile> files)
      : path_(std::move(path)), folder_(std::move(folder)), files_(std::move(files)) {}

  Status bind(const Json& quantization) {
    auto groups = read_groups(quantization);
    if (!groups) return std::move(groups).error().in(path_);
    for (const SafetensorsFile& file : files_) {
      for (const SafetensorsEntry& entry : file.entries) {
        if (Status status = bind_entry(file, entry, *groups); !status) {
          return std::move(status).error().in(file.mapped.path());
        }
      }
    }
    return ok();
  }

  std::string_view container() const override { return "safetensors"; }
  const std::string& path() const override { return path_; }
  const Metadata& metadata() const override { return metadata_; }
  std::span<const TensorInfo> tensors() const override { return infos_; }

  Result<QuantizedTensor> load(std::size_t index, ThreadPool* pool) const override {
    const Bound& bound = bound_[index];
    const TensorInfo& info = infos_[index];
    if (bound.layout != nullptr) {
      return load_blocks(*bound.layout, bound.planes[0]->bytes, info.rows(), info.cols(), pool);
    }
    QuantizedTensor tensor(info.scheme, info.rows(), info.cols());
    for (std::size_t i = 0; i < bound.planes.size(); ++i) {
      compressed_tensors::read_bytes(bound.planes[i]->bytes, bound.format, i, tensor);
    }
    return checked(std::move(tensor), path_, info.name);
  }
  void drop_pages(std::size_t index) const override {
    for (const SafetensorsEntry* plane : bound_[index].planes) {
      bound_[index].file->mapped.drop_pages(plane->bytes);
    }
  }
  std::vector<const MappedFile*> files() const override { return mapped_of(files_); }
  Result<std::string> side_file(std::string_view name) const override {
    return read_text((fs::path(folder_) / name).string());
  }

 private:
  struct Bound {
    const SafetensorsFile* file = nullptr;
    const BlockLayout* layout = nullptr;  // of a plain float; else null
    Format format = Format::pack_quantized;
    std::vector<const SafetensorsEntry*> planes;
  };

  const SafetensorsEntry* find(const std::string& name) const {
    for (const SafetensorsFile& file : files_) {
      if (const SafetensorsEntry* entry = file.find(name)) return entry;
    }
    return nullptr;
  }

  Status bind_entry(const SafetensorsFile& file, const SafetensorsEntry& entry,
                    const std::vector<Group>& groups) {
    // Statics of activations and of the KV cache: lowbit chooses its own.
    constexpr std::array<std::string_view, 6> left_out{".input_scale",      ".output_scale",
                                                       ".k_scale",          ".v_scale",
                                                       ".input_zero_point", ".output_zero_point"};
    for (const std::string_view suffix : left_out) {
      if (entry.name.ends_with(suffix)) return ok();
    }
    for (const std::string_view suffix : {scale_suffix, shape_suffix, zero_suffix}) {
      if (entry.name.ends_with(suffix)) return ok();  // parts of a matrix, found by its codes
    }
    for (const std::string_view suffix : {packed_suffix, compressed_tensors::weight_suffix}) {
      if (!entry.name.ends_with(suffix)) continue;
      const std::string module = entry.name.substr(0, entry.name.size() - suffix.size());
      if (suffix == packed_suffix || find(module + std::string(scale_suffix)) != nullptr) {
        return bind_matrix(file, entry, module, groups);
      }
    }
    return bind_float(file, entry);
  }

  Status bind_float(const SafetensorsFile& file, const SafetensorsEntry& entry) {
    constexpr std::pair<std::string_view, std::string_view> floats[] = {
        {"F32", "f32"}, {"F16", "f16"}, {"BF16", "bf16"}};
    for (const auto& [dtype, scheme] : floats) {
      if (entry.dtype != dtype || entry.bytes.empty()) continue;
      const BlockLayout* layout = layout_named(scheme);
      std::vector<std::int64_t> shape = entry.shape;
      if (shape.empty()) shape = {1};
      infos_.push_back({entry.name, std::move(shape), layout->scheme,
                        static_cast<std::int64_t>(entry.bytes.size())});
      bound_.push_back({&file, layout, {}, {&entry}});
      return ok();
    }
    return Error(
        fmt::format("tensor {} is {} of shape {} and no part of a quantized matrix that "
                    "lowbit knows; get the model it was made from",
                    shown(entry.name), entry.dtype, fmt::join(entry.shape, " x ")));
  }

  static Result<const Group*> group_of(const std::string& module,
                                       const std::vector<Group>& groups) {
    for (const std::string_view target : {std::string_view(module), linear_class}) {
      for (const Group& group : groups) {
        if (std::ranges::find(group.targets, target) != group.targets.end()) return &group;
      }
    }
    if (groups.size() == 1) return &groups.front();
    return Error(
        fmt::format("no group of quantization_config names the module {} or Linear, and "
                    "lowbit does not match by pattern where there are several",
                    shown(module)));
  }

  /// The matrix's rows and columns, from the codes and, where they are packed, from what the file
  /// says beside them.
  Result<std::array<std::int64_t, 2>> extent_of(const SafetensorsEntry& codes,
                                                const std::string& module, Format format) const {
    constexpr std::size_t n_matrix_dims = 2;
    const Error damaged(
        fmt::format("the matrix {} has no shape that fits its codes; the file is "
                    "damaged, get it again",
                    shown(module)));
    if (codes.shape.size() != n_matrix_dims || codes.bytes.empty()) return damaged;
    std::array<std::int64_t, n_matrix_dims> extent{codes.shape[0], codes.shape[1]};
    if (format != Format::pack_quantized) return extent;
    const SafetensorsEntry* stated = find(module + std::string(shape_suffix));
    if (stated == nullptr || stated->dtype != "I64" || stated->bytes.size() != sizeof extent) {
      return damaged;
    }
    std::memcpy(extent.data(), stated->bytes.data(), sizeof extent);
    constexpr std::int64_t most_per_word = 32;  // one bit each
    if (extent[0] != codes.shape[0] || extent[1] < 1 ||
        extent[1] > codes.shape[1] * most_per_word) {
      return damaged;
    }
    return extent;
  }

  Status bind_matrix(const SafetensorsFile& file, const SafetensorsEntry& codes,
                     const std::string& module, const std::vector<Group>& groups) {
    if (find(module + ".weight_g_idx") != nullptr) {
      return Error(
          fmt::format("the matrix {} has its columns in an order of its own (weight_g_idx),"
                      " which lowbit does not read",
                      shown(module)));
    }
    auto group = group_of(module, groups);
    if (!group) return std::move(group).error();
    const SafetensorsEntry* scale = find(module + std::string(scale_suffix));
    if (scale == nullptr) {
      return Error(
          fmt::format("the matrix {} has no {}; the file is damaged", shown(module), scale_suffix));
    }
    auto scheme = compressed_tensors::scheme_of((*group)->weights, scale->dtype);
    if (!scheme) return std::move(scheme).error().in((*group)->name);
    // Integers that are not packed are what int-quantized holds, whatever the file calls it.
    const Format format = codes.name.ends_with(packed_suffix) ? Format::pack_quantized
                          : codes.dtype == "I8"               ? Format::int_quantized
                                                              : Format::float_quantized;
    if (auto possible = compressed_tensors::format_of(*scheme, /*has_activations=*/false);
        !possible) {
      return std::move(possible).error().in((*group)->name);
    }
    auto extent = extent_of(codes, module, format);
    if (!extent) return std::move(extent).error();
    Bound bound{&file, nullptr, format, {}};
    std::int64_t n_bytes = 0;
    for (const auto& plane :
         compressed_tensors::planes_of(*scheme, format, (*extent)[0], (*extent)[1])) {
      const SafetensorsEntry* entry = find(module + plane.suffix);
      std::int64_t n_numbers = 1, n_expected = 1;
      if (entry != nullptr) {
        for (const std::int64_t e : entry->shape) n_numbers *= e;
      }
      for (const std::int64_t e : plane.shape) n_expected *= e;
      if (entry == nullptr || entry->dtype != plane.dtype || n_numbers != n_expected) {
        return Error(
            fmt::format("the matrix {} of {} needs {}{} as {} of shape {}; the file is "
                        "damaged, get it again",
                        shown(module), to_string(*scheme), shown(module), plane.suffix, plane.dtype,
                        fmt::join(plane.shape, " x ")));
      }
      bound.planes.push_back(entry);
      n_bytes += static_cast<std::int64_t>(entry->bytes.size());
    }
    infos_.push_back({module + std::string(compressed_tensors::weight_suffix),
                      {(*extent)[0], (*extent)[1]},
                      *scheme,
                      n_bytes});
    bound_.push_back(std::move(bound));
    return ok();
  }

  std::string path_, folder_;
  std::vector<SafetensorsFile> files_;  // not changed after construction: bound_ points into it
  Metadata metadata_;
  std::vector<TensorInfo> infos_;
  std::vector<Bound> bound_;
};

}  // namespace

Result<std::unique_ptr<Checkpoint>> open_compressed_tensors(const std::string& path,
                                                            const std::string& folder,
                                                            std::vector<SafetensorsFile> files,
                                                            const Json& quantization) {
  auto checkpoint = std::make_unique<CompressedTensorsCheckpoint>(path, folder, std::move(files));
  if (Status bound = checkpoint->bind(quantization); !bound) return std::move(bound).error();
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace lowbit
