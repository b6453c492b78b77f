// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/group_sums.h"

#include <algorithm>

namespace lowbit {
namespace {

constexpr std::size_t run_numbers = 8 * n_lanes;  // summed in float

/// Calls add(x, weight) for all numbers four at a time, weight 0 beyond the end; end_run() between
/// runs.
template <bool kWeighted, class Add, class EndRun>
void for_each_lanes(const GroupData& group, Add&& add, EndRun&& end_run) {
  const std::size_t n = group.x.size();
  const float* x = group.x.data();
  const float* w = group.weights.data();
  const Lanes ones = all_lanes(1);
  for (std::size_t first = 0; first < n; first += run_numbers) {
    const std::size_t end = std::min(n, first + run_numbers);
    std::size_t i = first;
    for (; i + n_lanes <= end; i += n_lanes) {
      add(lanes_at(x + i), kWeighted ? lanes_at(w + i) : ones);
    }
    if (i < end) {
      constexpr float one[n_lanes] = {1, 1, 1, 1};
      add(lanes_at(x + i, end - i), lanes_at(kWeighted ? w + i : one, end - i));
    }
    end_run();
  }
}

template <bool kWeighted, class Kind>
Sums sums_of(const GroupData& group, const Kind& levels, const Rounding& rounding) {
  const Lanes inverse = all_lanes(rounding.inverse), shift = all_lanes(rounding.shift),
              code_zero = all_lanes(rounding.code_zero);
  LaneSum wv, wvv, wxv;
  for_each_lanes<kWeighted>(
      group,
      [&](Lanes x, Lanes weight) {
        const Lanes v = levels.nearest(x * inverse + shift) - code_zero;
        const Lanes weighted = weight * v;
        wv.add(weighted);
        wvv.add(weighted * v);
        wxv.add(weighted * x);
      },
      [&] {
        wv.end_run();
        wvv.end_run();
        wxv.end_run();
      });
  return {wv.total(), wvv.total(), wxv.total()};
}

template <bool kWeighted, class Kind>
double error_of(const GroupData& group, const Kind& levels, float scale, const Rounding& rounding,
                float offset) {
  const Lanes inverse = all_lanes(rounding.inverse), shift = all_lanes(rounding.shift),
              code_zero = all_lanes(rounding.code_zero);
  LaneSum error;
  for_each_lanes<kWeighted>(
      group,
      [&](Lanes x, Lanes weight) {
        const Lanes v = levels.nearest(x * inverse + shift) - code_zero;
        const Lanes difference = (x - all_lanes(offset)) - all_lanes(scale) * v;
        error.add(weight * (difference * difference));
      },
      [&] { error.end_run(); });
  return error.total();
}

}  // namespace

Sums rounded_sums(const GroupData& group, const Levels& levels, const Rounding& rounding) {
  return levels.visit([&](const auto& kind) {
    return group.weights.empty() ? sums_of<false>(group, kind, rounding)
                                 : sums_of<true>(group, kind, rounding);
  });
}

Totals totals_of(const GroupData& group) {
  LaneSum w, wx;
  const auto add = [&](Lanes x, Lanes weight) {
    w.add(weight);
    wx.add(weight * x);
  };
  const auto end_run = [&] {
    w.end_run();
    wx.end_run();
  };
  if (group.weights.empty()) {
    for_each_lanes<false>(group, add, end_run);
  } else {
    for_each_lanes<true>(group, add, end_run);
  }
  return {w.total(), wx.total()};
}

double group_error(const GroupData& group, const Levels& levels, float scale, float code_zero,
                   float offset) {
  const float inverse = scale == 0 ? 0 : 1 / scale;
  const Rounding rounding{inverse, code_zero - offset * inverse, code_zero};
  return levels.visit([&](const auto& kind) {
    return group.weights.empty() ? error_of<false>(group, kind, scale, rounding, offset)
                                 : error_of<true>(group, kind, scale, rounding, offset);
  });
}

}  // namespace lowbit
