// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/group_fit.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace lowbit {
namespace {

constexpr std::size_t n_lanes = 8;
constexpr int max_refits = 4;

/// Sums over a group with v = nearest(x * inverse + shift).
struct Moments {
  double w = 0, wx = 0, wxx = 0, wv = 0, wvv = 0, wxv = 0;
};

// Lanes keep the additions independent, so that the compiler vectorises them; short runs in float
// are added up in double.
template <bool kUniform>
Moments moments_of(const GroupData& group, const Levels& levels, float inverse, float shift) {
  constexpr std::size_t run = 8 * n_lanes;
  static constexpr std::array<float, run> ones = [] {
    std::array<float, run> values{};
    values.fill(1.0f);
    return values;
  }();
  Moments sums;
  const std::size_t n = group.x.size();
  for (std::size_t first = 0; first < n; first += run) {
    const std::size_t n_run = std::min(run, n - first);
    const float* x = group.x.data() + first;
    const float* w = group.weights.empty() ? ones.data() : group.weights.data() + first;
    std::array<float, run> v;
    for (std::size_t i = 0; i < n_run; ++i) {
      if constexpr (kUniform) {
        v[i] = levels.nearest_uniform(x[i] * inverse + shift);
      } else {
        v[i] = levels.nearest(x[i] * inverse + shift);
      }
    }
    std::array<float, n_lanes> lw{}, lwx{}, lwxx{}, lwv{}, lwvv{}, lwxv{};
    const auto add = [&](std::size_t i, std::size_t lane) {
      const float wx = w[i] * x[i], wv = w[i] * v[i];
      lw[lane] += w[i];
      lwx[lane] += wx;
      lwxx[lane] += wx * x[i];
      lwv[lane] += wv;
      lwvv[lane] += wv * v[i];
      lwxv[lane] += wx * v[i];
    };
    std::size_t i = 0;
    for (; i + n_lanes <= n_run; i += n_lanes) {
      for (std::size_t lane = 0; lane < n_lanes; ++lane) add(i + lane, lane);
    }
    for (std::size_t lane = 0; i < n_run; ++i, ++lane) add(i, lane);
    for (std::size_t lane = 0; lane < n_lanes; ++lane) {
      sums.w += static_cast<double>(lw[lane]);
      sums.wx += static_cast<double>(lwx[lane]);
      sums.wxx += static_cast<double>(lwxx[lane]);
      sums.wv += static_cast<double>(lwv[lane]);
      sums.wvv += static_cast<double>(lwvv[lane]);
      sums.wxv += static_cast<double>(lwxv[lane]);
    }
  }
  return sums;
}

Moments moments(const GroupData& group, const Levels& levels, float inverse, float shift) {
  return levels.uniform() ? moments_of<true>(group, levels, inverse, shift)
                          : moments_of<false>(group, levels, inverse, shift);
}

/// sum w (x - s (v - z) - m)^2 from the sums.
double error_of(const Moments& m, double s, double code_zero, double offset) {
  const double constant = offset - s * code_zero;  // x ~ s v + constant
  const double error = m.wxx - 2 * s * m.wxv - 2 * constant * m.wx + s * s * m.wvv +
                       2 * s * constant * m.wv + constant * constant * m.w;
  return std::max(error, 0.0);
}

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

float inverse_of(float scale) {
  return scale == 0 ? 0 : 1 / scale;
}

/// Factors by which the extreme overshoots the code's range: 1 maps it to the last level, more
/// clips it. Few levels want much clipping (at 2 bits the best step of a Gaussian is about its
/// deviation).
std::vector<float> clip_factors(int n_levels) {
  struct Row {
    int n_levels;
    float most;
    int n_steps;
  };
  constexpr std::array rows{Row{4, 4.5f, 40},   Row{8, 2.8f, 36},      Row{16, 2.0f, 32},
                            Row{32, 1.6f, 28},  Row{64, 1.35f, 20},    Row{128, 1.2f, 14},
                            Row{256, 1.1f, 10}, Row{1 << 30, 1.05f, 6}};
  constexpr float least = 0.85f;
  const Row* row = rows.data();
  while (row->n_levels < n_levels) ++row;
  std::vector<float> factors;
  for (int i = 0; i <= row->n_steps; ++i) {
    factors.push_back(least + (row->most - least) * static_cast<float>(i) /
                                  static_cast<float>(row->n_steps));
  }
  return factors;
}

}  // namespace

std::vector<float> writable_values(const Code& code) {
  std::vector<float> values;
  for (const float value : code.values) {
    if (!std::isfinite(value)) continue;
    float written = 0;
    code.look_up(nearest_code(code, value), &written);
    if (written == value) values.push_back(value);
  }
  std::ranges::sort(values);
  const auto [first, last] = std::ranges::unique(values);
  values.erase(first, last);
  return values;
}

