// SPDX-License-Identifier: Apache-2.0
#include "lowbit/backend/pack_cache.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <memory>
#include <type_traits>
#include <utility>

#include "lowbit/base/byte_reader.h"
#include "lowbit/base/byte_writer.h"
#include "lowbit/formats/learned_code.h"

namespace lowbit {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::array<char, 8> magic{'l', 'o', 'w', 'b', 'i', 't', 'P', '2'};
constexpr std::size_t alignment = 64, n_parts = 5;
constexpr std::uint64_t max_extent = std::uint64_t{1} << 28;  // products of two and 32 bits fit

struct Header {
  std::array<char, 8> magic{};
  std::uint32_t version = 0, n_entries = 0;
  ContentHash model, options, table, panels;
  std::uint64_t table_bytes = 0, file_bytes = 0;
  std::uint64_t own_hash = 0;  // of all fields before it
};
static_assert(sizeof(Header) == 104 && std::is_trivially_copyable_v<Header>);

std::size_t round_up(std::size_t n_bytes) {
  return (n_bytes + alignment - 1) / alignment * alignment;
}

ContentHash hash_of(Bytes bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}
ContentHash hash_of(std::string_view text) {
  return hash_of(std::as_bytes(std::span(text)));
}
std::uint64_t own_hash(const Header& header) {
  return XXH3_64bits(&header, offsetof(Header, own_hash));
}

/// The hash of the hashes of pieces, which threads take in any order. after(piece) follows each.
template <class After>
ContentHash hash_pieces(std::span<const Bytes> pieces, ThreadPool& pool, After&& after) {
  std::vector<ContentHash> hashes(pieces.size());
  pool.parallel_for(
      static_cast<std::int64_t>(pieces.size()), 1, [&](std::int64_t first, std::int64_t last, int) {
        for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
          hashes[i] = hash_of(pieces[i]);
          after(i);
        }
      });
  return hash_of(std::as_bytes(std::span(hashes)));
}

void cut(Bytes bytes, std::vector<Bytes>& pieces) {
  constexpr std::size_t piece_bytes = std::size_t{1} << 20;
  for (; !bytes.empty(); bytes = bytes.subspan(pieces.back().size())) {
    pieces.push_back(bytes.first(std::min(piece_bytes, bytes.size())));
  }
}

/// Where a part lies in the file.
struct Place {
  std::uint64_t first = 0, n_bytes = 0;
};
struct Row {
  std::string name, scheme;
  std::uint64_t rows = 0, cols = 0;
  std::uint64_t hadamard = 0;  // of the basis of the inputs
  std::array<Place, n_parts> parts{};
};

using TextLength = std::uint32_t;  // of names and schemes in the table

std::array<Bytes, n_parts> bytes_of(const PackedParts& parts) {
  return {parts.panels, std::as_bytes(parts.row_scale), std::as_bytes(parts.row_zero),
          std::as_bytes(parts.scale_values), std::as_bytes(parts.zero_values)};
}

Row read_row(ByteReader& table) {
  const auto number = [&] { return table.get<std::uint64_t>(); };
  const auto text = [&] { return std::string(table.text(table.get<TextLength>())); };
  Row entry;
  entry.name = text();
  entry.scheme = text();
  entry.rows = number();
  entry.cols = number();
  entry.hadamard = number();
  for (Place& place : entry.parts) place = {number(), number()};
  return entry;
}

std::vector<std::byte> table_of(std::span<const Row> entries) {
  ByteWriter table;
  for (const Row& entry : entries) {
    table.put_string<TextLength>(entry.name);
    table.put_string<TextLength>(entry.scheme);
    for (const std::uint64_t number : {entry.rows, entry.cols, entry.hadamard}) table.put(number);
    for (const Place& place : entry.parts) {
      table.put(place.first);
      table.put(place.n_bytes);
    }
  }
  return {table.bytes().begin(), table.bytes().end()};
}

Error damaged(std::string_view what) {
  return Error(fmt::format("is damaged ({})", what));
}

/// Checks a row of the table, at the end by making its matrix once.
Result<PackCache::Entry> entry_of(const Row& row, const std::shared_ptr<const MappedFile>& file) {
  auto scheme = parse_scheme_with_table(row.scheme);
  if (!scheme) return damaged("a scheme that is not known");
  if (row.rows > max_extent || row.cols > max_extent) return damaged("a matrix too large");
  PackCache::Entry entry{
      *scheme, static_cast<std::int64_t>(row.rows), static_cast<std::int64_t>(row.cols), {}, {}};
  if (row.hadamard > max_extent) return damaged("a basis that cannot be");
  entry.input.hadamard = static_cast<std::int64_t>(row.hadamard);
  if (!check_basis(entry.input, entry.cols)) return damaged("a basis that cannot be");
  const Bytes bytes = file->bytes();
  std::array<Bytes, n_parts> parts;
  for (std::size_t i = 0; i < n_parts; ++i) {
    const auto [first, n_bytes] = row.parts[i];
    if (first % alignment != 0 || first > bytes.size() || n_bytes > bytes.size() - first) {
      return damaged("a part outside the file");
    }
    if (i > 0 && n_bytes % sizeof(float) != 0) return damaged("half a number");
    parts[i] = bytes.subspan(first, n_bytes);
  }
  const auto floats = [&](std::size_t i) {
    return std::span(reinterpret_cast<const float*>(parts[i].data()),
                     parts[i].size() / sizeof(float));
  };
  entry.parts = {parts[0], floats(1), floats(2), floats(3), floats(4)};
  const auto matrix =
      PackedMatrix::of_parts(entry.scheme, entry.rows, entry.cols, entry.parts, file);
  if (!matrix) return damaged(matrix.error().message());
  return entry;
}

}  // namespace

