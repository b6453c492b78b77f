// SPDX-License-Identifier: Apache-2.0
// The border between the drivers (packed_matrix.cc, matmul.cc) and the bodies that are compiled
// once per instruction set: plain structs, so that nothing of std:: is instantiated inside a target
// region. packed_matrix.h says how a panel looks, reference.h what a product means.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

/// Output columns in a panel = lanes of every kernel; consecutive k in the 4 bytes of a lane; k in
/// a tile, the unit that planes are packed in.
inline constexpr int panel_cols = 16, quad_k = 4, tile_k = 32;

/// How a stored code becomes a number.
enum class CodeKind : std::uint8_t {
  linear,  // unit * (code + least)
  lut,     // unit * (lut[code] + least), codes of up to 6 bits
  table,   // values[code]: numbers without a common unit
  f16,
  bf16,
  f32,
};

/// How a factor (a scale, a real zero) of one group of 16 columns is stored.
enum class FactorKind : std::uint8_t {
  f32,
  f16,
  bf16,
  table,      // a byte into 256 numbers (e8m0, ue4m3 under a tensor scale)
  two_level,  // an int8 per group and a coarse factor per chunk: coarse * (unit * byte)
};

/// One vector of 16 factors per group, in the header of the chunk that holds the group.
struct FactorPlane {
  FactorKind kind = FactorKind::f32;
  FactorKind coarse_kind = FactorKind::f32;  // two_level
  int offset = 0;                            // bytes from the start of the chunk, first group
  int coarse_offset = 0;                     // two_level: the one coarse vector of the chunk
  float unit = 1;                            // two_level
  const float* values = nullptr;             // table: (256)
};

enum class ZeroKind : std::uint8_t {
  none,
  integer,  // subtracted from the code: bytes, zero = byte + zero_least
  real,     // added to the weight
  product,  // added to the weight as -(scale * factor): a real zero in units of the code
};

/// A table that is a small float: the top bit is the sign, the others a magnitude m. m below
/// 2^mantissa_bits is m * least; the others are the f32 whose bits are (m << (23 - mantissa_bits))
/// + offset; from special_from on the exponent of infinity is put in.
struct Minifloat {
  int mantissa_bits = 0;  // 0: the table is something else
  std::int32_t offset = 0, special_from = 0;
  float least = 0;
};

/// What the bodies see of a PackedMatrix.
struct PanelView {
  const std::byte* panels = nullptr;  // 64-byte aligned
  std::int64_t panel_bytes = 0;
  std::int64_t rows = 0, cols = 0;  // outputs N, inputs K
  // A panel is a sequence of chunks of chunk_k inputs (the last may be short in tiles, never in its
  // header): header of factors, then tiles of code planes.
  std::int64_t chunk_k = 0;
  int header_bytes = 0, tile_bytes = 0;

  CodeKind code = CodeKind::f32;
  int bits = 0;       // of a stored code: planes of 8, or of 4, 2 and 1 bits
  int least = 0;      // smallest integer of the code
  bool wide = false;  // some code + (-least) is above 127
  float unit = 1;
  const std::uint8_t* lut = nullptr;  // (64)
  const float* values = nullptr;      // table: (256)
  Minifloat minifloat;                // table

  std::int64_t group_k =
      0;  // inputs under one inline factor; 0: factors are constant along the row
  bool has_scale = false;
  FactorPlane scale, zero;
  ZeroKind zero_kind = ZeroKind::none;
  int zero_least = 0, zero_offset = 0;  // integer zeros: bytes at zero_offset of the chunk
  // group_k == 0: (rows padded to 16); null where there is none. row_zero: the decoded zeros;
  // row_add: what a real zero adds to a weight; row_zero_code: integer zeros.
  const float* row_scale = nullptr;
  const float* row_zero = nullptr;
  const float* row_add = nullptr;
  const std::int32_t* row_zero_code = nullptr;
};

/// One product, as the bodies see it.
struct MatmulJob {
  PanelView w;
  std::int64_t n_tokens = 0;
  float* y = nullptr;  // (n_tokens, w.rows), y_stride floats from row to row
  std::int64_t y_stride = 0;

  // a=f32: (n_tokens, K); where the weights have real zeros, the sum of x per group (or row).
  const float* x = nullptr;
  std::int64_t x_stride = 0;
  const float* x_sums = nullptr;  // (n_tokens, n_sums)

  // int8: codes (n_tokens, K padded to tile_k with zeros); one scale per activation group, or per
  // token when activation_group_k is 0.
  const std::int8_t* codes = nullptr;
  std::int64_t codes_stride = 0;
  const float* scales = nullptr;
  std::int64_t scales_stride = 0;
  std::int64_t activation_group_k = 0;
  // (n_tokens, n_sums), per step, per group of two-level scales: the sum of the codes; what the
  // accumulator starts from (that sum times the bias of the stored codes).
  const std::int32_t* sums = nullptr;
  const std::int32_t* starts = nullptr;
  std::int64_t n_sums = 0;

  std::int64_t step_k = 0;   // inputs per step; K when nothing varies along the row
  std::int64_t block_k = 0;  // inputs unpacked at a time, a multiple of step_k and chunk_k, or all
  std::int64_t scratch_bytes = 0;
};

struct MatmulKernels {
  int tile_tokens = 1, tile_panels = 1, gemv_panels = 1;
  /// Up to so many tokens read the weights once, in blocks that stay in the first-level cache.
  int few_tokens = 1;
  int wide_bias = 0;  // of codes above 127
  /// One token to int8: codes (padded), one scale per group (group_k 0: one), sums over 16.
  void (*quantize_row)(const float* x, std::int64_t cols, std::int64_t group_k, std::int8_t* codes,
                       float* scales, std::int32_t* sums) = nullptr;
  /// Panels [first_panel, last_panel) x tokens [first_token, last_token) of y. scratch: 64-byte
  /// aligned, job.scratch_bytes.
  void (*int8_panels)(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel,
                      std::int64_t first_token, std::int64_t last_token,
                      std::byte* scratch) = nullptr;
  void (*f32_panels)(const MatmulJob& job, std::int64_t first_panel, std::int64_t last_panel,
                     std::int64_t first_token, std::int64_t last_token,
                     std::byte* scratch) = nullptr;
};

}  // namespace lowbit
