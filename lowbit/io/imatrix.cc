// SPDX-License-Identifier: Apache-2.0
#include "lowbit/io/imatrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <span>
#include <string_view>

#include "lowbit/base/byte_reader.h"
#include "lowbit/base/byte_writer.h"
#include "lowbit/base/mapped_file.h"
#include "lowbit/formats/scheme.h"
#include "lowbit/io/checkpoint.h"
#include "lowbit/io/checkpoint_writer.h"
#include "lowbit/io/gguf_format.h"

namespace lowbit {
namespace {

constexpr std::string_view type_key = "general.type", type_word = "imatrix";
constexpr std::string_view datasets_key = "imatrix.datasets";
constexpr std::string_view n_chunks_key = "imatrix.chunk_count";
constexpr std::string_view chunk_size_key = "imatrix.chunk_size";
constexpr std::string_view sums_suffix = ".in_sum2", counts_suffix = ".counts";
constexpr std::string_view gguf_extension = ".gguf", legacy_extension = ".dat";
// Counts are f32 in the GGUF form and i32 chunks in the other: beyond this they are not a count.
constexpr std::int64_t max_count = std::int64_t{1} << 53;

/// A name as it may stand in a message.
std::string entry_of(std::string_view name) {
  return "entry " + shown(name);
}

Status check(std::string_view name, const Imatrix::Entry& entry) {
  if (entry.sum_square.empty() || entry.counts.empty() ||
      entry.sum_square.size() % entry.counts.size() != 0) {
    return Error(fmt::format("{} has {} sums for {} counts; the file is damaged", entry_of(name),
                             entry.sum_square.size(), entry.counts.size()));
  }
  for (std::size_t i = 0; i < entry.sum_square.size(); ++i) {
    const float value = entry.sum_square[i];
    if (std::isfinite(value) && value >= 0) continue;
    return Error(
        fmt::format("{}: the sum of squares {} is {}, which no sum of squares can be; the "
                    "model that made it gave numbers that are not finite, or the file is damaged",
                    entry_of(name), i, value));
  }
  return ok();
}

class GgufForm {
 public:
  static Result<Imatrix> read(const std::string& path) {
    auto opened = open_gguf(path);
    if (!opened) return std::move(opened).error();
    GgufForm form(**opened);
    if (Status status = form.read_keys(); !status) return std::move(status).error().in(path);
    if (Status status = form.read_tensors(); !status) return std::move(status).error().in(path);
    return std::move(form.imatrix_);
  }

 private:
  explicit GgufForm(const Checkpoint& file) : file_(file) {}

  // Files that other tools merged may lack the keys; only a wrong type is refused.
  Status read_keys() {
    const Metadata& keys = file_.metadata();
    if (const auto type = keys.string(type_key); !type || *type != type_word) {
      return Error(
          "it is a GGUF file but no importance matrix (general.type is not \"imatrix\"); make one "
          "with `lowbit calibrate` or llama-imatrix");
    }
    if (keys.contains(datasets_key)) {
      const auto names = keys.strings(datasets_key);
      if (!names) return Error(names.error());
      imatrix_.datasets = **names;
    }
    const std::pair<std::string_view, std::int64_t*> counts[] = {
        {n_chunks_key, &imatrix_.n_chunks}, {chunk_size_key, &imatrix_.chunk_size}};
    for (const auto& [key, target] : counts) {
      if (!keys.contains(key)) continue;
      const auto value = keys.integer(key);
      if (!value) return Error(value.error());
      if (*value < 0 || *value > std::numeric_limits<std::uint32_t>::max()) {
        return Error(fmt::format("{} is {}; the file is damaged", key, *value));
      }
      *target = *value;
    }
    if (imatrix_.chunk_size == 0) imatrix_.chunk_size = default_imatrix_chunk;
    return ok();
  }

  Result<std::vector<float>> numbers(std::size_t index) {
    const TensorInfo& info = file_.tensors()[index];
    if (info.scheme.name != "f32") {
      return Error(
          fmt::format("tensor {} is {}, expected f32", shown(info.name), to_string(info.scheme)));
    }
    auto tensor = file_.load(index, nullptr);
    if (!tensor) return std::move(tensor).error();
    return decode(*tensor);
  }

