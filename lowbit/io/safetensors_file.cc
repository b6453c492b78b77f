// SPDX-License-Identifier: Apache-2.0
#include "lowbit/io/safetensors_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "lowbit/base/byte_reader.h"
#include "lowbit/base/checked.h"
#include "lowbit/io/json.h"

namespace lowbit {
namespace {

constexpr std::array<std::pair<std::string_view, std::int64_t>, 17> dtypes{{
    {"BOOL", 1},
    {"U8", 1},
    {"I8", 1},
    {"F8_E5M2", 1},
    {"F8_E4M3", 1},
    {"F8_E8M0", 1},
    {"I16", 2},
    {"U16", 2},
    {"F16", 2},
    {"BF16", 2},
    {"I32", 4},
    {"U32", 4},
    {"F32", 4},
    {"F64", 8},
    {"I64", 8},
    {"U64", 8},
    {"C64", 8},
}};

Error damaged(std::string_view name, std::string_view what) {
  return Error(fmt::format("tensor {} {}; the file is damaged, get it again", shown(name), what));
}

/// A number of the header; nothing when it is no whole number from 0 on.
std::optional<std::int64_t> whole(const Json& json) {
  if (!json.is_number_integer()) return std::nullopt;
  const auto value = json.get<std::int64_t>();
  if (value < 0) return std::nullopt;
  return value;
}

Result<SafetensorsEntry> read_entry(const std::string& name, const Json& json,
                                    std::span<const std::byte> data) {
  SafetensorsEntry entry;
  entry.name = name;
  if (!json.is_object() || !json.contains("dtype") || !json["dtype"].is_string() ||
      !json.contains("shape") || !json["shape"].is_array() || !json.contains("data_offsets") ||
      !json["data_offsets"].is_array() || json["data_offsets"].size() != 2) {
    return damaged(name, "lacks a dtype, a shape or data_offsets");
  }
  entry.dtype = json["dtype"].get<std::string>();
  auto n_bytes = safetensors_dtype_bytes(entry.dtype);
  if (!n_bytes) {
    return Error(fmt::format("tensor {} has the dtype {}, which lowbit does not know", shown(name),
                             shown(entry.dtype)));
  }
  for (const Json& extent : json["shape"]) {
    const auto value = whole(extent);
    entry.shape.push_back(value.value_or(-1));
    n_bytes = value && n_bytes ? checked_mul(*n_bytes, *value) : std::nullopt;
  }
  const auto first = whole(json["data_offsets"][0]), last = whole(json["data_offsets"][1]);
  if (!n_bytes || !first || !last || *last < *first || *last - *first != *n_bytes) {
    return damaged(name, "has a shape that does not match its bytes");
  }
  if (static_cast<std::uint64_t>(*last) > data.size()) {
    return Error(
        fmt::format("tensor {} reaches beyond the end of the file; it is damaged or was "
                    "not downloaded completely, get it again",
                    shown(name)));
  }
  entry.bytes = data.subspan(static_cast<std::size_t>(*first), static_cast<std::size_t>(*n_bytes));
  return entry;
}

Result<SafetensorsFile> parse(MappedFile mapped) {
  const std::span<const std::byte> bytes = mapped.bytes();
  ByteReader in(bytes);
  const auto n_header = in.get<std::uint64_t>();
  if (!in.ok() || n_header > max_safetensors_header || n_header > in.n_left()) {
    return Error(
        "this is not a safetensors file, or it was not downloaded completely: its header "
        "does not fit; check the path, or get the file again");
  }
  auto header = parse_json_object(in.text(n_header));
  if (!header) return std::move(header).error().in("header");
  const std::span<const std::byte> data = bytes.subspan(in.position());
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, json] : header->items()) {
    if (name == "__metadata__") {
      if (!json.is_object()) return Error("its __metadata__ is not an object");
      for (const auto& [key, value] : json.items()) {
        if (!value.is_string()) return Error("its __metadata__ holds more than strings");
        metadata[key] = value.get<std::string>();
      }
      continue;
    }
    auto entry = read_entry(name, json, data);
    if (!entry) return std::move(entry).error();
    entries.push_back(std::move(*entry));
  }
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return a.bytes.data() != b.bytes.data() ? a.bytes.data() < b.bytes.data()
                                            : a.bytes.size() < b.bytes.size();
  });
  const std::byte* end = data.data();
  for (const auto& entry : entries) {
    if (entry.bytes.data() != end) {
      return damaged(entry.name, "does not start where the one before it ends");
    }
    end += entry.bytes.size();
  }
  if (end != data.data() + data.size()) {
    return Error("there are bytes after the last tensor; the file is damaged, get it again");
  }
  return SafetensorsFile{std::move(mapped), std::move(metadata), std::move(entries)};
}

}  // namespace

std::optional<std::int64_t> safetensors_dtype_bytes(std::string_view dtype) {
  for (const auto& [name, n_bytes] : dtypes) {
    if (name == dtype) return n_bytes;
  }
  return std::nullopt;
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  for (const auto& entry : entries) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  auto mapped = MappedFile::open(path);
  if (!mapped) return std::move(mapped).error();
  auto file = parse(std::move(*mapped));
  if (!file) return std::move(file).error().in(path);
  return file;
}

}  // namespace lowbit
