// SPDX-License-Identifier: Apache-2.0
// Views that carry their shape. Row-major; `stride` counts elements from one row to the next.
#pragma once

#include <cstdint>
#include <span>

namespace lowbit {

template <class T>
struct Matrix {
  T* data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;

  Matrix() = default;
  Matrix(T* data_, std::int64_t rows_, std::int64_t cols_) : Matrix(data_, rows_, cols_, cols_) {}
  Matrix(T* data_, std::int64_t rows_, std::int64_t cols_, std::int64_t stride_)
      : data(data_), rows(rows_), cols(cols_), stride(stride_) {}

  T* row(std::int64_t r) const { return data + r * stride; }
  std::span<T> row_span(std::int64_t r) const { return {row(r), static_cast<std::size_t>(cols)}; }
  operator Matrix<const T>() const {
    return {data, rows, cols, stride};
  }  // NOLINT: implicit on purpose
};

using MatrixView = Matrix<const float>;
using MutableMatrixView = Matrix<float>;

}  // namespace lowbit
