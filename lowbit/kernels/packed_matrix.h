// SPDX-License-Identifier: Apache-2.0
// A weight matrix as the kernels read it, made once at load. Layout P16x4: panels of 16 outputs; a
// panel is one stream of chunks, a chunk is the scales (and zeros) of its groups, then tiles of 32
// inputs. A tile holds bit planes (4, 2 and 1 bits; 8 as bytes); one 64-byte row of a plane holds 4
// consecutive inputs of all 16 outputs, 8 / bits such quads stacked in the bit fields of its bytes:
//   4 bits: byte 4 * output + i = quad 2j in the low nibble, quad 2j + 1 in the high one.
// Every output is one vector lane, so no kernel ever sums across lanes.
//
// Codes are renumbered while packing: integers of a narrow range are stored from their least value
// up ("linear"), other tables of at most 64 numbers as an index ("lut"), grids of several numbers
// per code as an index into their distinct numbers. Scales keep their own precision (f16 stays
// f16).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/kernels/activations.h"
#include "lowbit/kernels/matmul_kernels.h"

namespace lowbit {

class PackedMatrix {
 public:
  PackedMatrix() = default;

  std::int64_t rows() const { return view_.rows; }  // outputs N
  std::int64_t cols() const { return view_.cols; }  // inputs K
  const Scheme& scheme() const { return scheme_; }
  /// Memory the kernels read, padding included.
  std::int64_t n_bytes() const { return n_bytes_; }
  const PanelView& view() const { return view_; }

 private:
  friend class Packer;

  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  Scheme scheme_;
  PanelView view_;  // its pointers lead to the members below, whose heap addresses never change
  std::int64_t n_bytes_ = 0;
  std::unique_ptr<std::byte[], Free> panels_;
  std::vector<float> row_scale_, row_zero_, row_product_;
  std::vector<std::int32_t> row_zero_code_;
  std::vector<float> values_, scale_values_, zero_values_;
  std::vector<std::uint8_t> lut_;
};

/// Errors: a group that is not 0 or 16, 32, 64, ... inputs long; more than 2^31 / 2^15 inputs under
/// integer codes.
Result<PackedMatrix> pack(const QuantizedTensor& w, ThreadPool& pool);

/// The numbers of one output, bit-equal to decode(): embeddings are read from the panels. out:
/// (cols).
void unpack_row(const PackedMatrix& w, std::int64_t row, float* out);

/// Whether products of this scheme with these activations are defined: int8 needs codes that are
/// small integers of one unit, and a type whose block is 256 (K types, tq) needs one activation
/// scale per 256 or per token, not per 32.
Status check_activations(const Scheme& scheme, Activations activations);
Status check_activations(const PackedMatrix& w, Activations activations);

/// int8_g32; int8_g256 for types whose block is 256; f32 for codes without small integers.
Activations default_activations(const Scheme& scheme);

/// "f32", "int8.g32", "int8.g256", "int8.token".
std::string_view name_of(Activations activations);

/// Inputs per activation scale; 0: the whole token.
std::int64_t group_of(Activations activations);

}  // namespace lowbit
