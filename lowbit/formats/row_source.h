// SPDX-License-Identifier: Apache-2.0
// A quantized matrix that is read a few rows at a time: packing it needs no planar form of the
// whole, whose fresh memory costs more than the bytes that are copied through it.
#pragma once

#include <cstdint>
#include <functional>

#include "lowbit/formats/quantized_tensor.h"

namespace lowbit {

struct RowSource {
  Scheme scheme;
  std::int64_t rows = 0, cols = 0;
  /// Rows [first, first + n_rows) in planar form. `out` is empty or what an earlier call left,
  /// whose memory is used again. Threads call it at once; it cannot fail.
  std::function<void(std::int64_t first, std::int64_t n_rows, QuantizedTensor& out)> read;
};

}  // namespace lowbit
