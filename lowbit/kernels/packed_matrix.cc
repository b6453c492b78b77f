// SPDX-License-Identifier: Apache-2.0
// The packer works panel by panel: the codes of 16 outputs become bytes (renumbered by a table),
// the bytes of 4 inputs x 16 outputs become a 64-byte row, and the rows of a tile are folded into
// bit planes. The reverse walk, unpack_row(), is plain arithmetic over the same geometry. Longer
// than most files, because the two directions share that geometry and must change together.
#include "lowbit/kernels/packed_matrix.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <new>
#include <string>

#include "lowbit/base/half.h"
#include "lowbit/kernels/product_scheme.h"

namespace lowbit {
namespace {

constexpr std::int64_t row_bytes = panel_cols * quad_k;  // one row of a plane
constexpr int quads_per_tile = tile_k / quad_k, byte_bits = 8;
constexpr std::int64_t max_integer_cols = std::int64_t{1} << 16;  // 255 * 127 * cols < 2^31
constexpr int min_group = 16;
constexpr std::size_t max_lut = 64, byte_values = 256;

std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

/// Width of each bit plane of a code, lowest bits first.
struct Planes {
  std::array<int, 3> widths{};
  int n_planes = 0;
};
Planes planes_of(int bits) {
  Planes planes;
  for (const int width : {8, 4, 2, 1}) {
    if ((bits & width) == 0) continue;
    planes.widths[static_cast<std::size_t>(planes.n_planes++)] = width;
  }
  return planes;
}

int bytes_of(FactorKind kind) {
  switch (kind) {
    case FactorKind::f32:
      return 4;
    case FactorKind::f16:
    case FactorKind::bf16:
      return 2;
    default:
      return 1;
  }
}

/// f16, bf16 or f32, whatever the code is called.
FactorKind float_kind(const Code& code) {
  constexpr int f32_bits = 32;
  constexpr std::uint32_t one_in_f16 = 0x3c00;
  if (code.window == f32_bits) return FactorKind::f32;
  float number = 0;
  code.look_up(one_in_f16, &number);
  return number == 1.0f ? FactorKind::f16 : FactorKind::bf16;
}

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
    const unsigned byte =
        static_cast<std::uint8_t>(tile[quad / per_byte * row_bytes + lane * quad_k + k % quad_k]);
    const unsigned field = byte >> (quad % per_byte * width) & ((1u << width) - 1);
    code |= field << shift;
    shift += width;
    tile += quads_per_tile / per_byte * row_bytes;
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

/// The rule of a table of small floats, if it is one; every finite number is checked bit by bit.
Minifloat find_minifloat(std::span<const float> values) {
  constexpr int f32_mantissa = 23;
  constexpr std::uint32_t infinity = 0x7f800000, sign = 0x80000000;
  const std::size_t n_magnitudes = values.size() / 2;
  Minifloat m;
  m.least = values.size() > 2 ? values[1] : 0.0f;
  if (!(m.least > 0)) return {};
  // Steps of one size reach up to 2^(mantissa_bits + 1).
  std::size_t n_even = 1;
  while (n_even < n_magnitudes && values[n_even] == static_cast<float>(n_even) * m.least) ++n_even;
  m.mantissa_bits = static_cast<int>(std::bit_width(n_even - 1)) - 2;
  if (m.mantissa_bits < 1) return {};
  const std::size_t first_normal = std::size_t{1} << m.mantissa_bits;
  const int shift = f32_mantissa - m.mantissa_bits;
  const std::uint32_t offset = std::bit_cast<std::uint32_t>(values[first_normal]) -
                               static_cast<std::uint32_t>(first_normal << shift);
  m.offset = static_cast<std::int32_t>(offset);
  m.special_from = static_cast<std::int32_t>(n_magnitudes);
  for (std::size_t i = 0; i < n_magnitudes; ++i) {
    const std::uint32_t normal = static_cast<std::uint32_t>(i << shift) + offset;
    float number =
        i < first_normal ? static_cast<float>(i) * m.least : std::bit_cast<float>(normal);
    if (!std::isfinite(values[i])) {
      m.special_from = std::min(m.special_from, static_cast<std::int32_t>(i));
    }
    if (static_cast<std::int32_t>(i) >= m.special_from) {
      number = std::bit_cast<float>(normal | infinity);
      if (std::isnan(number) && std::isnan(values[i])) continue;
    }
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(number);
    if (bits != std::bit_cast<std::uint32_t>(values[i])) return {};
    if ((bits | sign) != std::bit_cast<std::uint32_t>(values[i + n_magnitudes])) return {};
  }
  return m;
}

}  // namespace

class Packer {
 public:
  Packer(const QuantizedTensor& w, PackedMatrix& out)
      : w_(w), out_(out), view_(out.view_), product_(product_scheme(w.scheme)) {}

