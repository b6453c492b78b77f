// SPDX-License-Identifier: Apache-2.0
// The packer works panel by panel: the codes of 16 outputs become bytes (renumbered by a table),
// the bytes of 4 inputs x 16 outputs become a 64-byte row, and the rows of a tile are folded into
// bit planes. It runs at load time on every machine, so it is written in 16-byte vectors that every
// compiler knows and not once per instruction set. The reverse walk, unpack_row(), is plain
// arithmetic over the same geometry. One file of more than 600 lines, because its steps are one
// walk over a panel that share its lanes and scratch.
#include "lowbit/kernels/packed_matrix.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <string>

#include "lowbit/base/assert.h"
#include "lowbit/base/half.h"
#include "lowbit/kernels/panel_layout.h"

namespace lowbit {
namespace {

constexpr std::align_val_t panel_alignment{64};
constexpr int nibble_bits = 4, max_dim = 8;

float load_factor(FactorKind kind, const std::byte* p, const float* values) {
  std::uint16_t half = 0;
  float number = 0;
  switch (kind) {
    case FactorKind::f16:
      std::memcpy(&half, p, sizeof half);
      return half_to_float(half);
    case FactorKind::bf16:
      std::memcpy(&half, p, sizeof half);
      return bfloat_to_float(half);
    case FactorKind::f32:
      std::memcpy(&number, p, sizeof number);
      return number;
    default:
      return values[static_cast<std::uint8_t>(*p)];
  }
}

/// Where a chunk of a panel begins, and a tile in it.
const std::byte* chunk_at(const PanelView& v, std::int64_t panel, std::int64_t k) {
  const std::int64_t chunk_bytes = v.header_bytes + v.chunk_k / tile_k * v.tile_bytes;
  return v.panels + panel * v.panel_bytes + k / v.chunk_k * chunk_bytes;
}
const std::byte* tile_at(const PanelView& v, std::int64_t panel, std::int64_t k) {
  return chunk_at(v, panel, k) + v.header_bytes + k % v.chunk_k / tile_k * v.tile_bytes;
}

float factor_at(const PanelView& v, const FactorPlane& plane, std::int64_t row, std::int64_t k) {
  const std::byte* chunk = chunk_at(v, row / panel_cols, k);
  const std::int64_t lane = row % panel_cols, group = k % v.chunk_k / v.group_k;
  const std::byte* p = chunk + plane.offset + (group * panel_cols + lane) * bytes_of(plane.kind);
  if (plane.kind != FactorKind::two_level) return load_factor(plane.kind, p, plane.values);
  const std::byte* coarse = chunk + plane.coarse_offset + lane * bytes_of(plane.coarse_kind);
  const float sub = plane.unit * static_cast<float>(static_cast<std::int8_t>(*p));
  return load_factor(plane.coarse_kind, coarse, nullptr) * sub;
}

/// One code of a tile in bit planes.
unsigned code_at(const PanelView& v, const std::byte* tile, std::int64_t lane, std::int64_t k) {
  const std::int64_t quad = k / quad_k;
  unsigned code = 0;
  int shift = 0;
  const Planes planes = planes_of(v.bits);
  for (int i = 0; i < planes.n_planes; ++i) {
    const int width = planes.widths[static_cast<std::size_t>(i)];
    const std::int64_t per_byte = byte_bits / width;
    const unsigned byte = static_cast<std::uint8_t>(
        tile[quad / per_byte * plane_row_bytes + lane * quad_k + k % quad_k]);
    const unsigned field = byte >> (quad % per_byte * width) & ((1u << width) - 1);
    code |= field << shift;
    shift += width;
    tile += quads_per_tile / per_byte * plane_row_bytes;
  }
  return code;
}

float value_at(const PanelView& v, std::int64_t row, std::int64_t k) {
  const std::byte* tile = tile_at(v, row / panel_cols, k);
  const std::int64_t lane = row % panel_cols, at = k % tile_k * panel_cols + lane;
  switch (v.code) {
    case CodeKind::f32:
      return load_factor(FactorKind::f32, tile + at * 4, nullptr);
    case CodeKind::f16:
      return load_factor(FactorKind::f16, tile + at * 2, nullptr);
    case CodeKind::bf16:
      return load_factor(FactorKind::bf16, tile + at * 2, nullptr);
    default:
      return v.values[code_at(v, tile, lane, k % tile_k)];
  }
}

/// Four words; shifts and shuffles of it compile to SSE2 or NEON.
using Words = std::uint32_t __attribute__((vector_size(16)));
constexpr int words_per_row = static_cast<int>(plane_row_bytes / sizeof(Words));

Words load_words(const void* p) {
  Words words;
  std::memcpy(&words, p, sizeof words);
  return words;
}

/// bytes: (16, stride) stored codes of one tile -> 64-byte rows of 4 inputs of all 16 outputs.
void gather_quads(const std::uint8_t* bytes, std::int64_t stride,
                  Words (&quads)[quads_per_tile][words_per_row]) {
  constexpr int side = 4;  // lanes and quads of a square that is transposed in registers
  for (int lane = 0; lane < panel_cols; lane += side) {
    for (int quad = 0; quad < quads_per_tile; quad += side) {
      const std::uint8_t* p = bytes + lane * stride + quad * quad_k;
      const Words a = load_words(p), b = load_words(p + stride);
      const Words c = load_words(p + 2 * stride), d = load_words(p + 3 * stride);
      const Words ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      const Words ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Words cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const Words cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      quads[quad][lane / side] = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
      quads[quad + 1][lane / side] = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
      quads[quad + 2][lane / side] = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
      quads[quad + 3][lane / side] = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
    }
  }
}

/// One bit plane of a tile: bits [kShift, kShift + kWidth) of every code. Returns its end.
template <int kWidth, int kShift>
std::byte* fold_plane(const Words (&quads)[quads_per_tile][words_per_row], std::byte* tile) {
  constexpr int per_byte = byte_bits / kWidth;
  constexpr std::uint32_t every_byte = 0x01010101;
  constexpr std::uint32_t mask = every_byte * ((1u << kWidth) - 1);  // bits from a neighbour go
  for (int first = 0; first < quads_per_tile; first += per_byte) {
    for (int word = 0; word < words_per_row; ++word) {
      Words row{};
      for (int field = 0; field < per_byte; ++field) {
        row |= (quads[first + field][word] >> kShift & mask) << (field * kWidth);
      }
      std::memcpy(tile, &row, sizeof row);
      tile += sizeof row;
    }
  }
  return tile;
}

template <int kBits>
void fold_tile(const std::uint8_t* bytes, std::int64_t stride, std::byte* tile) {
  Words quads[quads_per_tile][words_per_row];
  gather_quads(bytes, stride, quads);
  if constexpr ((kBits & 8) != 0) tile = fold_plane<8, 0>(quads, tile);
  if constexpr ((kBits & 4) != 0) tile = fold_plane<4, 0>(quads, tile);
  if constexpr ((kBits & 2) != 0) tile = fold_plane<2, kBits & 4>(quads, tile);
  if constexpr ((kBits & 1) != 0) tile = fold_plane<1, kBits & 6>(quads, tile);
}

using FoldTile = void (*)(const std::uint8_t* bytes, std::int64_t stride, std::byte* tile);
constexpr std::array<FoldTile, byte_bits + 1> fold_tiles{nullptr,      fold_tile<1>, fold_tile<2>,
                                                         fold_tile<3>, fold_tile<4>, fold_tile<5>,
                                                         fold_tile<6>, fold_tile<7>, fold_tile<8>};

/// Exponent bits that are all ones in NaN and the infinities.
std::uint32_t special_bits(FactorKind kind) {
  constexpr std::uint32_t f16 = 0x7c00, bf16 = 0x7f80, f32 = 0x7f800000;
  return kind == FactorKind::f16 ? f16 : kind == FactorKind::bf16 ? bf16 : f32;
}

bool has_special(std::span<const std::uint32_t> codes, FactorKind kind) {
  const std::uint32_t special = special_bits(kind);
  std::uint32_t found = 0;
  for (const std::uint32_t code : codes) found |= (code & special) == special ? 1u : 0u;
  return found != 0;
}

bool all_finite(std::span<const float> numbers) {
  return std::ranges::all_of(numbers, [](float number) { return std::isfinite(number); });
}

}  // namespace

/// Fills the panels of one matrix; const, so that threads share it.
class Packer {
 public:
  Packer(const PanelLayout& layout, std::byte* panels, const PackedMatrix& matrix);

