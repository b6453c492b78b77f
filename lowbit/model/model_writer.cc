// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/model_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "lowbit/base/assert.h"
#include "lowbit/io/compressed_tensors.h"
#include "lowbit/io/layout.h"
#include "lowbit/io/lowbit_convention.h"
#include "lowbit/model/tensor_names.h"
#include "lowbit/model/tokenizer_export.h"

namespace lowbit {
namespace {

using nlohmann::json;

constexpr std::string_view divisors_name = "rope_freqs.weight";
constexpr std::int64_t quantization_version = 2;  // of GGUF's block types

const Scheme& plain_f32() {
  static const Scheme scheme = *parse_scheme("f32");
  return scheme;
}

Result<Metadata> gguf_metadata(const ModelFile& source) {
  Metadata metadata;
  if (source.checkpoint().container() == "gguf") {
    metadata = source.checkpoint().metadata();
    for (const char* key :
         {"split.no", "split.count", "split.tensors.count", "general.file_type"}) {
      metadata.erase(key);
    }
  } else {
    config_to_metadata(source.config(), metadata);
    metadata.set("general.name",
                 Value::string(std::filesystem::path(source.path()).filename().string()));
    auto tokenizer = source.tokenizer();
    if (!tokenizer) return std::move(tokenizer).error();
    if (Status status = tokenizer_to_metadata(*tokenizer, metadata); !status) {
      return std::move(status).error();
    }
    if (const std::string text = source.chat_template(); !text.empty()) {
      metadata.set("tokenizer.chat_template", Value::string(text));
    }
  }
  metadata.set("general.quantization_version", Value::integer(quantization_version));
  return metadata;
}

/// Files of the folder beside the tensors: as they are from a folder, made from the metadata of a
/// GGUF file. A model without a tokenizer stays without one.
Result<std::vector<SideFile>> side_files(const ModelFile& source) {
  std::vector<SideFile> files;
  if (source.checkpoint().container() != "gguf") {
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json",
                             "chat_template.jinja", "special_tokens_map.json"}) {
      if (auto text = source.checkpoint().side_file(name); text)
        files.push_back({name, std::move(*text)});
    }
    return files;
  }
  auto tokenizer = source.tokenizer();
  if (!tokenizer) return std::move(tokenizer).error();
  constexpr int indent = 2;
  files.push_back({"tokenizer.json", tokenizer_to_json(*tokenizer).dump()});
  files.push_back({"tokenizer_config.json",
                   tokenizer_config_to_json(*tokenizer, source.chat_template()).dump(indent)});
  files.push_back({"generation_config.json", generation_config_to_json(*tokenizer).dump(indent)});
  return files;
}

std::string config_text(const ModelFile& source) {
  json config = source.folder_json("config.json");
  if (config.empty()) config = config_to_json(source.config());
  config.erase("quantization_config");
  constexpr int indent = 2;
  return config.dump(indent);
}

}  // namespace

Result<FolderConvention> parse_convention(std::string_view text) {
  constexpr std::string_view activations = ",a=", own = "lowbit";
  const std::size_t comma = std::min(text.find(activations), text.size());
  const std::string_view name = text.substr(0, comma);
  if (name != own && name != compressed_tensors::quant_method) {
    return Error(fmt::format("there is no convention '{}'; there are {} and {}", text, own,
                             compressed_tensors::quant_method));
  }
  FolderConvention convention{.compressed_tensors = name != own};
  if (comma == text.size()) return convention;
  auto scheme = parse_scheme(text.substr(comma + activations.size()));
  if (!scheme) return std::move(scheme).error().in(fmt::format("--convention {}", text));
  if (!convention.compressed_tensors) {
    return Error(fmt::format("--convention {}: only {} says how activations are quantized", text,
                             compressed_tensors::quant_method));
  }
  convention.activations = *scheme;
  return convention;
}

Result<Container> container_of(const std::string& output, const FolderConvention& convention) {
  const std::string extension = std::filesystem::path(output).extension().string();
  const bool is_gguf = extension == ".gguf";
  if (is_gguf && convention.compressed_tensors) {
    return Error(
        fmt::format("{} is one file and compressed-tensors a convention of folders; name "
                    "a folder that ends in /",
                    output));
  }
  if (is_gguf) return Container::gguf;
  if (output.ends_with('/') || extension.empty()) {
    return convention.compressed_tensors ? Container::compressed_tensors : Container::folder;
  }
  return Error(fmt::format(
      "cannot tell what to write to {}; name a .gguf file or a folder that ends in /", output));
}