  Status read_tensors() {
    std::set<std::string_view> counted;
    for (std::size_t i = 0; i < file_.tensors().size(); ++i) {
      const std::string_view tensor = file_.tensors()[i].name;
      const bool is_sums = tensor.ends_with(sums_suffix);
      if (!is_sums && !tensor.ends_with(counts_suffix)) {
        return Error(fmt::format("tensor {} is neither NAME{} nor NAME{}", shown(tensor),
                                 sums_suffix, counts_suffix));
      }
      auto read = numbers(i);
      if (!read) return std::move(read).error();
      const std::string_view name =
          tensor.substr(0, tensor.size() - (is_sums ? sums_suffix : counts_suffix).size());
      Imatrix::Entry& entry = imatrix_.entries[std::string(name)];
      if (is_sums) {
        entry.sum_square = std::move(*read);
        continue;
      }
      for (const float count : *read) {
        if (!(count >= 0) || count > static_cast<float>(max_count)) {
          return Error(
              fmt::format("{} has a count of {}; the file is damaged", entry_of(name), count));
        }
        entry.counts.push_back(std::llround(count));
      }
    }
    if (imatrix_.entries.empty()) return Error("it has no entries");
    for (const auto& [name, entry] : imatrix_.entries) {
      if (Status status = check(name, entry); !status) return status;
    }
    return ok();
  }

