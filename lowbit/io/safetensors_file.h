// SPDX-License-Identifier: Apache-2.0
// One .safetensors file: named byte ranges with a dtype and a shape.
//
//   u64 n_header  header[n_header]: JSON {"__metadata__": {string: string}, NAME: {"dtype",
//   "shape", "data_offsets": [first, last]}, ...}  then the data; offsets count from its start
//
// The data must be covered without gaps or overlaps, as the format demands.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/mapped_file.h"
#include "lowbit/base/result.h"

namespace lowbit {

inline constexpr std::uint64_t max_safetensors_header = 100'000'000;

struct SafetensorsEntry {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

struct SafetensorsFile {
  MappedFile mapped;
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsEntry> entries;  // in the order of their data

  const SafetensorsEntry* find(std::string_view name) const;

  static Result<SafetensorsFile> open(const std::string& path);
};

/// Bytes of one element; nothing for a dtype that the format does not have.
std::optional<std::int64_t> safetensors_dtype_bytes(std::string_view dtype);

}  // namespace lowbit
