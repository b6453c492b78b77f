// SPDX-License-Identifier: Apache-2.0
// Random matrices directly in a scheme: codes by the gigabyte and scales of one sane size, without
// the search that rounding floats would take. For measuring speed: a product takes as long with
// these weights as with real ones, because no kernel's time depends on the numbers it meets.
#pragma once

#include <cstdint>

#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/quantized_tensor.h"

namespace lowbit {

/// (rows, cols) numbers, all finite, about as large as weights of a trained model (a root mean
/// square of 1 / sqrt(cols), within a factor of two). The same seed gives the same tensor whatever
/// the team. cols must be a multiple of required_multiple(scheme).
QuantizedTensor random_tensor(const Scheme& scheme, std::int64_t rows, std::int64_t cols,
                              std::uint64_t seed, ThreadPool& pool);

}  // namespace lowbit
