// SPDX-License-Identifier: Apache-2.0
// The GGUF reader (versions 2 and 3, little-endian, split files). Nothing in the file is believed
// before it is checked against the file: counts before memory is taken for them, offsets and sizes
// before a byte is read there.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <optional>
#include <unordered_set>

#include "lowbit/base/byte_reader.h"
#include "lowbit/base/checked.h"
#include "lowbit/base/mapped_file.h"
#include "lowbit/io/checkpoint.h"
#include "lowbit/io/gguf_format.h"
#include "lowbit/io/layout.h"

namespace lowbit {
namespace {

struct StoredTensor {
  std::string name;
  std::vector<std::int64_t> shape;  // outermost first
  std::uint32_t type = 0;
  std::uint64_t offset = 0;  // from the start of the data, then from the start of the file
  const BlockLayout* layout = nullptr;
  std::int64_t rows = 1, cols = 1, n_bytes = 0;
};

struct File {
  MappedFile mapped;
  Metadata metadata;
  std::vector<StoredTensor> tensors;

  std::span<const std::byte> bytes_of(const StoredTensor& tensor) const {
    return mapped.bytes().subspan(static_cast<std::size_t>(tensor.offset),
                                  static_cast<std::size_t>(tensor.n_bytes));
  }
};

Error cut_short(const ByteReader& in, std::string_view part) {
  return Error(
      fmt::format("the file ends inside {} (at byte {}); it is damaged or was not "
                  "downloaded completely, get it again",
                  part, in.position()));
}

std::size_t stored_bytes(ValueType type) {
  switch (type) {
    case ValueType::uint8:
    case ValueType::int8:
    case ValueType::boolean:
      return 1;
    case ValueType::uint16:
    case ValueType::int16:
      return 2;
    case ValueType::uint32:
    case ValueType::int32:
    case ValueType::float32:
      return 4;
    case ValueType::uint64:
    case ValueType::int64:
    case ValueType::float64:
    case ValueType::string:
      return 8;  // of a string, its length
    case ValueType::array:
      return 12;  // element type and count
  }
  return 1;
}

std::int64_t read_integer(ByteReader& in, ValueType type) {
  switch (type) {
    case ValueType::uint8:
      return in.get<std::uint8_t>();
    case ValueType::int8:
      return in.get<std::int8_t>();
    case ValueType::uint16:
      return in.get<std::uint16_t>();
    case ValueType::int16:
      return in.get<std::int16_t>();
    case ValueType::uint32:
      return in.get<std::uint32_t>();
    case ValueType::int32:
      return in.get<std::int32_t>();
    case ValueType::boolean:
      return in.get<std::uint8_t>() != 0 ? 1 : 0;
    default:
      return in.get<std::int64_t>();
  }
}
double read_number(ByteReader& in, ValueType type) {
  return type == ValueType::float32 ? in.get<float>() : in.get<double>();
}
std::string read_string(ByteReader& in) {
  return std::string(in.text(in.get<std::uint64_t>()));
}

Result<ValueType> read_type(ByteReader& in) {
  const auto number = in.get<std::uint32_t>();
  if (!in.ok()) return cut_short(in, "the metadata");
  if (number > static_cast<std::uint32_t>(ValueType::float64)) {
    return Error(fmt::format("{} is no GGUF value type; the file is damaged", number));
  }
  return static_cast<ValueType>(number);
}

Result<Value> read_array(ByteReader& in) {
  auto element = read_type(in);
  if (!element) return std::move(element).error();
  const auto count = in.get<std::uint64_t>();
  if (*element == ValueType::array) {
    return Error("it is an array of arrays, which lowbit does not read");
  }
  if (!in.ok() || count > in.n_left() / stored_bytes(*element)) {
    return Error(
        fmt::format("an array of {} elements does not fit into the file; it is damaged", count));
  }
  const auto n = static_cast<std::size_t>(count);
  switch (*element) {
    case ValueType::string: {
      std::vector<std::string> values;  // grows as it is read: a count alone takes no memory
      while (values.size() < n && in.ok()) values.push_back(read_string(in));
      return Value::strings(std::move(values));
    }
    case ValueType::float32:
    case ValueType::float64: {
      std::vector<double> values(n);
      for (auto& value : values) value = read_number(in, *element);
      return Value::numbers(std::move(values), *element);
    }
    default: {
      std::vector<std::int64_t> values(n);
      for (auto& value : values) value = read_integer(in, *element);
      return Value::integers(std::move(values), *element);
    }
  }
}

Result<Value> read_value(ByteReader& in) {
  auto type = read_type(in);
  if (!type) return std::move(type).error();
  switch (*type) {
    case ValueType::array:
      return read_array(in);
    case ValueType::string:
      return Value::string(read_string(in));
    case ValueType::float32:
    case ValueType::float64:
      return Value::number(read_number(in, *type), *type);
    default:
      return Value::integer(read_integer(in, *type), *type);
  }
}

Result<Metadata> read_metadata(ByteReader& in, std::uint64_t n_kv) {
  Metadata metadata;
  for (std::uint64_t i = 0; i < n_kv; ++i) {
    const std::string key = read_string(in);
    if (!in.ok()) return cut_short(in, fmt::format("metadata entry {} of {}", i + 1, n_kv));
    auto value = read_value(in);
    if (!value) return std::move(value).error().in("metadata key " + shown(key));
    if (!in.ok()) return cut_short(in, "metadata key " + shown(key));
    if (metadata.contains(key)) {
      return Error(fmt::format("metadata key {} occurs twice; the file is damaged", shown(key)));
    }
    metadata.set(key, std::move(*value));
  }
  return metadata;
}

Result<StoredTensor> read_tensor_info(ByteReader& in) {
  StoredTensor tensor;
  tensor.name = read_string(in);
  const auto n_dims = in.get<std::uint32_t>();
  if (!in.ok()) return cut_short(in, "the tensor table");
  if (tensor.name.empty()) return Error("a tensor has no name; the file is damaged");
  if (n_dims < 1 || n_dims > gguf::max_dims) {
    return Error(fmt::format("tensor {} has {} dimensions, expected 1 to {}", shown(tensor.name),
                             n_dims, gguf::max_dims));
  }
  tensor.shape.resize(n_dims);
  std::optional<std::int64_t> n_numbers = 1;
  for (std::size_t d = n_dims; d-- > 0;) {
    const auto extent = in.get<std::uint64_t>();
    tensor.shape[d] = static_cast<std::int64_t>(extent);
    if (in.ok() && tensor.shape[d] < 1) n_numbers.reset();
    if (n_numbers) n_numbers = checked_mul(*n_numbers, tensor.shape[d]);
  }
  tensor.type = in.get<std::uint32_t>();
  tensor.offset = in.get<std::uint64_t>();
  if (!in.ok()) return cut_short(in, "the tensor table");
  if (!n_numbers) {
    return Error(fmt::format("tensor {} has the impossible shape {}; the file is damaged",
                             shown(tensor.name), fmt::join(tensor.shape, " x ")));
  }
  tensor.cols = tensor.shape.back();
  tensor.rows = *n_numbers / tensor.cols;
  return tensor;
}

/// Finds the layout and checks that the tensor is whole blocks inside the data.
Status place(StoredTensor& tensor, std::uint64_t alignment, std::size_t data_start,
             std::size_t file_bytes) {
  const std::string name = shown(tensor.name);
  tensor.layout = layout_for_type(tensor.type);
  if (tensor.layout == nullptr) {
    return Error(
        fmt::format("tensor {} is of GGUF type {}, which lowbit does not know; `lowbit "
                    "formats` lists the types it reads",
                    name, tensor.type));
  }
  if (tensor.cols % tensor.layout->n_numbers != 0) {
    return Error(
        fmt::format("tensor {} has rows of {} numbers, not a multiple of the {} in a "
                    "block of {}; the file is damaged",
                    name, tensor.cols, tensor.layout->n_numbers, tensor.layout->name));
  }
  const std::int64_t n_blocks = tensor.rows * (tensor.cols / tensor.layout->n_numbers);
  const auto n_bytes = checked_mul(n_blocks, tensor.layout->n_bytes);
  const std::size_t data_bytes = file_bytes - data_start;
  if (!n_bytes || static_cast<std::uint64_t>(*n_bytes) > data_bytes ||
      tensor.offset > data_bytes - static_cast<std::uint64_t>(*n_bytes)) {
    return Error(
        fmt::format("tensor {} reaches beyond the end of the file; it is damaged or was "
                    "not downloaded completely, get it again",
                    name));
  }
  if (tensor.offset % alignment != 0) {
    return Error(
        fmt::format("tensor {} starts at offset {}, which is not aligned to {} bytes; "
                    "the file is damaged",
                    name, tensor.offset, alignment));
  }
  tensor.n_bytes = *n_bytes;
  tensor.offset += data_start;
  return ok();
}

/// Type 42 means STQ1_0 here, but other programs use the number for two kinds of Q2_0: only the
/// room that the tensor takes tells them apart.
Status check_stride(const StoredTensor& tensor, std::uint64_t alignment, std::uint64_t next) {
  const auto n_bytes = static_cast<std::uint64_t>(tensor.n_bytes);
  const std::uint64_t expected = (n_bytes + alignment - 1) / alignment * alignment;
  if (tensor.type != gguf::type_stq1_0) return ok();
  if (next - tensor.offset == expected || next - tensor.offset == n_bytes) return ok();
  return Error(fmt::format(
      "tensor {} is of GGUF type {}, a number that stq1_0 ({} bytes per {} numbers) shares with "
      "types of other programs, and takes {} bytes where stq1_0 takes {}; convert the file with "
      "the program that made it",
      shown(tensor.name), tensor.type, tensor.layout->n_bytes, tensor.layout->n_numbers,
      next - tensor.offset, n_bytes));
}

Status check_overlaps(const std::vector<StoredTensor>& tensors, std::uint64_t alignment,
                      std::size_t file_bytes) {
  std::vector<const StoredTensor*> in_order;
  for (const auto& tensor : tensors) in_order.push_back(&tensor);
  std::sort(in_order.begin(), in_order.end(),
            [](const auto* a, const auto* b) { return a->offset < b->offset; });
  for (std::size_t i = 0; i < in_order.size(); ++i) {
    const StoredTensor& tensor = *in_order[i];
    const bool is_last = i + 1 == in_order.size();
    const std::uint64_t next = is_last ? file_bytes : in_order[i + 1]->offset;
    if (next - tensor.offset < static_cast<std::uint64_t>(tensor.n_bytes)) {
      return Error(fmt::format("tensors {} and {} overlap; the file is damaged", shown(tensor.name),
                               shown(in_order[i + 1]->name)));
    }
    auto checked = check_stride(tensor, alignment, next);
    if (!checked) return checked;
  }
  return ok();
}

Status check_version(std::uint32_t found) {
  if (found >= gguf::oldest_version && found <= gguf::version) return ok();
  if (found != 0 && (found & 0xffff) == 0) {
    return Error(
        "this is a big-endian GGUF file; convert it to little-endian first "
        "(gguf-convert-endian of the gguf Python package)");
  }
  return Error(
      fmt::format("GGUF version {} is not supported, only {} and {}; convert the model "
                  "again with a current program",
                  found, gguf::oldest_version, gguf::version));
}

Result<File> parse(MappedFile mapped) {
  const std::span<const std::byte> bytes = mapped.bytes();
  ByteReader in(bytes);
  if (in.text(gguf::magic.size()) != gguf::magic) {
    return Error(
        "this is not a GGUF file (it does not start with 'GGUF'); check the path, or get "
        "the file again");
  }
  const auto found = in.get<std::uint32_t>();
  if (!in.ok()) return cut_short(in, "the header");
  auto supported = check_version(found);
  if (!supported) return std::move(supported).error();
  const auto n_tensors = in.get<std::uint64_t>(), n_kv = in.get<std::uint64_t>();
  if (!in.ok()) return cut_short(in, "the header");
  // The smallest entries there can be: an empty key with a byte, a name with one dimension.
  constexpr std::size_t least_kv_bytes = 8 + 4 + 1, least_tensor_bytes = 8 + 4 + 8 + 4 + 8;
  if (n_kv > in.n_left() / least_kv_bytes || n_tensors > in.n_left() / least_tensor_bytes) {
    return Error(
        fmt::format("{} tensors and {} metadata entries do not fit into the file; it is "
                    "damaged or was not downloaded completely, get it again",
                    n_tensors, n_kv));
  }
  auto metadata = read_metadata(in, n_kv);
  if (!metadata) return std::move(metadata).error();
  auto alignment = gguf::alignment_of(*metadata);
  if (!alignment) return std::move(alignment).error();

  std::vector<StoredTensor> tensors;
  std::unordered_set<std::string> names;
  for (std::uint64_t i = 0; i < n_tensors; ++i) {
    auto tensor = read_tensor_info(in);
    if (!tensor) return std::move(tensor).error();
    if (!names.insert(tensor->name).second) {
      return Error(fmt::format("tensor {} occurs twice; the file is damaged", shown(tensor->name)));
    }
    tensors.push_back(std::move(*tensor));
  }
  const std::size_t aligned = (in.position() + *alignment - 1) / *alignment * *alignment;
  const std::size_t data_start = std::min(aligned, bytes.size());
  for (StoredTensor& tensor : tensors) {
    auto placed = place(tensor, *alignment, data_start, bytes.size());
    if (!placed) return std::move(placed).error();
  }
  auto checked = check_overlaps(tensors, *alignment, bytes.size());
  if (!checked) return std::move(checked).error();
  return File{std::move(mapped), std::move(*metadata), std::move(tensors)};
}

Result<File> open_file(const std::string& path) {
  auto mapped = MappedFile::open(path);
  if (!mapped) return std::move(mapped).error();
  auto file = parse(std::move(*mapped));
  if (!file) return std::move(file).error().in(path);
  return file;
}

/// NAME-00001-of-00003.gguf, number and count from 1.
std::string split_path(std::string_view stem, std::int64_t number, std::int64_t count) {
  return fmt::format("{}-{:05}-of-{:05}.gguf", stem, number, count);
}

Result<std::int64_t> split_integer(const File& file, std::string_view key) {
  auto value = file.metadata.integer(key);
  if (!value) return std::move(value).error().in(file.mapped.path());
  return value;
}

/// All files of a split, given any of them.
Result<std::vector<File>> open_files(const std::string& path) {
  auto opened = open_file(path);
  if (!opened) return std::move(opened).error();
  std::vector<File> files;
  std::int64_t count = 1, number = 0;
  if (opened->metadata.contains(gguf::split_count_key)) {
    auto stated = split_integer(*opened, gguf::split_count_key);
    if (!stated) return std::move(stated).error();
    count = *stated;
  }
  constexpr std::int64_t max_count = 99999;  // five digits in the name
  if (count < 0 || count > max_count) {
    return Error(
        fmt::format("{}: {} is {}; the file is damaged", path, gguf::split_count_key, count));
  }
  if (count <= 1) {
    files.push_back(std::move(*opened));
    return files;
  }
  auto stated_number = split_integer(*opened, gguf::split_number_key);
  if (!stated_number) return std::move(stated_number).error();
  number = *stated_number;
  const std::string suffix = split_path("", number + 1, count);
  if (number < 0 || number >= count || !path.ends_with(suffix)) {
    return Error(
        fmt::format("{} is file {} of {} of a split model but is not named NAME{}; rename "
                    "the files as they were published",
                    path, number + 1, count, suffix));
  }
  const std::string stem = path.substr(0, path.size() - suffix.size());
  std::size_t n_tensors = 0;
  std::unordered_set<std::string> names;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::string name = split_path(stem, i + 1, count);
    std::error_code ignored;
    if (i != number && !std::filesystem::exists(name, ignored)) {
      return Error(
          fmt::format("{} is file {} of {} of a split model and '{}' is missing; get it "
                      "into the same folder",
                      path, number + 1, count, name));
    }
    auto file = i == number ? std::move(opened) : open_file(name);
    if (!file) return std::move(file).error();
    auto part = split_integer(*file, gguf::split_number_key);
    if (!part) return std::move(part).error();
    auto of = split_integer(*file, gguf::split_count_key);
    if (!of) return std::move(of).error();
    if (*part != i || *of != count) {
      return Error(
          fmt::format("{} says that it is file {} of {}, expected {} of {}; the files of "
                      "this split do not belong together",
                      name, *part + 1, *of, i + 1, count));
    }
    for (const auto& tensor : file->tensors) {
      if (names.insert(tensor.name).second) continue;
      return Error(fmt::format("{}: tensor {} is in an earlier file of the split too", name,
                               shown(tensor.name)));
    }
    n_tensors += file->tensors.size();
    files.push_back(std::move(*file));
  }
  if (files[0].metadata.contains(gguf::split_tensors_key)) {
    auto stated = split_integer(files[0], gguf::split_tensors_key);
    if (!stated) return std::move(stated).error();
    if (*stated != static_cast<std::int64_t>(n_tensors)) {
      return Error(
          fmt::format("the {} files of {} hold {} tensors, {} says {}; a file is missing "
                      "or from another model",
                      count, stem, n_tensors, gguf::split_tensors_key, *stated));
    }
  }
  return files;
}

class GgufCheckpoint final : public Checkpoint {
 public:
  GgufCheckpoint(std::string path, std::vector<File> files)
      : path_(std::move(path)), files_(std::move(files)), metadata_(files_[0].metadata) {
    for (const auto key :
         {gguf::split_number_key, gguf::split_count_key, gguf::split_tensors_key}) {
      metadata_.erase(key);  // true of a file, not of the model
    }
  }