Levels::Levels(const Code& code) : search_(code) {
  const std::vector<float> values = writable_values(code);
  low_ = values.empty() ? 0 : values.front();
  high_ = values.empty() ? 0 : values.back();
  n_levels_ = static_cast<int>(values.size());
  const bool integers = std::ranges::all_of(values, [](float v) { return v == std::trunc(v); });
  uniform_ = integers && high_ - low_ + 1 == static_cast<float>(values.size());
}

StoredNumber::StoredNumber(const Code& code, float unit)
    : search_(code), sorted_(writable_values(code)), unit_(unit) {
  if (sorted_.empty()) {
    // A float of 16 or 32 bits: decoded by formula, no list of values.
    is_signed_ = true;
    largest_ = search_.value(search_.nearest(3.0e38f));
    return;
  }
  is_signed_ = sorted_.front() < 0;
  largest_ = sorted_.back();
  is_power_of_two_ = std::ranges::all_of(sorted_, [](float value) {
    int exponent = 0;
    return value > 0 && std::frexp(value, &exponent) == 0.5f;
  });
}

float StoredNumber::nearest(float value) const {
  return unit_ == 0 ? 0 : unit_ * search_.value(search_.nearest(value / unit_));
}

std::vector<float> StoredNumber::around(float value, int reach) const {
  if (unit_ == 0) return {0.0f};
  if (sorted_.empty()) return {nearest(value)};
  const float stored = search_.value(search_.nearest(value / unit_));
  const auto center = std::ranges::lower_bound(sorted_, stored) - sorted_.begin();
  std::vector<float> numbers;
  const auto last = static_cast<std::ptrdiff_t>(sorted_.size()) - 1;
  for (auto i = std::max<std::ptrdiff_t>(center - reach, 0); i <= std::min(center + reach, last);
       ++i) {
    numbers.push_back(unit_ * sorted_[static_cast<std::size_t>(i)]);
  }
  return numbers;
}

double group_error(const GroupData& group, const Levels& levels, float scale, float code_zero,
                   float offset) {
  const float inverse = inverse_of(scale);
  const Moments m = moments(group, levels, inverse, code_zero - offset * inverse);
  return error_of(m, static_cast<double>(scale), static_cast<double>(code_zero),
                  static_cast<double>(offset));
}

GroupFit fit_scale(const GroupData& group, const Levels& levels, const StoredNumber& scale) {
  const Extremes extremes = extremes_of(group.x);
  GroupFit best{.scale = scale.nearest(0), .zero = 0, .error = 0};
  if (extremes.widest == 0) return best;

  // Continuous: the inverse whose codes leave the least error once the scale is solved for.
  double best_gain = -1;
  float best_scale = 0;
  const auto consider = [&](float inverse) {
    const Moments m = moments(group, levels, inverse, 0);
    if (m.wvv <= 0) return;
    if (!scale.is_signed() && m.wxv < 0) return;
    const double gain = m.wxv * m.wxv / m.wvv;
    if (gain > best_gain) best_gain = gain, best_scale = static_cast<float>(m.wxv / m.wvv);
  };
  const bool symmetric = levels.low() == -levels.high();
  for (const float factor : clip_factors(levels.n_levels())) {
    if (levels.high() > 0) consider(levels.high() * factor / std::abs(extremes.widest));
    if (symmetric || levels.low() >= 0) continue;
    consider(levels.low() * factor / extremes.widest);
    if (scale.is_signed() && levels.high() > 0) consider(levels.high() * factor / extremes.widest);
  }
  for (int i = 0; i < max_refits && best_scale != 0; ++i) {
    const double gain = best_gain;
    consider(1 / best_scale);
    if (best_gain <= gain) break;
  }

  constexpr int reach = 6;  // e4m3 steps are 1/8 to 1/16: 0.55 to 1.9 of the centre
  best.error = -1;
  for (const float stored : scale.around(best_scale, reach)) {
    const double error = group_error(group, levels, stored, 0, 0);
    if (best.error < 0 || error < best.error) best.scale = stored, best.error = error;
  }
  return best;
}

