// SPDX-License-Identifier: Apache-2.0
// The GGUF writer, version 3. Sizes follow from the declarations, so the header is written first
// and the tensors after it, each as soon as it is given; nothing is written twice.
#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <unordered_set>
#include <utility>

#include "lowbit/base/byte_writer.h"
#include "lowbit/base/mapped_file.h"
#include "lowbit/io/checkpoint_writer.h"
#include "lowbit/io/declared_tensors.h"
#include "lowbit/io/gguf_format.h"
#include "lowbit/io/layout.h"
#include "lowbit/io/lowbit_convention.h"

namespace lowbit {
namespace {

using Length = std::uint64_t;  // of texts

void put_integer(ByteWriter& out, ValueType type, std::int64_t value) {
  switch (type) {
    case ValueType::uint8:
    case ValueType::int8:
    case ValueType::boolean:
      return out.put(static_cast<std::uint8_t>(value));
    case ValueType::uint16:
    case ValueType::int16:
      return out.put(static_cast<std::uint16_t>(value));
    case ValueType::uint32:
    case ValueType::int32:
      return out.put(static_cast<std::uint32_t>(value));
    default:
      return out.put(value);
  }
}
void put_number(ByteWriter& out, ValueType type, double value) {
  if (type == ValueType::float32) return out.put(static_cast<float>(value));
  out.put(value);
}

void put_value(ByteWriter& out, const Value& value) {
  out.put(static_cast<std::uint32_t>(value.type));
  const auto put_array_head = [&](std::size_t n_elements) {
    out.put(static_cast<std::uint32_t>(value.element));
    out.put<std::uint64_t>(n_elements);
  };
  if (const auto* integer = std::get_if<std::int64_t>(&value.data)) {
    put_integer(out, value.type, *integer);
  } else if (const auto* number = std::get_if<double>(&value.data)) {
    put_number(out, value.type, *number);
  } else if (const auto* text = std::get_if<std::string>(&value.data)) {
    out.put_string<Length>(*text);
  } else if (const auto* integers = std::get_if<std::vector<std::int64_t>>(&value.data)) {
    put_array_head(integers->size());
    for (const std::int64_t element : *integers) put_integer(out, value.element, element);
  } else if (const auto* numbers = std::get_if<std::vector<double>>(&value.data)) {
    put_array_head(numbers->size());
    for (const double element : *numbers) put_number(out, value.element, element);
  } else if (const auto* strings = std::get_if<std::vector<std::string>>(&value.data)) {
    put_array_head(strings->size());
    for (const std::string& element : *strings) out.put_string<Length>(element);
  }
}

std::uint64_t padded(std::uint64_t n_bytes, std::uint64_t alignment) {
  return (n_bytes + alignment - 1) / alignment * alignment;
}

class GgufWriter final : public CheckpointWriter {
 public:
  static Result<std::unique_ptr<CheckpointWriter>> create(const std::string& path,
                                                          const Metadata& metadata,
                                                          std::vector<TensorDeclaration> tensors) {
    auto writer = std::make_unique<GgufWriter>();
    auto declared = writer->declare(path, metadata, std::move(tensors));
    if (!declared) return std::move(declared).error().in(path);
    auto file = AtomicFile::create(path);
    if (!file) return std::move(file).error();
    writer->file_ = std::make_unique<AtomicFile>(std::move(*file));
    auto written = writer->write_header(metadata);
    if (!written) return std::move(written).error();
    return std::unique_ptr<CheckpointWriter>(std::move(writer));
  }

  Status add(const QuantizedTensor& tensor) override {
    const auto index = declared_->next(tensor);
    if (!index) return Error(index.error());
    const Stored& stored = tensors_[*index];
    std::vector<std::byte> bytes(padded(stored.n_bytes, alignment_));
    const std::span<std::byte> blocks(bytes.data(), stored.n_bytes);
    auto fits = store_blocks(*stored.layout, tensor, blocks);
    if (!fits) return std::move(fits).error().in("tensor " + declared_->all()[*index].name);
    if (stored.layout->ggml_type == gguf::type_nvfp4) {
      const std::uint32_t scale = tensor.scale->scale->codes.get(0, 0);
      bytes.resize(bytes.size() + padded(sizeof scale, alignment_));
      std::memcpy(bytes.data() + padded(stored.n_bytes, alignment_), &scale, sizeof scale);
    }
    declared_->advance();
    return file_->write(bytes);
  }

  Status commit() override {
    if (Status complete = declared_->check_complete(); !complete) return complete;
    return file_->commit();
  }

  std::int64_t file_bytes() const override { return static_cast<std::int64_t>(n_file_bytes_); }