  /// Memory of one thread.
  struct Scratch {
    std::vector<std::uint8_t> bytes;
    std::vector<std::uint32_t> codes;
    std::vector<float> numbers;
  };
  /// w: rows of the matrix from `first_row` on, at least those of the panel. False when a factor or
  /// a plain float is not finite.
  bool pack_panel(const QuantizedTensor& w, std::int64_t first_row, std::int64_t panel,
                  Scratch& scratch) const;

 private:
  /// Where the rows of a panel lie in the tensor that holds them.
  struct Lanes {
    const QuantizedTensor& w;
    std::int64_t first_row, n_lanes, panel;
  };
  /// How a factor's codes become the bytes of its plane.
  struct FactorTable {
    std::array<std::uint8_t, byte_values> bytes{};
    std::array<bool, byte_values> is_special{};
  };
  static FactorTable table_of(const FactorPlane& plane, const Scheme* scheme);

  bool pack_header(const Lanes& lanes, Scratch& scratch) const;
  bool pack_plane(const Lanes& lanes, const QuantizedTensor& factor, const FactorPlane& plane,
                  const FactorTable& table, Scratch& scratch) const;
  void pack_coarse(const Lanes& lanes, const QuantizedTensor& coarse, const FactorPlane& plane,
                   bool& is_finite) const;
  void pack_integer_zeros(const Lanes& lanes) const;
  void pack_tiles(const Lanes& lanes, Scratch& scratch) const;
  void renumber_nibbles(std::span<const std::byte> pairs, std::span<std::uint8_t> row) const;
  template <int kDim>
  void unpack_vectors(std::span<const std::uint32_t> codes, std::span<std::uint8_t> row) const;
  bool pack_floats(const Lanes& lanes, Scratch& scratch) const;
  std::byte* chunk(std::int64_t panel, std::int64_t k) const {
    return panels_ + panel * view_.panel_bytes + k / view_.chunk_k * chunk_bytes_;
  }

