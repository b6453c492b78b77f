// SPDX-License-Identifier: Apache-2.0
// Angles of rotary position embedding: position p turns pair j by p * frequency[j]. Frequencies and
// angles are double (at position 10^5 a float angle is off by 0.01), their cosines and sines our
// own polynomials, the same on every CPU.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lowbit/model/config.h"

namespace lowbit {

/// (head_dim / 2) radians per position, scaling included.
std::vector<double> rope_frequencies(const ModelConfig& config);

/// cos, sin: (positions.size(), frequencies.size()) row-major.
void rope_angles(std::span<const double> frequencies, std::span<const std::int64_t> positions,
                 std::span<float> cos, std::span<float> sin);

}  // namespace lowbit
