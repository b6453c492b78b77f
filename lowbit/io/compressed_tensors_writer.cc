// SPDX-License-Identifier: Apache-2.0
// Writes a folder in the compressed-tensors convention (compressed_tensors.h). Embeddings and head
// stay plain floats, as its readers expect; the model's dtype becomes that of the scales, because
// those readers cast scales to it.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "lowbit/formats/codes.h"
#include "lowbit/io/checkpoint_writer.h"
#include "lowbit/io/compressed_tensors.h"
#include "lowbit/io/declared_tensors.h"
#include "lowbit/io/json.h"
#include "lowbit/io/layout.h"
#include "lowbit/io/lowbit_convention.h"
#include "lowbit/io/safetensors_folder.h"

namespace lowbit {
namespace {

using compressed_tensors::Format;

/// "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.weight".
std::string module_of(std::string_view tensor) {
  if (tensor.ends_with(compressed_tensors::weight_suffix)) {
    tensor.remove_suffix(compressed_tensors::weight_suffix.size());
  }
  return std::string(tensor);
}

class CompressedTensorsWriter final : public CheckpointWriter {
 public:
  static Result<std::unique_ptr<CheckpointWriter>> create(
      const std::string& folder, const std::string& config_json, std::vector<SideFile> side_files,
      std::vector<TensorDeclaration> tensors, const std::optional<Scheme>& activations) {
    auto writer = std::make_unique<CompressedTensorsWriter>();
    std::vector<SafetensorsFolder::Tensor> stored;
    for (const TensorDeclaration& tensor : tensors) {
      if (!tensor.input.is_plain()) {
        return Error(
            fmt::format("{}: tensor {}: compressed-tensors has no place for the basis of "
                        "its inputs ({}); leave out --convention or take hadamard-folded",
                        folder, tensor.name, to_string(tensor.input)));
      }
      if (Status status = writer->declare(tensor, activations, stored); !status) {
        return std::move(status).error().in(fmt::format("{}: tensor {}", folder, tensor.name));
      }
    }
    auto config = writer->config_of(config_json, activations);
    if (!config) return std::move(config).error().in(folder);
    constexpr int indent = 2;
    side_files.push_back({std::string(convention::config_file), to_text(*config, indent) + "\n"});
    auto place = SafetensorsFolder::create(
        folder, std::move(stored),
        {{"format", "pt"}, {std::string(writer_key), std::string(writer_word)}},
        std::move(side_files));
    if (!place) return std::move(place).error();
    writer->declared_.emplace(folder, std::move(tensors));
    writer->place_.emplace(std::move(*place));
    return std::unique_ptr<CheckpointWriter>(std::move(writer));
  }

  Status add(const QuantizedTensor& tensor) override {
    const auto index = declared_->next(tensor);
    if (!index) return Error(index.error());
    const Planes& planes = planes_[*index];
    declared_->advance();
    if (!planes.format) {
      const BlockLayout& layout = *layout_for_scheme(tensor.scheme);
      std::vector<std::byte> bytes(
          static_cast<std::size_t>(tensor.rows * tensor.cols / layout.n_numbers * layout.n_bytes));
      if (Status status = store_blocks(layout, tensor, bytes); !status) return status;
      return place_->write(planes.first, 0, bytes);
    }
    for (std::size_t i = 0; i < planes.count; ++i) {
      const auto bytes = compressed_tensors::bytes_of(tensor, *planes.format, i);
      if (Status status = place_->write(planes.first + i, 0, bytes); !status) return status;
    }
    return ok();
  }

  Status commit() override {
    if (Status complete = declared_->check_complete(); !complete) return complete;
    return place_->commit();
  }
  std::int64_t file_bytes() const override { return place_->file_bytes(); }

 private:
  struct Planes {
    std::size_t first = 0, count = 1;  // in the file
    std::optional<Format> format;      // nothing: a plain float
  };
  struct Group {
    Scheme scheme;
    Format format;
    std::vector<std::string> modules;
  };

  Status declare(const TensorDeclaration& tensor, const std::optional<Scheme>& activations,
                 std::vector<SafetensorsFolder::Tensor>& stored) {
    Planes planes{.first = stored.size(), .count = 1, .format = {}};
    const std::int64_t rows = convention::rows_of(tensor.shape),
                       cols = convention::cols_of(tensor.shape);
    if (is_plain_float(tensor.scheme)) {
      const auto info = convention::plane_infos(tensor.scheme, tensor.shape).front();
      stored.push_back({tensor.name, info.dtype, info.shape, info.n_bytes});
      constexpr std::size_t n_matrix_dims = 2;
      if (tensor.shape.size() == n_matrix_dims) plain_.push_back(module_of(tensor.name));
      planes_.push_back(planes);
      return ok();
    }
    if (Status status = fits_compressed_tensors(tensor.name, tensor.scheme, tensor.shape);
        !status) {
      return status;
    }
    auto format = compressed_tensors::format_of(tensor.scheme, activations.has_value());
    if (!format) return std::move(format).error();
    planes.format = *format;
    const std::string module = module_of(tensor.name);
    const auto infos = compressed_tensors::planes_of(tensor.scheme, *format, rows, cols);
    planes.count = infos.size();
    for (const auto& info : infos) {
      stored.push_back({module + info.suffix, info.dtype, info.shape, info.n_bytes()});
    }
    planes_.push_back(planes);
    auto group = std::ranges::find_if(
        groups_, [&](const Group& candidate) { return candidate.scheme == tensor.scheme; });
    if (group == groups_.end()) {
      groups_.push_back({tensor.scheme, *format, {}});
      group = std::prev(groups_.end());
    }
    group->modules.push_back(module);
    return ok();
  }