  Status pack(ThreadPool& pool);

 private:
  Status choose_codes();
  void choose_integers(std::vector<float> numbers);
  Status choose_factors();
  FactorPlane choose_plane(const QuantizedTensor& factor, bool two_level,
                           std::vector<float>& values);
  void lay_out();
  void pack_row_factors();
  void pack_headers(std::int64_t panel);
  void pack_plane(const QuantizedTensor& factor, const FactorPlane& plane, std::int64_t panel);
  void pack_integer_zeros(std::int64_t panel);
  void pack_tiles(std::int64_t panel, std::vector<std::uint8_t>& bytes,
                  std::vector<std::uint32_t>& codes);
  void unpack_vectors(std::span<const std::uint32_t> codes, std::span<std::uint8_t> row) const;
  void pack_floats(std::int64_t panel, std::vector<std::uint32_t>& codes);
  void fold_tile(const std::uint8_t* bytes, std::int64_t stride, std::byte* tile) const;
  std::byte* panel_at(std::int64_t panel) { return out_.panels_.get() + panel * view_.panel_bytes; }
  std::byte* mutable_chunk(std::int64_t panel, std::int64_t k) {
    return panel_at(panel) + (chunk_at(view_, 0, k) - view_.panels);
  }
  std::int64_t chunk_bytes() const {
    return view_.header_bytes + view_.chunk_k / tile_k * view_.tile_bytes;
  }
  bool is_float() const {
    return view_.code == CodeKind::f32 || view_.code == CodeKind::f16 ||
           view_.code == CodeKind::bf16;
  }
  std::int64_t integer_of(float number) const {
    return static_cast<std::int64_t>(number / product_.unit);
  }

