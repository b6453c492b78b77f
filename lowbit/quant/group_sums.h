// SPDX-License-Identifier: Apache-2.0
// The sums over a group that every search for a scale runs on, once per scale it tries: about 4
// instructions a number for evenly spaced levels.
#pragma once

#include <span>

#include "lowbit/quant/levels.h"

namespace lowbit {

/// One group: its numbers and the weights of their squared errors (same length; empty: all 1).
struct GroupData {
  std::span<const float> x, weights;
};

/// How numbers become codes: v = nearest(x * inverse + shift) - code_zero.
struct Rounding {
  float inverse = 0, shift = 0, code_zero = 0;
};

struct Sums {
  double wv = 0, wvv = 0, wxv = 0;
};
Sums rounded_sums(const GroupData& group, const Levels& levels, const Rounding& rounding);

/// sum w and sum w x.
struct Totals {
  double w = 0, wx = 0;
};
Totals totals_of(const GroupData& group);

/// Weighted squared error of x ~ scale * (v - code_zero) + offset with nearest codes.
double group_error(const GroupData& group, const Levels& levels, float scale, float code_zero,
                   float offset);

}  // namespace lowbit
