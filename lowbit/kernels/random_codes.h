// SPDX-License-Identifier: Apache-2.0
// Tensors for tests whose codes, scales and zeros are any bits at all.
#pragma once

#include <cstdint>
#include <random>

#include "lowbit/formats/quantized_tensor.h"

namespace lowbit {

inline void fill(QuantizedTensor& tensor, std::mt19937& random) {
  for (std::int64_t r = 0; r < tensor.codes.n_rows(); ++r) {
    for (std::int64_t i = 0; i < tensor.codes.n_per_row(); ++i) {
      tensor.codes.set(r, i, static_cast<std::uint32_t>(random()));
    }
  }
  if (tensor.scale) fill(*tensor.scale, random);
  if (tensor.zero) fill(*tensor.zero, random);
}

}  // namespace lowbit