GroupFit fit_offset(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                    const StoredNumber& zero, bool nonpositive) {
  Extremes extremes = extremes_of(group.x);
  if (nonpositive) extremes.low = std::min(extremes.low, 0.0f);
  const float range = extremes.high - extremes.low;
  GroupFit best;
  best.scale = scale.nearest(0);
  best.zero = zero.nearest(nonpositive ? std::min(extremes.low, 0.0f) : extremes.low);
  best.error = group_error(group, levels, best.scale, 0, best.zero);
  if (range == 0) return best;

  double best_error = -1;
  float best_scale = 0, best_zero = 0;
  const auto consider = [&](float inverse, float shift) {
    const Moments m = moments(group, levels, inverse, shift);
    const double determinant = m.w * m.wvv - m.wv * m.wv;
    double s = 0, offset = 0;
    if (determinant > 0) {
      s = (m.w * m.wxv - m.wx * m.wv) / determinant;
      offset = (m.wvv * m.wx - m.wv * m.wxv) / determinant;
    }
    if (determinant <= 0 || (nonpositive && offset > 0)) {
      offset = 0;
      s = m.wvv > 0 ? m.wxv / m.wvv : 0;
    }
    if (nonpositive && s < 0) return;
    const double error = error_of(m, s, 0, offset);
    if (best_error < 0 || error < best_error) {
      best_error = error;
      best_scale = static_cast<float>(s);
      best_zero = static_cast<float>(offset);
    }
  };
  const float levels_range = levels.high() - levels.low();
  const float middle = (extremes.low + extremes.high) / 2,
              level_middle = (levels.low() + levels.high()) / 2;
  for (const float factor : clip_factors(levels.n_levels())) {
    const float inverse = levels_range * factor / range;
    consider(inverse, levels.low() - extremes.low * inverse);
    consider(inverse, level_middle - middle * inverse);
  }
  for (int i = 0; i < max_refits && best_scale != 0; ++i) {
    const double error = best_error;
    consider(1 / best_scale, -best_zero / best_scale);
    if (best_error >= error) break;
  }

  constexpr int reach = 2;
  best.error = -1;
  for (const float stored : scale.around(best_scale, reach)) {
    // The offset that goes with this scale: the weighted mean of what the codes leave.
    const float inverse = inverse_of(stored);
    const Moments m = moments(group, levels, inverse, -best_zero * inverse);
    const double refit = m.w > 0 ? (m.wx - static_cast<double>(stored) * m.wv) / m.w : 0;
    for (const float target : {best_zero, static_cast<float>(refit)}) {
      for (float offset : zero.around(nonpositive ? std::min(target, 0.0f) : target, reach)) {
        if (nonpositive && offset > 0) continue;
        const double error = group_error(group, levels, stored, 0, offset);
        if (best.error < 0 || error < best.error) best = {stored, offset, error};
      }
    }
  }
  return best;
}

GroupFit fit_code_zero(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                       const StoredNumber& zero) {
  GroupFit best = minmax_code_zero(group, levels, scale, zero);
  const auto consider = [&](float start_scale, float code_zero) {
    float s = start_scale;
    for (int i = 0; i < max_refits && s != 0; ++i) {
      const float stored = scale.nearest(s);
      const double error = group_error(group, levels, stored, code_zero, 0);
      if (error < best.error) best = {stored, code_zero, error};
      const Moments m = moments(group, levels, 1 / s, code_zero);
      const double z = static_cast<double>(code_zero);
      const double square = m.wvv - 2 * z * m.wv + z * z * m.w;
      const float refit = square > 0 ? static_cast<float>((m.wxv - z * m.wx) / square) : 0.0f;
      if (refit == s) break;
      s = refit;
    }
  };
  const Extremes extremes = extremes_of(group.x);
  const float low = std::min(extremes.low, 0.0f), high = std::max(extremes.high, 0.0f);
  if (high == low) return best;
  const float levels_range = levels.high() - levels.low();
  constexpr int reach = 1;
  for (const float factor : clip_factors(levels.n_levels())) {
    const float s = (high - low) / (levels_range * factor);
    const float centred = (levels.low() + levels.high()) / 2 - (low + high) / (2 * s);
    for (const float target : {levels.low() - low / s, centred}) {
      const float clamped = std::clamp(target, levels.low(), levels.high());
      for (const float code_zero : zero.around(clamped, factor <= 1.2f ? reach : 0))
        consider(s, code_zero);
    }
  }
  return best;
}

GroupFit absmax_scale(const GroupData& group, const Levels& levels, const StoredNumber& scale) {
  const Extremes extremes = extremes_of(group.x);
  const float amax = std::abs(extremes.widest);
  constexpr int few_levels = 3;  // binary and ternary: the mean magnitude (BitNet b1.58, XNOR-Net)
  GroupFit fit;
  if (amax == 0) {
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
  fit.scale = scale.nearest((extremes.high - extremes.low) / (levels.high() - levels.low()));
  fit.zero = zero.nearest(extremes.low - levels.low() * fit.scale);
  fit.error = group_error(group, levels, fit.scale, 0, fit.zero);
  return fit;
}

GroupFit minmax_code_zero(const GroupData& group, const Levels& levels, const StoredNumber& scale,
                          const StoredNumber& zero) {
  const Extremes extremes = extremes_of(group.x);
  const float low = std::min(extremes.low, 0.0f), high = std::max(extremes.high, 0.0f);
  GroupFit fit;
  fit.scale = scale.nearest((high - low) / (levels.high() - levels.low()));
  fit.zero = zero.nearest(fit.scale == 0 ? 0.0f : levels.low() - low / fit.scale);
  fit.error = group_error(group, levels, fit.scale, fit.zero, 0);
  return fit;
}

}  // namespace lowbit