  /// Names the tensors; a tensor scale is part of the tensor that it belongs to.
  Status bind() {
    std::unordered_set<std::string_view> merged;
    std::vector<Entry> entries;
    for (const File& file : files_) {
      for (const StoredTensor& tensor : file.tensors) entries.push_back({&file, &tensor, {}});
    }
    std::unordered_map<std::string_view, const Entry*> by_name;
    for (const Entry& entry : entries) by_name[entry.tensor->name] = &entry;
    for (Entry& entry : entries) {
      if (entry.tensor->type != gguf::type_nvfp4) continue;
      const auto found = by_name.find(gguf::scale_name(entry.tensor->name));
      if (found == by_name.end()) continue;
      const auto& [file, scale, unused] = *found->second;
      if (scale->type != gguf::type_f32 || scale->rows * scale->cols != 1) {
        return Error(fmt::format("{}: tensor {} must be one f32, the scale of {}",
                                 file->mapped.path(), shown(scale->name),
                                 shown(entry.tensor->name)));
      }
      float value = 0;
      std::memcpy(&value, file->bytes_of(*scale).data(), sizeof value);
      entry.tensor_scale = value;
      merged.insert(scale->name);
    }
    for (const Entry& entry : entries) {
      const StoredTensor& tensor = *entry.tensor;
      if (merged.contains(tensor.name)) continue;
      const auto n_bytes =
          tensor.n_bytes + static_cast<std::int64_t>(entry.tensor_scale ? sizeof(float) : 0);
      infos_.push_back({tensor.name, tensor.shape, tensor.layout->scheme, n_bytes});
      entries_.push_back(entry);
    }
    return ok();
  }

