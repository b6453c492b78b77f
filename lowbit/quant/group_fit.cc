// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/group_fit.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace lowbit {
namespace {

constexpr int max_refits = 4;

/// Numbers below this are zeros: their squares and the inverses of their scales leave the range of
/// f32.
constexpr float negligible = 0x1p-60f;

struct Extremes {
  float low = 0, high = 0;  // of the numbers
  float widest = 0;         // the number of largest magnitude, with its sign
};

Extremes extremes_of(std::span<const float> x) {
  Extremes e;
  if (x.empty()) return e;
  e.low = e.high = x[0];
  for (const float value : x) {
    e.low = std::min(e.low, value);
    e.high = std::max(e.high, value);
  }
  e.widest = -e.low > e.high ? e.low : e.high;
  return e;
}

/// Factors by which the extreme overshoots the code's range: 1 maps it to the last level, more
/// clips it. Few levels want much clipping (at 2 bits the best step of a Gaussian is about its
/// deviation).
class ClipFactors {
 public:
  explicit ClipFactors(int n_levels) {
    constexpr std::array rows{Row{4, 4.5f, 41},   Row{8, 2.8f, 37},      Row{16, 2.0f, 33},
                              Row{32, 1.6f, 29},  Row{64, 1.35f, 21},    Row{128, 1.2f, 15},
                              Row{256, 1.1f, 11}, Row{1 << 30, 1.05f, 7}};
    row_ = *std::ranges::find_if(rows, [&](const Row& row) { return n_levels <= row.n_levels; });
  }
  int size() const { return row_.n_factors; }
  float operator[](int i) const {
    return least +
           (row_.most - least) * static_cast<float>(i) / static_cast<float>(row_.n_factors - 1);
  }

 private:
  static constexpr float least = 0.85f;
  struct Row {
    int n_levels;
    float most;
    int n_factors;
  };
  Row row_;
};

}  // namespace

GroupFit fit_scale(const GroupData& group, const Levels& levels, const StoredNumber& scale) {
  GroupFit best = absmax_scale(group, levels, scale);
  const float widest = extremes_of(group.x).widest;
  if (std::abs(widest) < negligible) return best;

  // Continuous: the inverse whose codes leave the least error once the scale is solved for.
  double best_gain = 0;
  float best_scale = 0;
  const auto consider = [&](float inverse) {
    const Sums sums = rounded_sums(group, levels, {.inverse = inverse});
    if (sums.wvv <= 0 || (!scale.is_signed() && sums.wxv < 0)) return;
    const double gain = sums.wxv * sums.wxv / sums.wvv;
    if (gain <= best_gain) return;
    best_gain = gain;
    best_scale = static_cast<float>(sums.wxv / sums.wvv);
  };
  const ClipFactors factors(levels.n_levels());
  for (int i = 0; i < factors.size(); ++i) {
    // Either end of the code's range for the widest number: the scale takes the sign.
    const float up = levels.high() * factors[i] / widest, down = levels.low() * factors[i] / widest;
    if (levels.is_symmetric()) {
      consider(std::abs(up));
      continue;
    }
    if (up > 0 || scale.is_signed()) consider(up);
    if (down > 0 || scale.is_signed()) consider(down);
  }
  for (int i = 0; i < max_refits && best_scale != 0; ++i) {
    const double gain = best_gain;
    consider(1 / best_scale);
    if (best_gain <= gain) break;
  }

  constexpr int reach = 6;  // e4m3 steps are 1/8 to 1/16: 0.55 to 1.9 of the centre
  scale.for_each_around(best_scale, reach, [&](float stored) {
    const double error = group_error(group, levels, stored, 0, 0);
    if (error < best.error) best = {stored, 0, error};
  });
  return best;
}

GroupFit fit_offset(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                    const StoredNumber& zero, bool nonpositive) {
  GroupFit best = minmax_offset(group, levels, scale, zero, nonpositive);
  Extremes extremes = extremes_of(group.x);
  if (nonpositive) extremes.low = std::min(extremes.low, 0.0f);
  const float range = extremes.high - extremes.low;
  if (!(range >= negligible)) return best;

  const Totals totals = totals_of(group);
  double best_gain = 0;  // by how much the error is below sum w x^2
  float best_scale = 0, best_zero = 0;
  const auto consider = [&](float inverse, float shift) {
    const Sums sums = rounded_sums(group, levels, {inverse, shift});
    const double determinant = totals.w * sums.wvv - sums.wv * sums.wv;
    double s = 0, offset = 0;
    if (determinant > 0) {
      s = (totals.w * sums.wxv - totals.wx * sums.wv) / determinant;
      offset = (sums.wvv * totals.wx - sums.wv * sums.wxv) / determinant;
    }
    if (determinant <= 0 || (nonpositive && offset > 0)) {
      offset = 0;
      s = sums.wvv > 0 ? sums.wxv / sums.wvv : 0;
    }
    if (nonpositive && s < 0) return;
    const double gain = s * (2 * sums.wxv - s * sums.wvv - 2 * offset * sums.wv) +
                        offset * (2 * totals.wx - offset * totals.w);
    if (gain <= best_gain) return;
    best_gain = gain;
    best_scale = static_cast<float>(s);
    best_zero = static_cast<float>(offset);
  };
  const float levels_range = levels.high() - levels.low();
  const float middle = (extremes.low + extremes.high) / 2,
              level_middle = (levels.low() + levels.high()) / 2;
  const ClipFactors factors(levels.n_levels());
  for (int i = 0; i < factors.size(); ++i) {
    const float inverse = levels_range * factors[i] / range;
    consider(inverse, levels.low() - extremes.low * inverse);
    consider(inverse, level_middle - middle * inverse);
  }
  for (int i = 0; i < max_refits && best_scale != 0; ++i) {
    const double gain = best_gain;
    consider(1 / best_scale, -best_zero / best_scale);
    if (best_gain <= gain) break;
  }

  constexpr int reach = 2;
  scale.for_each_around(best_scale, reach, [&](float stored) {
    if (stored == 0) return;
    // The offset that goes with this scale: the weighted mean of what the codes leave.
    const Sums sums = rounded_sums(group, levels, {1 / stored, -best_zero / stored});
    const double refit = (totals.wx - static_cast<double>(stored) * sums.wv) / totals.w;
    for (const float target : {best_zero, static_cast<float>(refit)}) {
      zero.for_each_around(nonpositive ? std::min(target, 0.0f) : target, reach, [&](float offset) {
        if (nonpositive && offset > 0) return;
        const double error = group_error(group, levels, stored, 0, offset);
        if (error < best.error) best = {stored, offset, error};
      });
    }
  });
  return best;
}