  const Checkpoint& file_;
  Imatrix imatrix_;
};

Result<Imatrix> read_legacy(std::span<const std::byte> bytes) {
  const auto damaged = [](std::string_view what) {
    return Error(fmt::format(
        "{}; it is no importance matrix (.gguf or .dat of llama-imatrix), or it is damaged", what));
  };
  ByteReader in(bytes);
  Imatrix imatrix;
  const auto n_entries = in.get<std::int32_t>();
  if (!in.ok() || n_entries < 1) return damaged("the file has no entries");
  for (std::int32_t i = 0; i < n_entries; ++i) {
    const std::string place = fmt::format("entry {} of {}", i + 1, n_entries);
    const auto n_name = in.get<std::int32_t>();
    if (!in.ok() || n_name < 1) return damaged(place + " has no name");
    const std::string name(in.text(static_cast<std::uint64_t>(n_name)));
    const auto n_chunks = in.get<std::int32_t>();
    const auto n_values = in.get<std::int32_t>();
    if (!in.ok()) return damaged("the file ends inside " + place);
    if (n_values < 1 || n_chunks < 0 ||
        static_cast<std::size_t>(n_values) > in.n_left() / sizeof(float)) {
      return damaged(fmt::format("{} ({}) says {} values of {} chunks, and {} bytes follow", place,
                                 shown(name), n_values, n_chunks, in.n_left()));
    }
    if (imatrix.entries.contains(name)) return damaged(entry_of(name) + " occurs twice");
    Imatrix::Entry& entry = imatrix.entries[name];
    // As if every chunk had the default length: a power of two, so that the means stay exact.
    entry.counts.push_back(std::int64_t{n_chunks} * default_imatrix_chunk);
    for (std::int32_t j = 0; j < n_values; ++j) {
      entry.sum_square.push_back(in.get<float>() * static_cast<float>(default_imatrix_chunk));
    }
    if (Status status = check(name, entry); !status) return std::move(status).error();
  }
  if (in.n_left() == 0) return imatrix;
  imatrix.n_chunks = std::max(0, in.get<std::int32_t>());
  const auto n_dataset = in.get<std::int32_t>();
  if (in.ok() && n_dataset > 0) {
    imatrix.datasets.emplace_back(in.text(static_cast<std::uint64_t>(n_dataset)));
  }
  if (!in.ok()) return damaged("the file ends inside the name of its dataset");
  return imatrix;
}

Status write_gguf_form(const std::string& path, const Imatrix& imatrix) {
  Metadata keys;
  keys.set(type_key, Value::string(std::string(type_word)));
  keys.set(datasets_key, Value::strings(imatrix.datasets));
  keys.set(n_chunks_key, Value::integer(imatrix.n_chunks));
  keys.set(chunk_size_key, Value::integer(imatrix.chunk_size));
  const Scheme f32 = *parse_scheme("f32");
  std::vector<TensorDeclaration> declarations;
  for (const auto& [name, entry] : imatrix.entries) {
    const auto n_experts = static_cast<std::int64_t>(entry.counts.size());
    declarations.push_back({name + std::string(sums_suffix), {n_experts, entry.n_inputs()}, f32});
    declarations.push_back({name + std::string(counts_suffix), {n_experts, 1}, f32});
  }
  auto writer = create_gguf(path, keys, std::move(declarations));
  if (!writer) return std::move(writer).error();
  for (const auto& [name, entry] : imatrix.entries) {
    const auto n_experts = static_cast<std::int64_t>(entry.counts.size());
    const std::vector<float> counts(entry.counts.begin(), entry.counts.end());
    Status sums = (*writer)->add(encode_plain(entry.sum_square, f32, n_experts, entry.n_inputs()));
    if (!sums) return sums;
    Status added = (*writer)->add(encode_plain(counts, f32, n_experts, 1));
    if (!added) return added;
  }
  return (*writer)->commit();
}

Status write_legacy_form(const std::string& path, const Imatrix& imatrix) {
  ByteWriter out;
  out.put(static_cast<std::int32_t>(imatrix.entries.size()));
  for (const auto& [name, entry] : imatrix.entries) {
    const std::int64_t most = *std::ranges::max_element(entry.counts);
    const std::int64_t n_chunks = (most + imatrix.chunk_size - 1) / imatrix.chunk_size;
    if (n_chunks > std::numeric_limits<std::int32_t>::max()) {
      return Error(fmt::format("{}: {} of {} chunks do not fit into the .dat form; write a .gguf",
                               path, entry_of(name), n_chunks));
    }
    out.put_string<std::int32_t>(name);
    out.put(static_cast<std::int32_t>(n_chunks));
    out.put(static_cast<std::int32_t>(entry.sum_square.size()));
    for (const float mean : entry.mean_square()) out.put(mean * static_cast<float>(n_chunks));
  }
  out.put(static_cast<std::int32_t>(imatrix.n_chunks));
  out.put_string<std::int32_t>(imatrix.datasets.empty() ? std::string_view()
                                                        : imatrix.datasets.back());
  auto file = AtomicFile::create(path);
  if (!file) return std::move(file).error();
  if (Status status = file->write(out.bytes()); !status) return status;
  return file->commit();
}

}  // namespace

std::vector<float> Imatrix::Entry::mean_square() const {
  std::vector<float> mean(sum_square.size(), 1.0f);
  const auto cols = static_cast<std::size_t>(n_inputs());
  for (std::size_t expert = 0; expert < counts.size(); ++expert) {
    if (counts[expert] == 0) continue;
    const auto count = static_cast<float>(counts[expert]);
    for (std::size_t j = expert * cols; j < (expert + 1) * cols; ++j) {
      mean[j] = sum_square[j] / count;
    }
  }
  return mean;
}

Result<Imatrix> read_imatrix(const std::string& path) {
  bool is_gguf = false;
  {
    const auto file = MappedFile::open(path);
    if (!file) return Error(file.error());
    const auto bytes = file->bytes();
    is_gguf = bytes.size() >= gguf::magic.size() &&
              std::memcmp(bytes.data(), gguf::magic.data(), gguf::magic.size()) == 0;
    if (!is_gguf) {
      auto imatrix = read_legacy(bytes);
      if (!imatrix) return std::move(imatrix).error().in(path);
      return imatrix;
    }
  }
  return GgufForm::read(path);
}

Status check_imatrix_path(const std::string& path) {
  if (path.ends_with(gguf_extension) || path.ends_with(legacy_extension)) return ok();
  return Error(
      fmt::format("cannot tell which form {} shall have; name a {} file, or a {} file for tools "
                  "before 2025",
                  path, gguf_extension, legacy_extension));
}

Status write_imatrix(const std::string& path, const Imatrix& imatrix) {
  if (Status status = check_imatrix_path(path); !status) return status;
  if (imatrix.entries.empty()) return Error(path + ": an importance matrix without entries");
  for (const auto& [name, entry] : imatrix.entries) {
    if (Status status = check(name, entry); !status) return std::move(status).error().in(path);
  }
  return path.ends_with(gguf_extension) ? write_gguf_form(path, imatrix)
                                        : write_legacy_form(path, imatrix);
}

}  // namespace lowbit