  /// Readers cast scales to the dtype of the model, so all scales must have one.
  Result<std::string> dtype() const {
    const std::pair<const Code*, const char*> names[] = {{&codes::named("f16"), "float16"},
                                                         {&codes::named("bf16"), "bfloat16"},
                                                         {&codes::named("f32"), "float32"}};
    const Code* code = groups_.front().scheme.scale->code;
    for (const Group& group : groups_) {
      if (group.scheme.scale->code == code) continue;
      return Error(
          fmt::format("the scales of {} and {} have different precisions and a model in "
                      "this convention has one",
                      to_string(groups_.front().scheme), to_string(group.scheme)));
    }
    for (const auto& [candidate, name] : names) {
      if (candidate == code) return std::string(name);
    }
    return std::string();
  }

  Result<Json> config_of(const std::string& config_json,
                         const std::optional<Scheme>& activations) const {
    Json config = Json::object();
    if (!config_json.empty()) {
      auto parsed = parse_json_object(config_json);
      if (!parsed) return std::move(parsed).error().in("config.json");
      config = std::move(*parsed);
    }
    if (groups_.empty()) {
      return Error("no matrix is quantized; leave out --convention for a folder of plain floats");
    }
    auto type = dtype();
    if (!type) return std::move(type).error();
    config.erase("dtype");
    config["torch_dtype"] = *type;  // every version of the readers knows this key

    Json groups = Json::object(), inputs = nullptr;
    if (activations) {
      auto words = compressed_tensors::activations_of(*activations);
      if (!words) {
        return Error(
            fmt::format("the compressed-tensors convention has no activations in {}; "
                        "it has int8.token and e4m3.token",
                        to_string(*activations)));
      }
      inputs = std::move(*words);
    }
    bool is_mixed = false;
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      const Group& group = groups_[i];
      is_mixed = is_mixed || group.format != groups_.front().format;
      Json targets = group.modules;
      if (groups_.size() == 1) targets = {"Linear"};
      groups[fmt::format("group_{}", i)] = {
          {"targets", std::move(targets)},
          {"weights", compressed_tensors::weights_of(group.scheme)},
          {"input_activations", inputs},
          {"output_activations", nullptr},
          {"format", name_of(group.format)}};
    }
    std::vector<std::string> ignore = plain_;
    // A tied head has no tensor of its own but is a module all the same.
    const std::string head = module_of(compressed_tensors::head_tensor);
    if (std::ranges::find(ignore, head) == ignore.end()) ignore.push_back(head);
    config["quantization_config"] = {{"quant_method", compressed_tensors::quant_method},
                                     {"format", is_mixed ? std::string_view("mixed-precision")
                                                         : name_of(groups_.front().format)},
                                     {"quantization_status", "compressed"},
                                     {"config_groups", std::move(groups)},
                                     {"ignore", std::move(ignore)},
                                     {"kv_cache_scheme", nullptr},
                                     {writer_key, writer_word}};
    return config;
  }

  std::optional<DeclaredTensors> declared_;
  std::vector<Planes> planes_;
  std::vector<Group> groups_;
  std::vector<std::string> plain_;  // modules whose matrices are plain floats
  std::optional<SafetensorsFolder> place_;
};

}  // namespace

Status fits_compressed_tensors(std::string_view name, const Scheme& scheme,
                               const std::vector<std::int64_t>& shape) {
  if (is_plain_float(scheme)) return ok();
  if (name == compressed_tensors::embedding_tensor || name == compressed_tensors::head_tensor) {
    return Error(
        fmt::format("the compressed-tensors convention keeps embeddings and head in plain floats; "
                    "give --rule '{}=f16'",
                    name));
  }
  constexpr std::size_t n_matrix_dims = 2;
  if (shape.size() != n_matrix_dims) return Error("only matrices are quantized");
  auto format = compressed_tensors::format_of(scheme, /*has_activations=*/false);
  if (!format) return std::move(format).error();
  const int group = scheme.group.cols;
  if (group == 0 || shape.back() % group == 0) return ok();
  return Error(
      fmt::format("rows of {} numbers are not whole groups of {} ({} numbers each); choose "
                  "another scheme or give --fallback SCHEME",
                  shape.back(), to_string(scheme), group));
}

Result<std::unique_ptr<CheckpointWriter>> create_compressed_tensors_folder(
    const std::string& folder, const std::string& config_json, std::vector<SideFile> side_files,
    std::vector<TensorDeclaration> tensors, const std::optional<Scheme>& activations) {
  return CompressedTensorsWriter::create(folder_name(folder), config_json, std::move(side_files),
                                         std::move(tensors), activations);
}

}  // namespace lowbit
