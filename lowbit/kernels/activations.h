// SPDX-License-Identifier: Apache-2.0
// How activations enter a product: as they are, or as int8 with an f32 scale per group of a token's
// row.
#pragma once

#include <cstdint>

namespace lowbit {

/// f32: no quantization. Otherwise int8 with absmax scales (never stored, f32): one per 32 numbers,
/// per 256 numbers or per token.
enum class Activations : std::uint8_t { f32, int8_g32, int8_g256, int8_token };

}  // namespace lowbit