GroupFit fit_code_zero(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                       const StoredNumber& zero) {
  GroupFit best = minmax_code_zero(group, levels, scale, zero);
  const Extremes extremes = extremes_of(group.x);
  const float low = std::min(extremes.low, 0.0f), high = std::max(extremes.high, 0.0f);
  if (!(high - low >= negligible)) return best;

  double best_gain = 0;
  float best_scale = 0, best_zero = 0;
  const auto consider = [&](float inverse, float code_zero) {
    const Sums sums = rounded_sums(group, levels, {inverse, code_zero, code_zero});
    if (sums.wvv <= 0 || sums.wxv <= 0) return;
    const double gain = sums.wxv * sums.wxv / sums.wvv;
    if (gain <= best_gain) return;
    best_gain = gain;
    best_scale = static_cast<float>(sums.wxv / sums.wvv);
    best_zero = code_zero;
  };
  const auto stored_zero = [&](float target) {
    return zero.nearest(std::clamp(target, levels.low(), levels.high()));
  };
  const float levels_range = levels.high() - levels.low();
  const ClipFactors factors(levels.n_levels());
  for (int i = 0; i < factors.size(); ++i) {
    const float inverse = levels_range * factors[i] / (high - low);
    consider(inverse, stored_zero(levels.low() - low * inverse));
    consider(inverse, stored_zero((levels.low() + levels.high()) / 2 - (low + high) / 2 * inverse));
  }
  constexpr int reach = 1;
  for (int i = 0; i < max_refits && best_scale != 0; ++i) {
    const double gain = best_gain;
    const float inverse = 1 / best_scale;
    zero.for_each_around(best_zero, reach, [&](float code_zero) { consider(inverse, code_zero); });
    if (best_gain <= gain) break;
  }
  scale.for_each_around(best_scale, reach, [&](float stored) {
    const double error = group_error(group, levels, stored, best_zero, 0);
    if (error < best.error) best = {stored, best_zero, error};
  });
  return best;
}

GroupFit absmax_scale(const GroupData& group, const Levels& levels, const StoredNumber& scale) {
  const Extremes extremes = extremes_of(group.x);
  const float amax = std::abs(extremes.widest);
  constexpr int few_levels = 3;  // binary and ternary: the mean magnitude (BitNet b1.58, XNOR-Net)
  GroupFit fit;
  if (amax < negligible) {
    fit.scale = scale.nearest(0);
  } else if (levels.n_levels() <= few_levels && levels.high() > 0) {
    double sum = 0;
    for (const float value : group.x) sum += static_cast<double>(std::abs(value));
    fit.scale = scale.nearest(static_cast<float>(sum / static_cast<double>(group.x.size())));
  } else if (scale.is_power_of_two()) {
    // OCP MX: the exponent of the largest number minus that of the largest value.
    int exponent = 0, top = 0;
    std::frexp(amax, &exponent);
    std::frexp(levels.high(), &top);
    fit.scale = scale.nearest(std::ldexp(1.0f, exponent - top));
  } else if (levels.high() > 0) {
    fit.scale = scale.nearest(
        amax / std::min(levels.high(), levels.low() < 0 ? -levels.low() : levels.high()));
  } else {
    fit.scale = scale.nearest(extremes.widest / levels.low());
  }
  fit.error = group_error(group, levels, fit.scale, 0, 0);
  return fit;
}

GroupFit minmax_offset(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                       const StoredNumber& zero, bool nonpositive) {
  Extremes extremes = extremes_of(group.x);
  if (nonpositive) {
    extremes.low = std::min(extremes.low, 0.0f);
    extremes.high = std::max(extremes.high, 0.0f);
  }
  GroupFit fit;
  const float levels_range = levels.high() - levels.low();  // twice: the range may leave f32
  fit.scale = scale.nearest(extremes.high / levels_range - extremes.low / levels_range);
  fit.zero = zero.nearest(extremes.low - levels.low() * fit.scale);
  fit.error = group_error(group, levels, fit.scale, 0, fit.zero);
  return fit;
}

GroupFit minmax_code_zero(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                          const StoredNumber& zero) {
  const Extremes extremes = extremes_of(group.x);
  const float low = std::min(extremes.low, 0.0f), high = std::max(extremes.high, 0.0f);
  GroupFit fit;
  const float levels_range = levels.high() - levels.low();
  fit.scale = scale.nearest(high / levels_range - low / levels_range);
  fit.zero = zero.nearest(fit.scale == 0 ? 0.0f : levels.low() - low / fit.scale);
  fit.error = group_error(group, levels, fit.scale, fit.zero, 0);
  return fit;
}

}  // namespace lowbit