  std::string_view container() const override { return "gguf"; }
  const std::string& path() const override { return path_; }
  const Metadata& metadata() const override { return metadata_; }
  std::span<const TensorInfo> tensors() const override { return infos_; }

  Result<QuantizedTensor> load(std::size_t index, ThreadPool* pool) const override {
    const auto& [file, stored, tensor_scale] = entries_[index];
    QuantizedTensor tensor =
        load_blocks(*stored->layout, file->bytes_of(*stored), stored->rows, stored->cols, pool);
    if (tensor_scale) {
      tensor.scale->scale->codes.set(0, 0, std::bit_cast<std::uint32_t>(*tensor_scale));
    }
    return checked(std::move(tensor), path_, stored->name);
  }
  ReadRows row_reader(std::size_t index) const override {
    const Entry* entry = &entries_[index];
    return [entry](std::span<const std::int64_t> rows, QuantizedTensor& out) {
      const auto& [file, stored, tensor_scale] = *entry;
      load_rows(*stored->layout, file->bytes_of(*stored), rows, stored->cols, out);
      if (tensor_scale) {
        out.scale->scale->codes.set(0, 0, std::bit_cast<std::uint32_t>(*tensor_scale));
      }
    };
  }
  void prefetch(std::size_t index) const override {
    const Entry& entry = entries_[index];
    entry.file->mapped.prefetch(entry.file->bytes_of(*entry.tensor));
  }
  void drop_pages(std::size_t index) const override {
    entries_[index].file->mapped.drop_pages(
        entries_[index].file->bytes_of(*entries_[index].tensor));
  }
  std::vector<const MappedFile*> files() const override { return mapped_of(files_); }
  Result<std::string> side_file(std::string_view name) const override {
    return Error(fmt::format("{} is a GGUF file and has no {} beside it", path_, name));
  }

 private:
  struct Entry {
    const File* file;
    const StoredTensor* tensor;
    std::optional<float> tensor_scale;
  };
  std::string path_;
  std::vector<File> files_;  // not changed after construction: entries point into it
  Metadata metadata_;
  std::vector<TensorInfo> infos_;
  std::vector<Entry> entries_;
};

}  // namespace

Result<std::unique_ptr<Checkpoint>> open_gguf(const std::string& path) {
  auto files = open_files(path);
  if (!files) return std::move(files).error();
  auto checkpoint = std::make_unique<GgufCheckpoint>(path, std::move(*files));
  auto bound = checkpoint->bind();
  if (!bound) return std::move(bound).error();
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace lowbit