ContentHash content_hash(std::span<const MappedFile* const> files, ThreadPool& pool) {
  std::vector<Bytes> pieces;
  std::vector<const MappedFile*> owners;
  for (const MappedFile* file : files) {
    cut(file->bytes(), pieces);
    owners.resize(pieces.size(), file);
  }
  return hash_pieces(pieces, pool, [&](std::size_t i) { owners[i]->drop_pages(pieces[i]); });
}

std::string pack_cache_path(std::string_view model_path) {
  while (model_path.size() > 1 && model_path.ends_with('/')) model_path.remove_suffix(1);
  return fmt::format("{}.p16x4-v{}.pack", model_path, packed_layout_version);
}

Result<std::optional<PackCache>> PackCache::open(const std::string& path, const PackCacheKey& key,
                                                 ThreadPool& pool) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::optional<PackCache>();
  auto mapped = MappedFile::open(path);
  if (!mapped) return std::move(mapped).error();
  const auto file = std::make_shared<const MappedFile>(*std::move(mapped));
  const Bytes bytes = file->bytes();
  Header header;
  if (bytes.size() < sizeof header) return damaged("no header").in(path);
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != magic) return Error(fmt::format("{} is no pack cache", path));
  if (header.own_hash != own_hash(header)) return damaged("its header").in(path);
  if (header.version != packed_layout_version) {
    return Error(fmt::format("{} is of layout version {}, not {}", path, header.version,
                             packed_layout_version));
  }
  if (header.model != key.model) {
    return Error(fmt::format("{} was made from other weights than the model holds now", path));
  }
  if (header.options != hash_of(key.options)) {
    return Error(
        fmt::format("{} was made with another recipe for the weights, or by another lowbit", path));
  }
  if (header.file_bytes != bytes.size()) return damaged("its size").in(path);
  if (header.table_bytes > bytes.size() - sizeof header) return damaged("its table").in(path);
  const Bytes table_bytes = bytes.subspan(sizeof header, header.table_bytes);
  if (hash_of(table_bytes) != header.table) return damaged("its table").in(path);
  PackCache cache;
  cache.file_ = file;
  std::vector<Bytes> pieces;
  ByteReader table(table_bytes);
  for (std::uint32_t i = 0; i < header.n_entries && table.ok(); ++i) {
    const Row row = read_row(table);
    if (!table.ok()) break;
    auto entry = entry_of(row, file);
    if (!entry) return std::move(entry).error().in(path);
    for (const Bytes part : bytes_of(entry->parts)) cut(part, pieces);
    cache.entries_.insert_or_assign(row.name, *std::move(entry));
  }
  if (!table.ok() || table.n_left() != 0) return damaged("its table").in(path);
  if (hash_pieces(pieces, pool, [](std::size_t) {}) != header.panels) {
    return damaged("its panels").in(path);
  }
  return std::optional(std::move(cache));
}

std::optional<PackedMatrix> PackCache::find(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return std::nullopt;
  const Entry& entry = found->second;
  auto matrix = PackedMatrix::of_parts(entry.scheme, entry.rows, entry.cols, entry.parts, file_);
  if (!matrix) return std::nullopt;  // open() has made it once
  matrix->set_input(entry.input);
  return *std::move(matrix);
}

Result<std::int64_t> write_pack_cache(const std::string& path, const PackCacheKey& key,
                                      std::span<const NamedMatrix> matrices, ThreadPool& pool) {
  std::vector<Row> entries;
  for (const auto& [name, matrix] : matrices) {
    entries.push_back({.name = name,
                       .scheme = text_with_table(matrix->scheme()),
                       .rows = static_cast<std::uint64_t>(matrix->rows()),
                       .cols = static_cast<std::uint64_t>(matrix->cols()),
                       .hadamard = static_cast<std::uint64_t>(matrix->input().hadamard)});
  }
  // The size of the table does not depend on the places in it.
  const std::size_t table_bytes = table_of(entries).size();
  std::size_t end = round_up(sizeof(Header) + table_bytes);
  std::vector<Bytes> pieces;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const auto parts = bytes_of(matrices[i].matrix->parts());
    for (std::size_t p = 0; p < n_parts; ++p) {
      cut(parts[p], pieces);
      entries[i].parts[p] = {end, parts[p].size()};
      end = round_up(end + parts[p].size());
    }
  }
  const std::vector<std::byte> table = table_of(entries);
  Header header{.magic = magic,
                .version = packed_layout_version,
                .n_entries = static_cast<std::uint32_t>(entries.size()),
                .model = key.model,
                .options = hash_of(key.options),
                .table = hash_of(table),
                .panels = hash_pieces(pieces, pool, [](std::size_t) {}),
                .table_bytes = table_bytes,
                .file_bytes = end};
  header.own_hash = own_hash(header);

  auto file = AtomicFile::create(path);
  if (!file) return std::move(file).error();
  Status written = file->write_at(0, std::as_bytes(std::span(&header, 1)));
  if (written) written = file->write_at(sizeof header, table);
  for (std::size_t i = 0; i < entries.size() && written; ++i) {
    const auto parts = bytes_of(matrices[i].matrix->parts());
    for (std::size_t p = 0; p < n_parts && written; ++p) {
      written = file->write_at(entries[i].parts[p].first, parts[p]);
    }
  }
  // The end is a multiple of the alignment, like the beginning of every part.
  const std::vector<std::byte> padding(written ? end - file->n_written() : 0);
  if (written) written = file->write_at(end - padding.size(), padding);
  if (written) written = file->commit();
  if (!written) return std::move(written).error();
  return static_cast<std::int64_t>(end);
}

}  // namespace lowbit
