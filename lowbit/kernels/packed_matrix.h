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
#include <span>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/slab_memory.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/formats/row_source.h"
#include "lowbit/kernels/activations.h"
#include "lowbit/kernels/matmul_kernels.h"

namespace lowbit {

struct PanelLayout;

/// What a packed matrix holds beyond what its scheme and shape say: what a pack cache keeps.
struct PackedParts {
  std::span<const std::byte> panels;                 // 64-byte aligned
  std::span<const float> row_scale, row_zero;        // (rows padded to 16), or empty
  std::span<const float> scale_values, zero_values;  // (256) numbers of one-byte factors, or empty
};

/// Changes whenever the bytes of panels change: pack caches of another version are not used.
inline constexpr std::uint32_t packed_layout_version = 1;

class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(PackedMatrix&&) = default;
  PackedMatrix& operator=(PackedMatrix&&) = default;

  /// A matrix whose panels stay where they are (a mapped file); `owner` keeps them alive. Errors:
  /// parts of other sizes than the scheme and the shape ask for.
  static Result<PackedMatrix> of_parts(const Scheme& scheme, std::int64_t rows, std::int64_t cols,
                                       const PackedParts& parts, std::shared_ptr<const void> owner);

  std::int64_t rows() const { return view_.rows; }  // outputs N
  std::int64_t cols() const { return view_.cols; }  // inputs K
  const Scheme& scheme() const { return scheme_; }
  /// Of the inputs that products read; whoever prepares them applies it.
  const Basis& input() const { return input_; }
  void set_input(const Basis& input) { input_ = input; }
  /// Memory the kernels read, padding included.
  std::int64_t n_bytes() const;
  const PanelView& view() const { return view_; }
  PackedParts parts() const;
  /// False when a scale, a zero or a plain float among the numbers is NaN or infinite.
  bool is_finite() const { return is_finite_; }

 private:
  friend class Packing;
  /// Takes the tables of the layout and sets every pointer of the view.
  void assemble(PanelLayout layout, std::shared_ptr<const std::byte> panels);

  Scheme scheme_;
  Basis input_;
  PanelView view_;  // its pointers lead to the members below, whose heap addresses never change
  std::shared_ptr<const std::byte> panels_;
  std::int64_t n_panels_bytes_ = 0;
  bool is_finite_ = true;
  std::vector<float> row_scale_, row_zero_, row_product_;
  std::vector<std::int32_t> row_zero_code_;
  std::vector<float> values_, scale_values_, zero_values_;
  std::vector<std::uint8_t> lut_;
};

/// Errors: a group that is not 0 or 16, 32, 64, ... inputs long; more than 2^31 / 2^15 inputs under
/// integer codes. Panels come from `memory`, or from the heap where that is null.
Result<PackedMatrix> pack(const QuantizedTensor& w, ThreadPool& pool, SlabMemory* memory = nullptr);
/// The same, reading the rows of a panel just before it is packed.
Result<PackedMatrix> pack(const RowSource& w, ThreadPool& pool, SlabMemory* memory = nullptr);

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
