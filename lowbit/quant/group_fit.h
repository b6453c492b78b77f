// SPDX-License-Identifier: Apache-2.0
// The scale (and zero) of one group of numbers. Every search is the same idea: try scales on a
// grid, round to codes, and solve for the scale that is best for these codes in closed form; with
// sums
//   A = sum w x v,  B = sum w v^2
// the best scale is A / B and leaves the error sum w x^2 - A^2 / B (llama.cpp's make_qx_quants;
// docs/design.md). Stored precision is respected: the value returned is one that the scale's code
// has.
#pragma once

#include "lowbit/quant/group_sums.h"
#include "lowbit/quant/stored_number.h"

namespace lowbit {

/// scale and zero in the unit of the scheme; error is the weighted squared error with both as
/// stored.
struct GroupFit {
  float scale = 0, zero = 0;
  double error = 0;
};

/// x ~ scale * v.
GroupFit fit_scale(const GroupData& group, const Levels& levels, const StoredNumber& scale);
/// x ~ scale * v + zero. With `nonpositive` the zero is at most 0 and the scale at least 0, as the
/// K types store them.
GroupFit fit_offset(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                    const StoredNumber& zero, bool nonpositive);
/// x ~ scale * (v - zero), zero an integer of the code's range or a real number.
GroupFit fit_code_zero(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                       const StoredNumber& zero);

/// The same three from the extremes of the group instead of a search.
GroupFit absmax_scale(const GroupData& group, const Levels& levels, const StoredNumber& scale);
GroupFit minmax_offset(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                       const StoredNumber& zero, bool nonpositive);
GroupFit minmax_code_zero(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                          const StoredNumber& zero);

}  // namespace lowbit