  const PanelLayout& layout_;
  const PanelView& view_;  // of the matrix: with the tables of its factors
  const Code* code_;
  std::byte* panels_;
  std::int64_t chunk_bytes_;
  FactorTable scale_, zero_;
  std::array<std::uint16_t, byte_values> pairs_{};  // of two renumbered codes of 4 bits
  int flip_ = -1;  // renumbering is an exclusive or with this byte; -1: it is a table
};

Packer::Packer(const PanelLayout& layout, std::byte* panels, const PackedMatrix& matrix)
    : layout_(layout),
      view_(matrix.view()),
      code_(matrix.scheme().code),
      panels_(panels),
      chunk_bytes_(view_.header_bytes + view_.chunk_k / tile_k * view_.tile_bytes),
      scale_(table_of(view_.scale, matrix.scheme().scale)),
      zero_(table_of(view_.zero, matrix.scheme().zero)) {
  if (layout.renumber.empty()) return;
  if (code_->window == nibble_bits && code_->dim == 1) {
    for (unsigned byte = 0; byte < byte_values; ++byte) {
      const unsigned low = layout.renumber[byte % (1u << nibble_bits)];
      const unsigned high = layout.renumber[byte >> nibble_bits];
      pairs_[byte] = static_cast<std::uint16_t>(low | high << byte_bits);
    }
  }
  flip_ = layout.renumber[0];
  for (std::size_t i = 0; i < layout.renumber.size(); ++i) {
    if (layout.renumber[i] != (i ^ static_cast<unsigned>(layout.renumber[0]))) flip_ = -1;
  }
}

Packer::FactorTable Packer::table_of(const FactorPlane& plane, const Scheme* scheme) {
  FactorTable table;
  for (std::size_t i = 0; i < byte_values; ++i) {
    table.bytes[i] = static_cast<std::uint8_t>(i);
    if (plane.kind == FactorKind::table && plane.values != nullptr) {
      table.is_special[i] = !std::isfinite(plane.values[i]);
    }
    if (plane.kind == FactorKind::two_level && i < scheme->code->values.size()) {
      const auto sub = static_cast<std::int8_t>(scheme->code->values[i] / plane.unit);
      table.bytes[i] = static_cast<std::uint8_t>(sub);
    }
  }
  return table;
}

bool Packer::pack_panel(const QuantizedTensor& w, std::int64_t first_row, std::int64_t panel,
                        Scratch& scratch) const {
  const std::int64_t row = panel * panel_cols;
  const Lanes lanes{w, row - first_row, std::min<std::int64_t>(panel_cols, view_.rows - row),
                    panel};
  if (layout_.is_float()) return pack_floats(lanes, scratch);
  const bool is_finite = pack_header(lanes, scratch);
  pack_tiles(lanes, scratch);
  return is_finite;
}

bool Packer::pack_header(const Lanes& lanes, Scratch& scratch) const {
  if (view_.group_k == 0) return true;
  for (std::int64_t k = 0; k < view_.cols; k += view_.chunk_k) {
    std::memset(chunk(lanes.panel, k), 0, static_cast<std::size_t>(view_.header_bytes));
  }
  bool is_finite = true;
  if (lanes.w.scale) {
    is_finite = pack_plane(lanes, *lanes.w.scale, view_.scale, scale_, scratch);
  }
  if (view_.zero_kind == ZeroKind::integer) {
    pack_integer_zeros(lanes);
  } else if (lanes.w.zero) {
    is_finite = pack_plane(lanes, *lanes.w.zero, view_.zero, zero_, scratch) && is_finite;
  }
  return is_finite;
}

bool Packer::pack_plane(const Lanes& lanes, const QuantizedTensor& factor, const FactorPlane& plane,
                        const FactorTable& table, Scratch& scratch) const {
  const std::int64_t n_groups = factor.cols, per_chunk = view_.chunk_k / view_.group_k;
  scratch.codes.resize(static_cast<std::size_t>(panel_cols * n_groups));
  const auto codes_of = [&](std::int64_t lane) {
    return std::span(scratch.codes)
        .subspan(static_cast<std::size_t>(lane * n_groups), static_cast<std::size_t>(n_groups));
  };
  bool is_finite = true;
  for (std::int64_t lane = 0; lane < lanes.n_lanes; ++lane) {
    const std::int64_t row = (lanes.first_row + lane) / lanes.w.group_rows();
    const std::span<std::uint32_t> codes = codes_of(lane);
    if (plane.kind == FactorKind::f32) {
      scratch.numbers.resize(codes.size());
      decode_rows(factor, row, 1, scratch.numbers);
      std::memcpy(codes.data(), scratch.numbers.data(), codes.size_bytes());
    } else {
      factor.codes.unpack(row, 0, codes);
    }
    if (plane.kind == FactorKind::table) {
      for (const std::uint32_t code : codes) is_finite = is_finite && !table.is_special[code];
    } else if (plane.kind != FactorKind::two_level) {
      is_finite = is_finite && !has_special(codes, plane.kind);
    }
  }
  // Group by group: 16 neighbours in the panel, one column of `codes`.
  const auto write = [&]<class Stored>(Stored (*stored)(const FactorTable&, std::uint32_t)) {
    for (std::int64_t group = 0; group < n_groups; ++group) {
      const std::int64_t k = group * view_.group_k;
      std::byte* p = chunk(lanes.panel, k) + plane.offset +
                     group % per_chunk * panel_cols * static_cast<std::int64_t>(sizeof(Stored));
      const std::uint32_t* code = scratch.codes.data() + group;
      for (std::int64_t lane = 0; lane < lanes.n_lanes; ++lane, code += n_groups) {
        const Stored number = stored(table, *code);
        std::memcpy(p + lane * static_cast<std::int64_t>(sizeof number), &number, sizeof number);
      }
    }
  };
  switch (bytes_of(plane.kind)) {
    case sizeof(std::uint32_t):
      write(+[](const FactorTable&, std::uint32_t code) { return code; });
      break;
    case sizeof(std::uint16_t):
      write(
          +[](const FactorTable&, std::uint32_t code) { return static_cast<std::uint16_t>(code); });
      break;
    default:
      write(+[](const FactorTable& bytes, std::uint32_t code) { return bytes.bytes[code]; });
  }
  if (plane.kind == FactorKind::two_level) pack_coarse(lanes, *factor.scale, plane, is_finite);
  return is_finite;
}

/// The coarse factor of every chunk.
void Packer::pack_coarse(const Lanes& lanes, const QuantizedTensor& coarse,
                         const FactorPlane& plane, bool& is_finite) const {
  const auto n_bytes = static_cast<std::size_t>(bytes_of(plane.coarse_kind));
  const std::uint32_t special = special_bits(plane.coarse_kind);
  for (std::int64_t lane = 0; lane < lanes.n_lanes; ++lane) {
    const std::int64_t row = (lanes.first_row + lane) / lanes.w.group_rows();
    std::byte* p = chunk(lanes.panel, 0) + plane.coarse_offset + lane * bytes_of(plane.coarse_kind);
    for (std::int64_t i = 0; i < coarse.cols; ++i, p += chunk_bytes_) {
      const std::uint32_t code = coarse.codes.get(row, i);
      is_finite = is_finite && (code & special) != special;
      std::memcpy(p, &code, n_bytes);
    }
  }
}

void Packer::pack_integer_zeros(const Lanes& lanes) const {
  const QuantizedTensor& zeros = *lanes.w.zero;
  for (std::int64_t lane = 0; lane < lanes.n_lanes; ++lane) {
    const std::int64_t row = (lanes.first_row + lane) / lanes.w.group_rows();
    for (std::int64_t group = 0; group < zeros.cols; ++group) {
      float zero = 0;
      zeros.scheme.code->look_up(zeros.codes.get(row, group), &zero);
      const std::int64_t k = group * view_.group_k;
      std::byte* p = chunk(lanes.panel, k) + view_.zero_offset +
                     k % view_.chunk_k / view_.group_k * panel_cols + lane;
      *p = static_cast<std::byte>(static_cast<std::int64_t>(zero / view_.unit) - view_.zero_least);
    }
  }
}

void Packer::pack_tiles(const Lanes& lanes, Scratch& scratch) const {
  const Code& code = *code_;
  const std::int64_t stride = (view_.cols + tile_k - 1) / tile_k * tile_k;
  // Rows and inputs beyond the matrix meet zero activations or lanes that are not stored.
  scratch.bytes.resize(static_cast<std::size_t>(panel_cols * stride));
  if (lanes.n_lanes != panel_cols || stride != view_.cols) std::ranges::fill(scratch.bytes, 0);
  scratch.codes.resize(static_cast<std::size_t>(view_.cols / code.dim));
  for (std::int64_t lane = 0; lane < lanes.n_lanes; ++lane) {
    const std::int64_t at = lanes.first_row + lane;
    const std::span row(&scratch.bytes[static_cast<std::size_t>(lane * stride)],
                        static_cast<std::size_t>(view_.cols));
    if (code.window == nibble_bits && code.dim == 1 && layout_.is_renumbered && flip_ < 0) {
      renumber_nibbles(lanes.w.codes.row(at), row);
    } else if (code.dim == 1 && code.window <= byte_bits) {
      lanes.w.codes.unpack(at, 0, row);
      if (!layout_.is_renumbered) continue;
      if (flip_ >= 0) {
        const auto flip = static_cast<std::uint8_t>(flip_);
        for (std::uint8_t& byte : row) byte = static_cast<std::uint8_t>(byte ^ flip);
      } else {
        for (std::uint8_t& byte : row) byte = layout_.renumber[byte];
      }
    } else {
      lanes.w.codes.unpack(at, 0, scratch.codes);
      switch (code.dim) {
        case 1:
          unpack_vectors<1>(scratch.codes, row);
          break;
        case 2:
          unpack_vectors<2>(scratch.codes, row);
          break;
        case 4:
          unpack_vectors<4>(scratch.codes, row);
          break;
        default:
          LOWBIT_ASSERT(code.dim == max_dim);
          unpack_vectors<max_dim>(scratch.codes, row);
      }
    }
  }
  const FoldTile fold = fold_tiles[static_cast<std::size_t>(view_.bits)];
  for (std::int64_t k = 0; k < stride; k += tile_k) {
    std::byte* tile =
        chunk(lanes.panel, k) + view_.header_bytes + k % view_.chunk_k / tile_k * view_.tile_bytes;
    fold(scratch.bytes.data() + k, stride, tile);
  }
}

/// Two codes at a time.
void Packer::renumber_nibbles(std::span<const std::byte> pairs, std::span<std::uint8_t> row) const {
  std::uint8_t* out = row.data();
  const std::size_t n_pairs = row.size() / 2;
  for (std::size_t i = 0; i < n_pairs; ++i) {
    std::memcpy(out + 2 * i, &pairs_[static_cast<std::uint8_t>(pairs[i])], sizeof pairs_[0]);
  }
  if (row.size() % 2 != 0) {
    row.back() = static_cast<std::uint8_t>(pairs_[static_cast<std::uint8_t>(pairs[n_pairs])]);
  }
}

/// Codes of kDim numbers each: where a sign bit is set, the byte of the negated number.
template <int kDim>
void Packer::unpack_vectors(std::span<const std::uint32_t> codes,
                            std::span<std::uint8_t> row) const {
  using Word = std::uint64_t;
  static constexpr auto masks = [] {  // bit i -> byte i all ones
    std::array<Word, byte_values> table{};
    for (std::size_t bits = 0; bits < table.size(); ++bits) {
      for (int i = 0; i < byte_bits; ++i) {
        if ((bits >> i & 1u) != 0) table[bits] |= Word{0xff} << (i * byte_bits);
      }
    }
    return table;
  }();
  const int grid_bits = code_->window - code_->signs;
  const bool has_signs = code_->signs != 0;
  const std::uint8_t* plain = layout_.renumber.data();
  const std::uint8_t* negated = layout_.renumber_negated.data();
  std::uint8_t* out = row.data();
  for (const std::uint32_t bits : codes) {
    const std::size_t at = (bits & ((1u << grid_bits) - 1)) * kDim;
    Word numbers = 0, others = 0;
    std::memcpy(&numbers, plain + at, kDim);
    if (has_signs) {
      std::memcpy(&others, negated + at, kDim);
      const Word mask = masks[bits >> grid_bits];
      numbers = (numbers & ~mask) | (others & mask);
    }
    std::memcpy(out, &numbers, kDim);
    out += kDim;
  }
}

bool Packer::pack_floats(const Lanes& lanes, Scratch& scratch) const {
  const FactorKind kind = view_.code == CodeKind::f32   ? FactorKind::f32
                          : view_.code == CodeKind::f16 ? FactorKind::f16
                                                        : FactorKind::bf16;
  std::byte* out = panels_ + lanes.panel * view_.panel_bytes;
  std::memset(out, 0, static_cast<std::size_t>(view_.panel_bytes));
  scratch.codes.resize(static_cast<std::size_t>(view_.cols));
  bool is_finite = true;
  const auto write = [&]<class Stored>(std::int64_t lane, Stored) {
    std::byte* p = out + lane * static_cast<std::int64_t>(sizeof(Stored));
    for (const std::uint32_t code : scratch.codes) {
      const auto number = static_cast<Stored>(code);
      std::memcpy(p, &number, sizeof number);
      p += panel_cols * sizeof number;
    }
  };
  for (std::int64_t lane = 0; lane < lanes.n_lanes; ++lane) {
    lanes.w.codes.unpack(lanes.first_row + lane, 0, scratch.codes);
    is_finite = is_finite && !has_special(scratch.codes, kind);
    if (kind == FactorKind::f32) {
      write(lane, std::uint32_t{});
    } else {
      write(lane, std::uint16_t{});
    }
  }
  return is_finite;
}

namespace {

/// A factor that is constant along the row, for padded rows.
std::vector<float> column_of(const QuantizedTensor& w, const QuantizedTensor& factor,
                             std::int64_t padded_rows) {
  const std::vector<float> numbers = decode(factor);
  std::vector<float> column(static_cast<std::size_t>(padded_rows), 0.0f);
  for (std::int64_t row = 0; row < w.rows; ++row) {
    column[static_cast<std::size_t>(row)] =
        numbers[static_cast<std::size_t>(row / w.group_rows() * factor.cols)];
  }
  return column;
}

/// The numbers of a factor stored as a byte: its code's, under its one scale.
std::vector<float> values_of(const QuantizedTensor& factor) {
  std::vector<float> values(byte_values, 0.0f);
  const std::span<const float> code_values = factor.scheme.code->values;
  const float scale = factor.scale ? decode(*factor.scale).at(0) : 1.0f;
  for (std::size_t i = 0; i < code_values.size(); ++i) {
    values[i] = factor.scale ? scale * code_values[i] : code_values[i];
  }
  return values;
}

}  // namespace

void PackedMatrix::assemble(PanelLayout layout, std::shared_ptr<const std::byte> panels) {
  values_ = std::move(layout.values);
  lut_ = std::move(layout.lut);
  n_panels_bytes_ = layout.panels_bytes();
  panels_ = std::move(panels);
  view_ = layout.view;
  view_.panels = panels_.get();
  view_.lut = lut_.data();
  view_.values = values_.data();
  view_.scale.values = scale_values_.data();
  view_.zero.values = zero_values_.data();
  const auto pointer = [](const auto& numbers) {
    return numbers.empty() ? nullptr : numbers.data();
  };
  if (view_.zero_kind == ZeroKind::integer) {
    for (const float zero : row_zero_) {
      row_zero_code_.push_back(static_cast<std::int32_t>(zero / view_.unit));
    }
  }
  if (view_.zero_kind == ZeroKind::product) {
    for (std::size_t i = 0; i < row_zero_.size(); ++i) {
      row_product_.push_back(-((row_scale_.empty() ? 1.0f : row_scale_[i]) * row_zero_[i]));
    }
  }
  view_.row_scale = pointer(row_scale_);
  view_.row_zero = pointer(row_zero_);
  view_.row_zero_code = pointer(row_zero_code_);
  view_.row_add = view_.zero_kind == ZeroKind::product   ? pointer(row_product_)
                  : view_.zero_kind == ZeroKind::integer ? nullptr
                                                         : view_.row_zero;
}

std::int64_t PackedMatrix::n_bytes() const {
  const std::size_t n_factors =
      row_scale_.size() + row_zero_.size() + row_zero_code_.size() + row_product_.size();
  return n_panels_bytes_ + static_cast<std::int64_t>(sizeof(float) * n_factors);
}

PackedParts PackedMatrix::parts() const {
  return {.panels = {panels_.get(), static_cast<std::size_t>(n_panels_bytes_)},
          .row_scale = row_scale_,
          .row_zero = row_zero_,
          .scale_values = scale_values_,
          .zero_values = zero_values_};
}

Result<PackedMatrix> PackedMatrix::of_parts(const Scheme& scheme, std::int64_t rows,
                                            std::int64_t cols, const PackedParts& parts,
                                            std::shared_ptr<const void> owner) {
  auto layout = lay_out_panels(scheme, rows, cols);
  if (!layout) return std::move(layout).error();
  const PanelView& view = layout->view;
  const auto is_whole = [](std::span<const float> numbers, bool is_there, std::size_t n) {
    return numbers.size() == (is_there ? n : 0);
  };
  const auto padded = static_cast<std::size_t>(layout->padded_rows());
  const bool is_row = view.group_k == 0, has_zero = view.zero_kind != ZeroKind::none;
  const bool fits =
      static_cast<std::int64_t>(parts.panels.size()) == layout->panels_bytes() &&
      reinterpret_cast<std::uintptr_t>(parts.panels.data()) %
              static_cast<std::size_t>(panel_alignment) ==
          0 &&
      is_whole(parts.row_scale, is_row && view.has_scale, padded) &&
      is_whole(parts.row_zero, is_row && has_zero && rows * cols != 0, padded) &&
      is_whole(parts.scale_values, view.scale.kind == FactorKind::table, byte_values) &&
      is_whole(parts.zero_values, view.zero.kind == FactorKind::table, byte_values);
  if (!fits) {
    return Error("the packed form of a " + std::to_string(rows) + " x " + std::to_string(cols) +
                 " matrix in " + to_string(scheme) + " has other parts");
  }
  PackedMatrix matrix;
  matrix.scheme_ = scheme;
  const auto copy = [](std::span<const float> numbers) {
    return std::vector<float>(numbers.begin(), numbers.end());
  };
  matrix.row_scale_ = copy(parts.row_scale);
  matrix.row_zero_ = copy(parts.row_zero);
  matrix.scale_values_ = copy(parts.scale_values);
  matrix.zero_values_ = copy(parts.zero_values);
  matrix.assemble(*std::move(layout),
                  std::shared_ptr<const std::byte>(std::move(owner), parts.panels.data()));
  return matrix;
}

/// A packed matrix while it is made.
class Packing {
 public:
  /// `part` holds some rows of the matrix, or all where a factor is constant along the row.
  Packing(PanelLayout layout, const QuantizedTensor& part, SlabMemory* memory)
      : layout_(std::move(layout)) {
    const PanelView& view = layout_.view;
    matrix_.scheme_ = part.scheme;
    if (view.group_k == 0) {
      if (part.scale) matrix_.row_scale_ = column_of(part, *part.scale, layout_.padded_rows());
      if (part.zero) matrix_.row_zero_ = column_of(part, *part.zero, layout_.padded_rows());
    }
    if (view.scale.kind == FactorKind::table) matrix_.scale_values_ = values_of(*part.scale);
    if (view.zero.kind == FactorKind::table) matrix_.zero_values_ = values_of(*part.zero);
    const auto n_bytes =
        static_cast<std::size_t>(std::max<std::int64_t>(layout_.panels_bytes(), 1));
    std::shared_ptr<std::byte> panels =
        memory != nullptr ? memory->take(n_bytes)
                          : std::shared_ptr<std::byte>(
                                new (panel_alignment) std::byte[n_bytes],
                                [](std::byte* p) { ::operator delete[](p, panel_alignment); });
    panels_ = panels.get();
    matrix_.assemble(layout_, std::move(panels));
    matrix_.is_finite_ = all_finite(matrix_.row_scale_) && all_finite(matrix_.row_zero_);
  }

