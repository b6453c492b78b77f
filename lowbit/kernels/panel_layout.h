// SPDX-License-Identifier: Apache-2.0
// What a scheme and a shape say about a packed matrix before any number is read: the geometry of
// its panels, how its codes are renumbered, what its factors look like. The packer fills panels of
// this geometry and a pack cache is checked against it, so that nothing of a PanelView has to be
// stored or trusted.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/formats/scheme.h"
#include "lowbit/kernels/matmul_kernels.h"
#include "lowbit/kernels/product_scheme.h"

namespace lowbit {

inline constexpr std::int64_t plane_row_bytes = panel_cols * quad_k;  // one row of a plane
inline constexpr int quads_per_tile = tile_k / quad_k, byte_bits = 8;
inline constexpr std::size_t byte_values = 256;

struct PanelLayout {
  PanelView view;  // without pointers
  ProductScheme product;
  std::vector<float> values;                   // of the stored codes: (256), empty for floats
  std::vector<std::uint8_t> lut;               // (64), empty where codes are no small integers
  std::vector<std::uint8_t> renumber;          // code without its signs -> dim stored bytes
  std::vector<std::uint8_t> renumber_negated;  // the same numbers negated
  bool is_renumbered = false;                  // some code is not stored as it is

  bool is_float() const {
    return view.code == CodeKind::f32 || view.code == CodeKind::f16 || view.code == CodeKind::bf16;
  }
  std::int64_t n_panels() const { return (view.rows + panel_cols - 1) / panel_cols; }
  std::int64_t panels_bytes() const { return n_panels() * view.panel_bytes; }
  /// Numbers of a factor that is constant along the row: rows padded to whole panels.
  std::int64_t padded_rows() const { return n_panels() * panel_cols; }
};

/// Errors: no kernel for the code or the group, a row too long for int32 sums.
Result<PanelLayout> lay_out_panels(const Scheme& scheme, std::int64_t rows, std::int64_t cols);

/// Width of each bit plane of a code, lowest bits first.
struct Planes {
  std::array<int, 3> widths{};
  int n_planes = 0;
};
Planes planes_of(int bits);

int bytes_of(FactorKind kind);

}  // namespace lowbit