  const QuantizedTensor& w_;
  PackedMatrix& out_;
  PanelView& view_;
  ProductScheme product_;
  bool is_renumbered_ = false;                  // some code is not stored as it is
  std::vector<std::uint8_t> renumber_;          // code without its signs -> dim stored bytes
  std::vector<std::uint8_t> renumber_negated_;  // the same numbers negated
};

/// Integers: from the least value up when that takes no more bits than an index into the distinct
/// numbers would, else the index. Other tables: the code itself.
void Packer::choose_integers(std::vector<float> numbers) {
  const Code& code = *w_.scheme.code;
  const auto bits_of = [](std::size_t n_values) {
    return std::max(1, static_cast<int>(std::bit_width(n_values - 1)));
  };
  // Distinct by bits, so that -0 survives where a code has one.
  const auto order = [](float a, float b) {
    return a < b || (a == b && std::signbit(a) && !std::signbit(b));
  };
  const bool has_minus_zero =
      std::ranges::any_of(numbers, [](float n) { return n == 0 && std::signbit(n); });
  std::ranges::sort(numbers, order);
  std::vector<float> distinct;
  for (const float number : numbers) {
    if (distinct.empty() || order(distinct.back(), number)) distinct.push_back(number);
  }
  const int linear_bits = bits_of(static_cast<std::size_t>(product_.most - product_.least + 1));
  const int lut_bits = bits_of(distinct.size());
  const bool is_linear = !has_minus_zero && (linear_bits <= lut_bits || distinct.size() > max_lut);
  view_.code = is_linear ? CodeKind::linear : CodeKind::lut;
  view_.bits = is_linear ? linear_bits : lut_bits;
  out_.values_.assign(byte_values, 0.0f);
  out_.lut_.assign(max_lut, 0);
  if (is_linear) {
    for (int i = 0; i <= product_.most - product_.least; ++i) {
      out_.values_[static_cast<std::size_t>(i)] =
          product_.unit * static_cast<float>(i + product_.least);
    }
  }
  for (std::size_t i = 0; !is_linear && i < distinct.size(); ++i) {
    out_.values_[i] = distinct[i];
    out_.lut_[i] = static_cast<std::uint8_t>(integer_of(distinct[i]) - product_.least);
  }
  const auto stored = [&](float number) {
    if (is_linear) return static_cast<std::uint8_t>(integer_of(number) - product_.least);
    return static_cast<std::uint8_t>(std::ranges::lower_bound(distinct, number, order) -
                                     distinct.begin());
  };
  renumber_.clear();
  for (const float value : code.values) {
    renumber_.push_back(stored(value));
    if (code.signs != 0) renumber_negated_.push_back(stored(-value));
  }
}

Status Packer::choose_codes() {
  const Code& code = *w_.scheme.code;
  view_.unit = product_.unit;
  view_.least = product_.least;
  view_.wide = product_.most - product_.least > 127;
  if (code.values.empty()) {
    if (!is_plain_float(w_.scheme)) {
      return Error("no kernel reads codes of " + std::string(code.name) + " under a scale");
    }
    const FactorKind kind = float_kind(code);
    view_.code = kind == FactorKind::f32   ? CodeKind::f32
                 : kind == FactorKind::f16 ? CodeKind::f16
                                           : CodeKind::bf16;
    return ok();
  }
  if (product_.is_integer) {
    if (w_.cols > max_integer_cols) {
      return Error("a row of " + std::to_string(w_.cols) + " inputs in " + to_string(w_.scheme) +
                   " is longer than the " + std::to_string(max_integer_cols) +
                   " that int32 sums can hold");
    }
    std::vector<float> numbers(code.values.begin(), code.values.end());
    if (code.signs != 0) {
      for (const float value : code.values) numbers.push_back(-value);
    }
    choose_integers(std::move(numbers));
    return ok();
  }
  if (code.dim != 1 || code.signs != 0 || code.values.size() > byte_values) {
    return Error("no kernel reads codes of " + std::string(code.name));
  }
  view_.code = CodeKind::table;
  view_.bits = code.window;
  out_.values_.assign(byte_values, 0.0f);
  std::ranges::copy(code.values, out_.values_.begin());
  view_.minifloat = find_minifloat(code.values);
  for (std::size_t i = 0; i < code.values.size(); ++i) {
    renumber_.push_back(static_cast<std::uint8_t>(i));
  }
  return ok();
}

/// A factor keeps its own precision where the bodies can read it, else it is decoded to f32.
FactorPlane Packer::choose_plane(const QuantizedTensor& factor, bool two_level,
                                 std::vector<float>& values) {
  FactorPlane plane;
  const Scheme& scheme = factor.scheme;
  if (two_level) {
    plane.kind = FactorKind::two_level;
    plane.coarse_kind = float_kind(*scheme.scale->code);
    return plane;
  }
  if (is_plain_float(scheme)) {
    plane.kind = float_kind(*scheme.code);
    return plane;
  }
  const bool one_scale = scheme.scale == nullptr || scheme.group == Group{0, 0};
  if (scheme.code->dim == 1 && scheme.code->signs == 0 && scheme.zero == nullptr && one_scale &&
      !scheme.code->values.empty() && scheme.code->values.size() <= byte_values) {
    plane.kind = FactorKind::table;
    values.assign(byte_values, 0.0f);
    const float scale = factor.scale ? decode(*factor.scale).at(0) : 1.0f;
    for (std::size_t i = 0; i < scheme.code->values.size(); ++i) {
      const float value = scheme.code->values[i];
      values[i] = factor.scale ? scale * value : value;
    }
  }
  return plane;
}

Status Packer::choose_factors() {
  view_.group_k = product_.group_k;
  view_.has_scale = w_.scale != nullptr;
  view_.zero_kind = product_.zero;
  view_.zero_least = product_.zero_least;
  if (view_.group_k == 0) return ok();
  if (view_.group_k < min_group || !std::has_single_bit(static_cast<unsigned>(view_.group_k))) {
    return Error("groups of " + std::to_string(view_.group_k) +
                 " inputs have no kernel; groups of 16, 32, 64, 128, ... or whole rows do");
  }
  if (w_.scale) {
    view_.scale = choose_plane(*w_.scale, product_.is_two_level, out_.scale_values_);
    view_.scale.unit = product_.sub_unit;
  }
  if (w_.zero && view_.zero_kind != ZeroKind::integer) {
    view_.zero = choose_plane(*w_.zero, product_.is_two_level, out_.zero_values_);
    view_.zero.unit = product_.zero_sub_unit;
  }
  return ok();
}

/// Chunks start at 64-byte borders: they grow until their header fills whole cache lines.
void Packer::lay_out() {
  constexpr std::int64_t cache_line = 64, most_chunk_k = 512;
  const std::int64_t padded_k = round_up(std::max<std::int64_t>(view_.cols, 1), tile_k);
  const auto header = [&](std::int64_t chunk_k) {
    std::int64_t offset = 0;
    const auto place = [&](FactorPlane& plane) {
      if (plane.kind == FactorKind::two_level) {
        plane.coarse_offset = static_cast<int>(offset);
        offset += bytes_of(plane.coarse_kind) * panel_cols;
      }
      plane.offset = static_cast<int>(offset);
      offset += chunk_k / view_.group_k * bytes_of(plane.kind) * panel_cols;
    };
    if (view_.has_scale) place(view_.scale);
    if (view_.zero_kind == ZeroKind::integer) {
      view_.zero_offset = static_cast<int>(offset);
      offset += chunk_k / view_.group_k * panel_cols;
    } else if (view_.zero_kind != ZeroKind::none) {
      place(view_.zero);
    }
    return offset;
  };
  if (view_.group_k == 0) {
    view_.chunk_k = padded_k;
    view_.header_bytes = 0;
  } else {
    view_.chunk_k = product_.is_two_level ? product_.super_k
                                          : std::max<std::int64_t>(view_.group_k, 2 * tile_k);
    while (!product_.is_two_level && header(view_.chunk_k) % cache_line != 0 &&
           view_.chunk_k < most_chunk_k) {
      view_.chunk_k *= 2;
    }
    view_.header_bytes = static_cast<int>(round_up(header(view_.chunk_k), cache_line));
  }
  const std::int64_t number_bits = view_.code == CodeKind::f32 ? 32 : is_float() ? 16 : view_.bits;
  view_.tile_bytes = static_cast<int>(tile_k * panel_cols * number_bits / byte_bits);
  const std::int64_t n_chunks = (padded_k + view_.chunk_k - 1) / view_.chunk_k;
  view_.panel_bytes = n_chunks * view_.header_bytes + padded_k / tile_k * view_.tile_bytes;
}

void Packer::pack_row_factors() {
  if (view_.group_k != 0) return;
  const std::size_t padded = static_cast<std::size_t>(round_up(view_.rows, panel_cols));
  const auto column = [&](const QuantizedTensor& factor) {
    const std::vector<float> numbers = decode(factor);
    std::vector<float> column(padded, 0.0f);
    for (std::int64_t row = 0; row < view_.rows; ++row) {
      column[static_cast<std::size_t>(row)] =
          numbers[static_cast<std::size_t>(row / w_.group_rows() * factor.cols)];
    }
    return column;
  };
  if (w_.scale) out_.row_scale_ = column(*w_.scale);
  if (w_.zero) out_.row_zero_ = column(*w_.zero);
  if (view_.zero_kind == ZeroKind::integer) {
    for (const float zero : out_.row_zero_) {
      out_.row_zero_code_.push_back(static_cast<std::int32_t>(integer_of(zero)));
    }
  }
}

void Packer::pack_plane(const QuantizedTensor& factor, const FactorPlane& plane,
                        std::int64_t panel) {
  std::vector<float> numbers;
  const std::int64_t n_lanes = std::min<std::int64_t>(panel_cols, view_.rows - panel * panel_cols);
  const std::int64_t per_chunk = view_.chunk_k / view_.group_k;
  std::vector<std::int8_t> subs;
  if (plane.kind == FactorKind::two_level) {
    for (const float value : factor.scheme.code->values) {
      subs.push_back(static_cast<std::int8_t>(value / plane.unit));
    }
  }
  for (std::int64_t lane = 0; lane < n_lanes; ++lane) {
    const std::int64_t row = (panel * panel_cols + lane) / w_.group_rows();
    if (plane.kind == FactorKind::f32) {
      numbers.resize(static_cast<std::size_t>(factor.cols));
      decode_rows(factor, row, 1, numbers);
    }
    std::vector<std::uint32_t> codes(static_cast<std::size_t>(factor.cols));
    if (plane.kind != FactorKind::f32) factor.codes.unpack(row, 0, codes);
    std::byte* chunk = mutable_chunk(panel, 0);
    const std::size_t size = static_cast<std::size_t>(bytes_of(plane.kind));
    for (std::int64_t first = 0; first < factor.cols; first += per_chunk, chunk += chunk_bytes()) {
      std::byte* p = chunk + plane.offset + lane * static_cast<std::int64_t>(size);
      const std::int64_t last = std::min(first + per_chunk, factor.cols);
      for (std::int64_t group = first; group < last; ++group) {
        const std::uint32_t code = codes[static_cast<std::size_t>(group)];
        if (plane.kind == FactorKind::two_level) {
          *p = static_cast<std::byte>(subs[code]);
        } else if (plane.kind == FactorKind::f32) {
          std::memcpy(p, &numbers[static_cast<std::size_t>(group)], size);
        } else {
          std::memcpy(p, &code, size);
        }
        p += panel_cols * static_cast<std::int64_t>(size);
      }
      if (plane.kind == FactorKind::two_level) {
        const std::uint32_t coarse = factor.scale->codes.get(row, first / per_chunk);
        std::memcpy(chunk + plane.coarse_offset + lane * bytes_of(plane.coarse_kind), &coarse,
                    static_cast<std::size_t>(bytes_of(plane.coarse_kind)));
      }
    }
  }
}

void Packer::pack_integer_zeros(std::int64_t panel) {
  const std::int64_t n_lanes = std::min<std::int64_t>(panel_cols, view_.rows - panel * panel_cols);
  for (std::int64_t lane = 0; lane < n_lanes; ++lane) {
    const std::int64_t row = (panel * panel_cols + lane) / w_.group_rows();
    for (std::int64_t group = 0; group < w_.zero->cols; ++group) {
      float zero = 0;
      w_.zero->scheme.code->look_up(w_.zero->codes.get(row, group), &zero);
      const std::int64_t k = group * view_.group_k;
      std::byte* p = mutable_chunk(panel, k) + view_.zero_offset +
                     k % view_.chunk_k / view_.group_k * panel_cols + lane;
      *p = static_cast<std::byte>(integer_of(zero) - view_.zero_least);
    }
  }
}

void Packer::pack_headers(std::int64_t panel) {
  if (view_.group_k == 0) return;
  for (std::int64_t k = 0; k < view_.cols; k += view_.chunk_k) {
    std::memset(mutable_chunk(panel, k), 0, static_cast<std::size_t>(view_.header_bytes));
  }
  if (w_.scale) pack_plane(*w_.scale, view_.scale, panel);
  if (view_.zero_kind == ZeroKind::integer) {
    pack_integer_zeros(panel);
  } else if (w_.zero) {
    pack_plane(*w_.zero, view_.zero, panel);
  }
}

/// bytes: (16, stride) stored codes of one tile.
void Packer::fold_tile(const std::uint8_t* bytes, std::int64_t stride, std::byte* tile) const {
  std::uint8_t quads[quads_per_tile][row_bytes];
  for (int quad = 0; quad < quads_per_tile; ++quad) {
    for (int lane = 0; lane < panel_cols; ++lane) {
      std::memcpy(&quads[quad][lane * quad_k], bytes + lane * stride + quad * quad_k, quad_k);
    }
  }
  // Eight codes at a time: bits that a shift moves across a byte border are masked away.
  using Word = std::uint64_t;
  constexpr Word every_byte = 0x0101010101010101;
  constexpr int words = static_cast<int>(row_bytes / sizeof(Word));
  const auto word_at = [&](int quad, int word) {
    Word bits = 0;
    std::memcpy(&bits, &quads[quad][static_cast<std::size_t>(word) * sizeof(Word)], sizeof bits);
    return bits;
  };
  const Planes planes = planes_of(view_.bits);
  int shift = 0;
  for (int i = 0; i < planes.n_planes; ++i) {
    const int width = planes.widths[static_cast<std::size_t>(i)], per_byte = byte_bits / width;
    const Word mask = every_byte * ((1u << width) - 1);
    for (int first = 0; first < quads_per_tile; first += per_byte) {
      Word row[words] = {};
      for (int field = 0; field < per_byte; ++field) {
        for (int word = 0; word < words; ++word) {
          row[word] |= (word_at(first + field, word) >> shift & mask) << (field * width);
        }
      }
      std::memcpy(tile, row, sizeof row);
      tile += row_bytes;
    }
    shift += width;
  }
}

void Packer::pack_tiles(std::int64_t panel, std::vector<std::uint8_t>& bytes,
                        std::vector<std::uint32_t>& codes) {
  const Code& code = *w_.scheme.code;
  const std::int64_t stride = round_up(view_.cols, tile_k), n_codes = view_.cols / code.dim;
  // Rows and inputs beyond the matrix meet zero activations or lanes that are not stored.
  bytes.assign(static_cast<std::size_t>(panel_cols * stride), 0);
  codes.resize(static_cast<std::size_t>(n_codes));
  const std::int64_t n_lanes = std::min<std::int64_t>(panel_cols, view_.rows - panel * panel_cols);
  for (std::int64_t lane = 0; lane < n_lanes; ++lane) {
    const std::int64_t at = panel * panel_cols + lane;
    const std::span row(&bytes[static_cast<std::size_t>(lane * stride)],
                        static_cast<std::size_t>(view_.cols));
    if (code.dim == 1 && code.window <= byte_bits) {
      w_.codes.unpack(at, 0, row);
      if (!is_renumbered_) continue;
      for (std::uint8_t& byte : row) byte = renumber_[byte];
    } else {
      w_.codes.unpack(at, 0, codes);
      unpack_vectors(codes, row);
    }
  }
  for (std::int64_t k = 0; k < stride; k += tile_k) {
    std::byte* tile = mutable_chunk(panel, k) + view_.header_bytes +
                      k % view_.chunk_k / tile_k * view_.tile_bytes;
    fold_tile(bytes.data() + k, stride, tile);
  }
}

/// Codes of several numbers each: where a sign bit is set, the byte of the negated number.
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
  const Code& code = *w_.scheme.code;
  const std::size_t dim = static_cast<std::size_t>(code.dim);
  const int grid_bits = code.window - code.signs;
  std::uint8_t* out = row.data();
  for (const std::uint32_t bits : codes) {
    const std::size_t at = (bits & ((1u << grid_bits) - 1)) * dim;
    Word numbers = 0, negated = 0;
    std::memcpy(&numbers, &renumber_[at], dim);
    if (code.signs != 0) {
      std::memcpy(&negated, &renumber_negated_[at], dim);
      const Word mask = masks[bits >> grid_bits];
      numbers = (numbers & ~mask) | (negated & mask);
    }
    std::memcpy(out, &numbers, dim);
    out += dim;
  }
}