  /// rows_of(first panel, last panel, thread): the tensor that holds their rows, and the first row
  /// of the matrix in it.
  template <class RowsOf>
  PackedMatrix run(ThreadPool& pool, std::int64_t panels_per_chunk, RowsOf&& rows_of) {
    const Packer packer(layout_, panels_, matrix_);
    std::vector<Packer::Scratch> scratch(static_cast<std::size_t>(pool.n_threads()));
    std::atomic<bool> is_finite = matrix_.is_finite_;
    pool.parallel_for(layout_.n_panels(), panels_per_chunk,
                      [&](std::int64_t first, std::int64_t last, int thread) {
                        const auto at = static_cast<std::size_t>(thread);
                        const auto& [w, first_row] = rows_of(first, last, at);
                        for (std::int64_t panel = first; panel < last; ++panel) {
                          if (!packer.pack_panel(w, first_row, panel, scratch[at])) {
                            is_finite.store(false, std::memory_order_relaxed);
                          }
                        }
                      });
    matrix_.is_finite_ = is_finite.load();
    return std::move(matrix_);
  }

 private:
  PanelLayout layout_;
  PackedMatrix matrix_;
  std::byte* panels_ = nullptr;
};

namespace {

struct PartOfMatrix {
  const QuantizedTensor& w;
  std::int64_t first_row;
};

}  // namespace

Result<PackedMatrix> pack(const QuantizedTensor& w, ThreadPool& pool, SlabMemory* memory) {
  auto layout = lay_out_panels(w.scheme, w.rows, w.cols);
  if (!layout) return std::move(layout).error();
  constexpr std::int64_t panels_per_chunk = 4;
  PackedMatrix packed =
      Packing(*std::move(layout), w, memory)
          .run(pool, panels_per_chunk,
               [&](std::int64_t /*first*/, std::int64_t /*last*/, std::size_t /*thread*/) {
                 return PartOfMatrix{w, 0};
               });
  packed.set_input(w.input);
  return packed;
}

Result<PackedMatrix> pack(const RowSource& w, ThreadPool& pool, SlabMemory* memory) {
  auto layout = lay_out_panels(w.scheme, w.rows, w.cols);
  if (!layout) return std::move(layout).error();
  const bool is_by_rows =
      layout->is_float() || (layout->view.group_k != 0 && w.scheme.group.rows == 1);
  if (!is_by_rows || w.rows == 0) {
    QuantizedTensor whole;
    w.read(0, w.rows, whole);
    return pack(whole, pool, memory);
  }
  // Parts stay in the second-level cache between reading and packing.
  constexpr std::int64_t part_bytes = std::int64_t{128} << 10;
  const std::int64_t panel_bytes = std::max<std::int64_t>(layout->view.panel_bytes, 1);
  const std::int64_t panels_per_chunk = std::clamp<std::int64_t>(part_bytes / panel_bytes, 1, 8);
  QuantizedTensor head;
  w.read(0, 1, head);
  std::vector<QuantizedTensor> parts(static_cast<std::size_t>(pool.n_threads()));
  return Packing(*std::move(layout), head, memory)
      .run(pool, panels_per_chunk, [&](std::int64_t first, std::int64_t last, std::size_t thread) {
        const std::int64_t first_row = first * panel_cols;
        w.read(first_row, std::min(last * panel_cols, w.rows) - first_row, parts[thread]);
        return PartOfMatrix{parts[thread], first_row};
      });
}

void unpack_row(const PackedMatrix& w, std::int64_t row, float* out) {
  const PanelView& v = w.view();
  for (std::int64_t k = 0; k < v.cols; ++k) {
    float number = value_at(v, row, k);
    const bool is_row = v.group_k == 0;
    float zero = 0;
    if (v.zero_kind == ZeroKind::integer && !is_row) {
      const std::int64_t lane = row % panel_cols, group = k % v.chunk_k / v.group_k;
      const std::byte* p =
          chunk_at(v, row / panel_cols, k) + v.zero_offset + group * panel_cols + lane;
      zero = v.unit * static_cast<float>(static_cast<std::uint8_t>(*p) + v.zero_least);
    } else if (v.zero_kind != ZeroKind::none) {
      zero = is_row ? v.row_zero[row] : factor_at(v, v.zero, row, k);
    }
    if (v.zero_kind == ZeroKind::integer || v.zero_kind == ZeroKind::product)
      number = number - zero;
    if (v.has_scale) number = (is_row ? v.row_scale[row] : factor_at(v, v.scale, row, k)) * number;
    if (v.zero_kind == ZeroKind::real) number = number + zero;
    out[k] = number;
  }
}

}  // namespace lowbit
