// SPDX-License-Identifier: Apache-2.0
// A file beside a model that keeps its packed matrices, so that the next start maps them instead of
// packing again. The layout of panels is the same for every instruction set; its version is part of
// the file's name and header. Nothing in the file is believed: it must carry the hash of the very
// bytes the model consists of (a time stamp would miss an edit that keeps it), the hash of its own
// bytes, and parts of exactly the sizes that scheme and shape ask for.
//
//   header   magic (8), layout version, entries (u32 each), hash of the model, of the options, of
//            the table, of the panels (2 x u64 each), table bytes, file bytes (u64 each), XXH3 of
//            the header up to here (u64); 104 bytes
//   table    per matrix: name, scheme (u32 bytes, text; with its table where that was learned),
//            rows, cols, then first byte and bytes of
//            panels, row scales, row zeros, scale values, zero values (u64 each)
//   panels   every part at a multiple of 64 bytes
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/mapped_file.h"
#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/kernels/packed_matrix.h"

namespace lowbit {

struct ContentHash {
  std::uint64_t low = 0, high = 0;
  bool operator==(const ContentHash&) const = default;
};

/// Of all bytes of the files, in order; pages leave resident memory again as they are read.
ContentHash content_hash(std::span<const MappedFile* const> files, ThreadPool& pool);

/// What packed matrices depend on.
struct PackCacheKey {
  ContentHash model;
  std::string options;  // how tensors were changed before packing; "" where they were not
};

/// Where the cache of a model lies: MODEL.p16x4-vN.pack.
std::string pack_cache_path(std::string_view model_path);

class PackCache {
 public:
  /// Where a matrix lies in the file.
  struct Entry {
    Scheme scheme;
    std::int64_t rows = 0, cols = 0;
    PackedParts parts;
    Basis input = {};
  };

  /// Nothing when there is no such file. Errors say in one sentence why it cannot be used: another
  /// model, other options, another version, damage.
  static Result<std::optional<PackCache>> open(const std::string& path, const PackCacheKey& key,
                                               ThreadPool& pool);

  /// A view of mapped memory that keeps the mapping alive; nothing when there is no such matrix.
  std::optional<PackedMatrix> find(std::string_view name) const;
  std::int64_t file_bytes() const { return static_cast<std::int64_t>(file_->bytes().size()); }

 private:
  PackCache() = default;
  std::map<std::string, Entry, std::less<>> entries_;
  std::shared_ptr<const MappedFile> file_;
};

struct NamedMatrix {
  std::string name;
  const PackedMatrix* matrix = nullptr;
};
/// The file appears whole or not at all. The result is its size in bytes.
Result<std::int64_t> write_pack_cache(const std::string& path, const PackCacheKey& key,
                                      std::span<const NamedMatrix> matrices, ThreadPool& pool);

}  // namespace lowbit
