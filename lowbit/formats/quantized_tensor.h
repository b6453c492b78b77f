// SPDX-License-Identifier: Apache-2.0
// The planar form of a quantized matrix: its codes, its scales and its zeros, each plane a matrix
// in a scheme of its own; and the one decoder that gives every format its meaning.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lowbit/formats/basis.h"
#include "lowbit/formats/scheme.h"

namespace lowbit {

/// n_rows rows of n_per_row codes of `width` bits (1..32), least significant bit first. A row
/// starts at a byte border, so that threads may fill different rows at once.
class CodeArray {
 public:
  CodeArray() = default;
  CodeArray(int width, std::int64_t n_rows, std::int64_t n_per_row);

  int width() const { return width_; }
  std::int64_t n_rows() const { return n_rows_; }
  std::int64_t n_per_row() const { return n_per_row_; }
  std::int64_t row_bytes() const { return row_bytes_; }

  std::uint32_t get(std::int64_t row, std::int64_t i) const;
  void set(std::int64_t row, std::int64_t i, std::uint32_t code);
  /// Codes [first, first + out.size()) of a row at once; out-of-row reads are a programmer's error.
  void unpack(std::int64_t row, std::int64_t first, std::span<std::uint32_t> out) const;
  void pack(std::int64_t row, std::int64_t first, std::span<const std::uint32_t> codes);
  /// The same through bytes, for width <= 8: a quarter of the memory traffic.
  void unpack(std::int64_t row, std::int64_t first, std::span<std::uint8_t> out) const;
  void pack(std::int64_t row, std::int64_t first, std::span<const std::uint8_t> codes);

  /// Bytes of one row: (row_bytes); the unused top bits of the last byte are zero.
  std::span<const std::byte> row(std::int64_t row) const;
  std::span<std::byte> row(std::int64_t row);

 private:
  template <class T>
  void unpack_any(std::int64_t row, std::int64_t first, std::span<T> out) const;
  template <class T>
  void pack_any(std::int64_t row, std::int64_t first, std::span<const T> codes);

  int width_ = 0;
  std::int64_t n_rows_ = 0, n_per_row_ = 0, row_bytes_ = 0;
  std::vector<std::byte> bytes_;  // padded so that an 8-byte read at the last code stays inside
};

struct QuantizedTensor {
  Scheme scheme;
  std::int64_t rows = 0, cols = 0;  // numbers; cols runs along the input (K)
  CodeArray codes;                  // (rows, cols / code.dim)
  std::unique_ptr<QuantizedTensor> scale,
      zero;          // (ceil(rows / group.rows), ceil(cols / group.cols))
  Basis input = {};  // of the inputs that the numbers multiply; decode() does not see it

  QuantizedTensor() = default;
  /// All codes zero. cols must be a multiple of code.dim; groups may be short at the end of a row.
  QuantizedTensor(const Scheme& scheme, std::int64_t rows, std::int64_t cols);

  std::int64_t group_rows() const;  // group.rows with 0 resolved to the extent
  std::int64_t group_cols() const;
  QuantizedTensor clone() const;
};

/// w = scale * (v - zero) or scale * v + zero; scales and zeros are decoded first by this same
/// rule; every operation rounds once to f32, no fma. Rows [first_row, first_row + n_rows); out:
/// (n_rows, cols) row-major f32.
void decode_rows(const QuantizedTensor& tensor, std::int64_t first_row, std::int64_t n_rows,
                 std::span<float> out);
std::vector<float> decode(const QuantizedTensor& tensor);

/// Nearest codes of w under the scales and zeros that `tensor` already holds: the step every
/// rounder ends with. w: (rows, cols) row-major f32. A scale of 0 stores the code nearest to the
/// zero. Vector codes are searched whole, so they are slow.
void encode_with_scales(std::span<const float> w, QuantizedTensor& tensor);
/// The same for rows [first_row, first_row + n_rows), so that threads may share a tensor. w:
/// (n_rows, cols) row-major f32.
void encode_rows_with_scales(std::span<const float> w, QuantizedTensor& tensor,
                             std::int64_t first_row, std::int64_t n_rows);

/// A plain float tensor (f32, f16, bf16) from numbers, nearest values.
QuantizedTensor encode_plain(std::span<const float> w, const Scheme& scheme, std::int64_t rows,
                             std::int64_t cols);

/// Whether every scale and zero decodes to a finite number.
bool has_finite_scales(const QuantizedTensor& tensor);

}  // namespace lowbit