 private:
  struct Stored {
    const BlockLayout* layout;
    std::size_t n_bytes;
  };

  Status declare(const std::string& path, const Metadata& metadata,
                 std::vector<TensorDeclaration> tensors) {
    auto alignment = gguf::alignment_of(metadata);
    if (!alignment) return std::move(alignment).error();
    alignment_ = *alignment;
    std::unordered_set<std::string> names;
    for (const TensorDeclaration& tensor : tensors) {
      auto fits = fits_gguf(tensor.scheme, tensor.shape);
      if (fits && !tensor.input.is_plain()) {
        fits =
            Error(fmt::format("GGUF has no place for the basis of its inputs ({}); write a folder "
                              "(-o DIR/) or take hadamard-folded",
                              to_string(tensor.input)));
      }
      if (!fits) return std::move(fits).error().in("tensor " + tensor.name);
      const BlockLayout* layout = layout_for_scheme(tensor.scheme);
      bool is_new = names.insert(tensor.name).second;
      if (layout->ggml_type == gguf::type_nvfp4) {
        is_new = names.insert(gguf::scale_name(tensor.name)).second && is_new;
      }
      if (!is_new) return Error(fmt::format("tensor {} is declared twice", tensor.name));
      const std::int64_t n_blocks = convention::rows_of(tensor.shape) *
                                    (convention::cols_of(tensor.shape) / layout->n_numbers);
      tensors_.push_back({layout, static_cast<std::size_t>(n_blocks * layout->n_bytes)});
    }
    declared_.emplace(path, std::move(tensors));
    return ok();
  }

  Status write_header(const Metadata& metadata) {
    ByteWriter table;
    std::uint64_t n_stored = 0, offset = 0;
    const auto put_info = [&](std::string_view name, const std::vector<std::int64_t>& shape,
                              std::uint32_t type, std::uint64_t n_bytes) {
      table.put_string<Length>(name);
      table.put(static_cast<std::uint32_t>(shape.size()));
      for (auto extent = shape.rbegin(); extent != shape.rend(); ++extent) table.put(*extent);
      table.put(type);
      table.put(offset);
      offset += padded(n_bytes, alignment_);
      ++n_stored;
    };
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const Stored& tensor = tensors_[i];
      const TensorDeclaration& declared = declared_->all()[i];
      put_info(declared.name, declared.shape, tensor.layout->ggml_type, tensor.n_bytes);
      if (tensor.layout->ggml_type == gguf::type_nvfp4) {
        put_info(gguf::scale_name(declared.name), {1}, gguf::type_f32, sizeof(float));
      }
    }
    ByteWriter header;
    header.put_text(gguf::magic);
    header.put(gguf::version);
    header.put(n_stored);
    header.put<std::uint64_t>(metadata.n_entries());
    for (const auto& [key, value] : metadata) {
      header.put_string<Length>(key);
      put_value(header, value);
    }
    header.append(table.bytes());
    header.pad_to(padded(header.n_bytes(), alignment_));
    n_file_bytes_ = header.n_bytes() + offset;
    return file_->write(header.bytes());
  }

  std::optional<DeclaredTensors> declared_;
  std::unique_ptr<AtomicFile> file_;
  std::vector<Stored> tensors_;
  std::uint64_t alignment_ = gguf::default_alignment, n_file_bytes_ = 0;
};

}  // namespace

Status fits_gguf(const Scheme& scheme, const std::vector<std::int64_t>& shape) {
  const BlockLayout* layout = layout_for_scheme(scheme);
  if (layout == nullptr) {
    return Error(
        fmt::format("GGUF has no type for {}; write a folder (-o DIR/), which holds every "
                    "scheme, or choose a scheme of GGUF (`lowbit formats` lists them)",
                    to_string(scheme)));
  }
  if (shape.empty() || shape.size() > gguf::max_dims) {
    return Error(fmt::format("GGUF tensors have 1 to {} dimensions, this one {}", gguf::max_dims,
                             shape.size()));
  }
  if (shape.back() % layout->n_numbers != 0) {
    return Error(
        fmt::format("rows of {} numbers are not whole blocks of {} ({} numbers each); "
                    "choose another scheme or give --fallback SCHEME",
                    shape.back(), layout->name, layout->n_numbers));
  }
  return ok();
}

Result<std::unique_ptr<CheckpointWriter>> create_gguf(const std::string& path,
                                                      const Metadata& metadata,
                                                      std::vector<TensorDeclaration> tensors) {
  return GgufWriter::create(path, metadata, std::move(tensors));
}

}  // namespace lowbit
