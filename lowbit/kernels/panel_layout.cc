// SPDX-License-Identifier: Apache-2.0
#include "lowbit/kernels/panel_layout.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <span>
#include <string>

namespace lowbit {
namespace {

constexpr std::int64_t max_integer_cols = std::int64_t{1} << 16;  // 255 * 127 * cols < 2^31
constexpr int min_group = 16;
constexpr std::size_t max_lut = 64;

std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
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

std::int64_t integer_of(const PanelLayout& layout, float number) {
  return static_cast<std::int64_t>(number / layout.product.unit);
}

/// Integers: from the least value up when that takes no more bits than an index into the distinct
/// numbers would, else the index. Other tables: the code itself.
void choose_integers(PanelLayout& layout, const Code& code, std::vector<float> numbers) {
  PanelView& view = layout.view;
  const ProductScheme& product = layout.product;
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
  const int linear_bits = bits_of(static_cast<std::size_t>(product.most - product.least + 1));
  const int lut_bits = bits_of(distinct.size());
  const bool is_linear = !has_minus_zero && (linear_bits <= lut_bits || distinct.size() > max_lut);
  view.code = is_linear ? CodeKind::linear : CodeKind::lut;
  view.bits = is_linear ? linear_bits : lut_bits;
  layout.values.assign(byte_values, 0.0f);
  layout.lut.assign(max_lut, 0);
  if (is_linear) {
    for (int i = 0; i <= product.most - product.least; ++i) {
      layout.values[static_cast<std::size_t>(i)] =
          product.unit * static_cast<float>(i + product.least);
    }
  }
  for (std::size_t i = 0; !is_linear && i < distinct.size(); ++i) {
    layout.values[i] = distinct[i];
    layout.lut[i] = static_cast<std::uint8_t>(integer_of(layout, distinct[i]) - product.least);
  }
  const auto stored = [&](float number) {
    if (is_linear) return static_cast<std::uint8_t>(integer_of(layout, number) - product.least);
    return static_cast<std::uint8_t>(std::ranges::lower_bound(distinct, number, order) -
                                     distinct.begin());
  };
  for (const float value : code.values) {
    layout.renumber.push_back(stored(value));
    if (code.signs != 0) layout.renumber_negated.push_back(stored(-value));
  }
}

Status choose_codes(PanelLayout& layout, const Scheme& scheme) {
  const Code& code = *scheme.code;
  PanelView& view = layout.view;
  const ProductScheme& product = layout.product;
  view.unit = product.unit;
  view.least = product.least;
  view.wide = product.most - product.least > 127;
  if (code.values.empty()) {
    if (!is_plain_float(scheme)) {
      return Error("no kernel reads codes of " + std::string(code.name) + " under a scale");
    }
    const FactorKind kind = float_kind(code);
    view.code = kind == FactorKind::f32   ? CodeKind::f32
                : kind == FactorKind::f16 ? CodeKind::f16
                                          : CodeKind::bf16;
    return ok();
  }
  if (product.is_integer) {
    if (view.cols > max_integer_cols) {
      return Error("a row of " + std::to_string(view.cols) + " inputs in " + to_string(scheme) +
                   " is longer than the " + std::to_string(max_integer_cols) +
                   " that int32 sums can hold");
    }
    std::vector<float> numbers(code.values.begin(), code.values.end());
    if (code.signs != 0) {
      for (const float value : code.values) numbers.push_back(-value);
    }
    choose_integers(layout, code, std::move(numbers));
    return ok();
  }
  if (code.dim != 1 || code.signs != 0 || code.values.size() > byte_values) {
    return Error("no kernel reads codes of " + std::string(code.name));
  }
  view.code = CodeKind::table;
  view.bits = code.window;
  layout.values.assign(byte_values, 0.0f);
  std::ranges::copy(code.values, layout.values.begin());
  view.minifloat = find_minifloat(code.values);
  for (std::size_t i = 0; i < code.values.size(); ++i) {
    layout.renumber.push_back(static_cast<std::uint8_t>(i));
  }
  return ok();
}

/// A factor keeps its own precision where the bodies can read it, else it is decoded to f32.
FactorPlane choose_plane(const Scheme& factor, bool is_two_level, float unit) {
  FactorPlane plane;
  plane.unit = unit;
  if (is_two_level) {
    plane.kind = FactorKind::two_level;
    plane.coarse_kind = float_kind(*factor.scale->code);
    return plane;
  }
  if (is_plain_float(factor)) {
    plane.kind = float_kind(*factor.code);
    return plane;
  }
  const bool has_one_scale = factor.scale == nullptr || factor.group == Group{0, 0};
  if (factor.code->dim == 1 && factor.code->signs == 0 && factor.zero == nullptr && has_one_scale &&
      !factor.code->values.empty() && factor.code->values.size() <= byte_values) {
    plane.kind = FactorKind::table;
  }
  return plane;
}

Status choose_factors(PanelLayout& layout, const Scheme& scheme) {
  PanelView& view = layout.view;
  const ProductScheme& product = layout.product;
  const bool is_empty = view.rows == 0 || view.cols == 0;
  view.group_k = product.group_k;
  view.has_scale = scheme.scale != nullptr && !is_empty;
  view.zero_kind = product.zero;
  view.zero_least = product.zero_least;
  if (view.group_k == 0) return ok();
  if (view.group_k < min_group || !std::has_single_bit(static_cast<unsigned>(view.group_k))) {
    return Error("groups of " + std::to_string(view.group_k) +
                 " inputs have no kernel; groups of 16, 32, 64, 128, ... or whole rows do");
  }
  if (view.has_scale) {
    view.scale = choose_plane(*scheme.scale, product.is_two_level, product.sub_unit);
  }
  if (scheme.zero != nullptr && !is_empty && view.zero_kind != ZeroKind::integer) {
    view.zero = choose_plane(*scheme.zero, product.is_two_level, product.zero_sub_unit);
  }
  return ok();
}

/// Chunks start at 64-byte borders: they grow until their header fills whole cache lines.
void place_planes(PanelLayout& layout) {
  PanelView& view = layout.view;
  const ProductScheme& product = layout.product;
  constexpr std::int64_t cache_line = 64, most_chunk_k = 512;
  const std::int64_t padded_k = round_up(std::max<std::int64_t>(view.cols, 1), tile_k);
  const auto header = [&](std::int64_t chunk_k) {
    std::int64_t offset = 0;
    const auto place = [&](FactorPlane& plane) {
      if (plane.kind == FactorKind::two_level) {
        plane.coarse_offset = static_cast<int>(offset);
        offset += bytes_of(plane.coarse_kind) * panel_cols;
      }
      plane.offset = static_cast<int>(offset);
      offset += chunk_k / view.group_k * bytes_of(plane.kind) * panel_cols;
    };
    if (view.has_scale) place(view.scale);
    if (view.zero_kind == ZeroKind::integer) {
      view.zero_offset = static_cast<int>(offset);
      offset += chunk_k / view.group_k * panel_cols;
    } else if (view.zero_kind != ZeroKind::none) {
      place(view.zero);
    }
    return offset;
  };
  if (view.group_k == 0) {
    view.chunk_k = padded_k;
    view.header_bytes = 0;
  } else {
    view.chunk_k =
        product.is_two_level ? product.super_k : std::max<std::int64_t>(view.group_k, 2 * tile_k);
    while (!product.is_two_level && header(view.chunk_k) % cache_line != 0 &&
           view.chunk_k < most_chunk_k) {
      view.chunk_k *= 2;
    }
    view.header_bytes = static_cast<int>(round_up(header(view.chunk_k), cache_line));
  }
  const std::int64_t number_bits = view.code == CodeKind::f32 ? 32
                                   : layout.is_float()        ? 16
                                                              : view.bits;
  view.tile_bytes = static_cast<int>(tile_k * panel_cols * number_bits / byte_bits);
  const std::int64_t n_chunks = (padded_k + view.chunk_k - 1) / view.chunk_k;
  view.panel_bytes = n_chunks * view.header_bytes + padded_k / tile_k * view.tile_bytes;
}

}  // namespace

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

Result<PanelLayout> lay_out_panels(const Scheme& scheme, std::int64_t rows, std::int64_t cols) {
  PanelLayout layout;
  layout.product = product_scheme(scheme);
  layout.view.rows = rows;
  layout.view.cols = cols;
  if (Status s = choose_codes(layout, scheme); !s) return std::move(s).error();
  for (std::size_t i = 0; i < layout.renumber.size(); ++i) {
    layout.is_renumbered = layout.is_renumbered || layout.renumber[i] != i;
  }
  if (Status s = choose_factors(layout, scheme); !s) return std::move(s).error();
  place_planes(layout);
  return layout;
}

}  // namespace lowbit