Status fits(Container container, const Scheme& scheme, const ModelTensor& tensor) {
  switch (container) {
    case Container::gguf:
      return fits_gguf(scheme, tensor.shape);
    case Container::compressed_tensors:
      return fits_compressed_tensors(tensor.name, scheme, tensor.shape);
    case Container::folder:
      break;
  }
  return fits_lowbit(scheme, tensor.shape);
}

std::int64_t stored_bytes(Container container, const Scheme& scheme, const ModelTensor& tensor) {
  std::int64_t n_bytes = 0;
  if (container == Container::gguf) {
    const BlockLayout* layout = layout_for_scheme(scheme);
    LOWBIT_ASSERT(layout != nullptr);
    n_bytes = tensor.rows() * (tensor.cols() / layout->n_numbers) * layout->n_bytes;
  } else if (container == Container::compressed_tensors && !is_plain_float(scheme)) {
    n_bytes = compressed_tensors::stored_bytes(scheme, tensor.rows(), tensor.cols());
  } else {
    for (const convention::PlaneInfo& plane : convention::plane_infos(scheme, tensor.shape))
      n_bytes += plane.n_bytes;
  }
  return n_bytes;
}

Result<ModelWriter> ModelWriter::create(const ModelFile& source, const std::string& output,
                                        std::span<const OutputTensor> tensors,
                                        const FolderConvention& convention) {
  ModelWriter writer;
  const auto container = container_of(output, convention);
  if (!container) return Error(container.error());
  writer.container_ = *container;
  writer.config_ = &source.config();
  writer.tensors_.assign(tensors.begin(), tensors.end());
  const bool is_gguf = *container == Container::gguf;
  writer.permutes_qk_ = is_gguf && source.config().arch->gguf_permutes_qk;

  std::vector<TensorDeclaration> declarations;
  const std::vector<float>& divisors = source.config().rope_divisors;
  writer.writes_divisors_ = is_gguf && !divisors.empty();
  if (writer.writes_divisors_) {
    declarations.push_back(
        {std::string(divisors_name), {static_cast<std::int64_t>(divisors.size())}, plain_f32()});
  }
  for (OutputTensor& tensor : writer.tensors_) {
    if (is_gguf && !tensor.source->is_matrix()) tensor.scheme = plain_f32();
    std::string name = tensor.source->name;
    if (is_gguf) name = gguf_from_canonical(name).value_or(name);
    declarations.push_back({std::move(name), tensor.source->shape, tensor.scheme, tensor.input});
  }
  if (is_gguf) {
    auto metadata = gguf_metadata(source);
    if (!metadata) return std::move(metadata).error();
    auto created = create_gguf(output, *metadata, std::move(declarations));
    if (!created) return std::move(created).error();
    writer.writer_ = std::move(*created);
  } else {
    auto files = side_files(source);
    if (!files) return std::move(files).error();
    auto created =
        convention.compressed_tensors
            ? create_compressed_tensors_folder(output, config_text(source), std::move(*files),
                                               std::move(declarations), convention.activations)
            : create_lowbit_folder(output, config_text(source), std::move(*files),
                                   std::move(declarations));
    if (!created) return std::move(created).error();
    writer.writer_ = std::move(*created);
  }
  if (writer.writes_divisors_) {
    const QuantizedTensor tensor =
        encode_plain(divisors, plain_f32(), 1, static_cast<std::int64_t>(divisors.size()));
    if (Status status = writer.writer_->add(tensor); !status) return std::move(status).error();
  }
  return writer;
}

Status ModelWriter::add(QuantizedTensor tensor) {
  const OutputTensor& output = tensors_[n_added_++];
  if (permutes_qk_) {
    const std::int64_t n_heads = gguf_permuted_heads(*config_, output.source->name);
    if (n_heads != 0) {
      const auto order = interleaved_from_halves(n_heads, config_->head_dim);
      if (Status status = reorder_outputs(tensor, order, output.source->is_matrix()); !status) {
        return std::move(status).error().in(output.source->name);
      }
    }
  }
  if (!output.source->is_matrix() && !(tensor.scheme == output.scheme)) {
    tensor = encode_plain(decode(tensor), output.scheme, tensor.rows, tensor.cols);
  }
  Status status = writer_->add(tensor);
  if (!status) return std::move(status).error().in(output.source->name);
  return ok();
}

}  // namespace lowbit