void Packer::pack_floats(std::int64_t panel, std::vector<std::uint32_t>& codes) {
  const std::int64_t n_lanes = std::min<std::int64_t>(panel_cols, view_.rows - panel * panel_cols);
  const std::size_t size = view_.code == CodeKind::f32 ? sizeof(float) : sizeof(std::uint16_t);
  std::byte* out = panel_at(panel);
  std::memset(out, 0, static_cast<std::size_t>(view_.panel_bytes));
  codes.resize(static_cast<std::size_t>(view_.cols));
  for (std::int64_t lane = 0; lane < n_lanes; ++lane) {
    w_.codes.unpack(panel * panel_cols + lane, 0, codes);
    for (std::size_t k = 0; k < codes.size(); ++k) {
      std::memcpy(out + (k * panel_cols + static_cast<std::size_t>(lane)) * size, &codes[k], size);
    }
  }
}

Status Packer::pack(ThreadPool& pool) {
  out_.scheme_ = w_.scheme;
  view_.rows = w_.rows;
  view_.cols = w_.cols;
  if (Status s = choose_codes(); !s) return s;
  for (std::size_t i = 0; i < renumber_.size(); ++i) {
    is_renumbered_ = is_renumbered_ || renumber_[i] != i;
  }
  if (Status s = choose_factors(); !s) return s;
  lay_out();
  pack_row_factors();
  const std::int64_t n_panels = (view_.rows + panel_cols - 1) / panel_cols;
  const std::size_t n_bytes = static_cast<std::size_t>(n_panels * view_.panel_bytes);
  out_.panels_.reset(new (std::align_val_t{64}) std::byte[std::max<std::size_t>(n_bytes, 1)]);
  view_.panels = out_.panels_.get();
  view_.lut = out_.lut_.data();
  view_.values = out_.values_.data();
  view_.scale.values = out_.scale_values_.data();
  view_.zero.values = out_.zero_values_.data();
  view_.row_scale = out_.row_scale_.empty() ? nullptr : out_.row_scale_.data();
  view_.row_zero = out_.row_zero_.empty() ? nullptr : out_.row_zero_.data();
  view_.row_zero_code = out_.row_zero_code_.empty() ? nullptr : out_.row_zero_code_.data();
  if (view_.zero_kind == ZeroKind::product && view_.row_zero != nullptr) {
    for (std::size_t i = 0; i < out_.row_zero_.size(); ++i) {
      const float scale = view_.row_scale == nullptr ? 1.0f : out_.row_scale_[i];
      out_.row_product_.push_back(-(scale * out_.row_zero_[i]));
    }
  }
  view_.row_add = view_.zero_kind == ZeroKind::product ? out_.row_product_.data() : view_.row_zero;
  if (view_.zero_kind == ZeroKind::integer || view_.row_zero == nullptr) view_.row_add = nullptr;
  constexpr std::int64_t panels_per_chunk = 4;
  pool.parallel_for(n_panels, panels_per_chunk, [&](std::int64_t first, std::int64_t last, int) {
    std::vector<std::uint8_t> bytes;
    std::vector<std::uint32_t> codes;
    for (std::int64_t panel = first; panel < last; ++panel) {
      pack_headers(panel);
      if (is_float()) {
        pack_floats(panel, codes);
      } else {
        pack_tiles(panel, bytes, codes);
      }
    }
  });
  out_.n_bytes_ = static_cast<std::int64_t>(
      n_bytes + sizeof(float) * (out_.row_scale_.size() + out_.row_zero_.size() +
                                 out_.row_zero_code_.size() + out_.row_product_.size()));
  return ok();
}

Result<PackedMatrix> pack(const QuantizedTensor& w, ThreadPool& pool) {
  PackedMatrix packed;
  if (Status s = Packer(w, packed).pack(pool); !s) return std::move(s).error();
  return packed;
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
