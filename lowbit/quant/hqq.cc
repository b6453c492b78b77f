// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/hqq.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <optional>

#include "lowbit/quant/codebook.h"
#include "lowbit/quant/group_walk.h"

namespace lowbit {
namespace {

/// The published settings: p = 0.7, the weight of the split and its growth per step, steps.
constexpr float p_norm = 0.7f, first_split_weight = 10, split_growth = 1.01f;
constexpr int most_steps = 20;
/// Steps end when the mean error falls by less than this share.
constexpr double least_progress = 1e-3;

/// x^(p - 1) for x >= 0 to 4 %, exact enough for a threshold: the bits of a float are its logarithm
/// but for a linear piece within each octave. Finite for 0.
Lanes power_below_one(Lanes x) {
  constexpr float exponent = p_norm - 1, one_bits = 0x3f800000;
  const Lanes bits = __builtin_convertvector(std::bit_cast<LaneBits>(x), Lanes);
  const Lanes power = bits * all_lanes(exponent) + all_lanes(one_bits * (1 - exponent));
  return std::bit_cast<Lanes>(__builtin_convertvector(power, LaneBits));
}

/// Weighted sums over a group in code units: y = x / s, v its codes, t = y - r what is left without
/// the outliers.
struct SplitSums {
  double w = 0, v = 0, vv = 0, t = 0, tv = 0;
  double distance = 0;  // sum w |y - (v - z)|
};

template <class Kind>
SplitSums split_sums(const Kind& kind, const GroupData& group, float inverse_scale, float code_zero,
                     float split_weight) {
  const std::span<const float> x = group.x;
  constexpr std::size_t run_numbers = 8 * n_lanes;
  const Lanes inverse = all_lanes(inverse_scale), zero = all_lanes(code_zero),
              threshold = all_lanes(1 / split_weight);
  LaneSum w, v, vv, t, tv, distance;
  const auto add = [&](Lanes numbers, Lanes weight) {
    constexpr std::int32_t sign_mask = INT32_MIN;
    const Lanes y = numbers * inverse, code = kind.nearest(y + zero);
    const Lanes error = y - (code - zero);
    const LaneBits bits = std::bit_cast<LaneBits>(error);
    const Lanes magnitude = std::bit_cast<Lanes>(bits & ~sign_mask);
    const Lanes power = power_below_one(magnitude);
    const Lanes outlier = most(magnitude - power * threshold, Lanes{});
    const Lanes rest =
        y - std::bit_cast<Lanes>(std::bit_cast<LaneBits>(outlier) | (bits & sign_mask));
    w.add(weight);
    v.add(weight * code);
    vv.add(weight * code * code);
    t.add(weight * rest);
    tv.add(weight * rest * code);
    distance.add(weight * magnitude);
  };
  for (std::size_t first = 0; first < x.size(); first += run_numbers) {
    const std::size_t end = std::min(x.size(), first + run_numbers);
    std::size_t i = first;
    const float* weights = group.weights.empty() ? nullptr : group.weights.data() + i;
    for (; i + n_lanes <= end; i += n_lanes) {
      add(lanes_at(x.data() + i), weights == nullptr ? all_lanes(1) : lanes_at(weights));
      if (weights != nullptr) weights += n_lanes;
    }
    if (i < end) {
      constexpr float ones[n_lanes] = {1, 1, 1, 1};
      add(lanes_at(x.data() + i, end - i), lanes_at(weights == nullptr ? ones : weights, end - i));
    }
    for (LaneSum* sum : {&w, &v, &vv, &t, &tv, &distance}) sum->end_run();
  }
  return {w.total(), v.total(), vv.total(), t.total(), tv.total(), distance.total()};
}

enum class ZeroKind : std::uint8_t { none, integer, real };

/// x ~ scale (v - zero), zero in code units; error: sum w |x - decoded|.
struct Fit {
  float scale = 0, zero = 0;
  double error = 0;
};

class Solver {
 public:
  Solver(const Levels& levels, ZeroKind zero, bool has_signed_scales)
      : levels_(levels), zero_(zero), has_signed_scales_(has_signed_scales) {}

  /// As if scale and zero were stored exactly; an integer zero is one.
  Fit solve(const GroupData& group) const {
    const Fit first = start(group.x);
    Fit fit = descend(group, first, zero_ != ZeroKind::none);
    if (zero_ != ZeroKind::integer || fit.scale == 0) return fit;
    // Rounding the zero may cost more than the steps won.
    const auto rounded = [&](float zero) {
      return std::clamp(std::round(zero), levels_.low(), levels_.high());
    };
    const float solved = rounded(fit.zero), unmoved = rounded(first.zero);
    fit.zero =
        error(group, fit.scale, solved) <= error(group, fit.scale, unmoved) ? solved : unmoved;
    return fit;
  }

  double error(const GroupData& group, float scale, float zero) const {
    if (scale == 0) return split(group, 1, zero, first_split_weight).distance;
    return split(group, 1 / scale, zero, first_split_weight).distance *
           static_cast<double>(std::abs(scale));
  }

 private:
  /// The extremes of the group on the ends of the code's range.
  Fit start(std::span<const float> x) const {
    const auto [least, most] = std::ranges::minmax(x);
    constexpr int few_levels = 3;  // binary and ternary: the mean magnitude
    if (zero_ == ZeroKind::none && levels_.n_levels() <= few_levels) {
      double sum = 0;
      for (const float value : x) sum += static_cast<double>(std::abs(value));
      return {.scale = static_cast<float>(sum / static_cast<double>(x.size()))};
    }
    if (zero_ == ZeroKind::none) {
      if (!has_signed_scales_ || levels_.is_symmetric()) {
        const float below = levels_.low() < 0 ? least / levels_.low() : 0;
        const float above = levels_.high() > 0 ? most / levels_.high() : 0;
        return {.scale = std::max(below, above)};
      }
      // The end of the range that is farther from 0 takes the number that is.
      const float widest = -least > most ? least : most;
      const float end = -levels_.low() > levels_.high() ? levels_.low() : levels_.high();
      return {.scale = widest / end};
    }
    const float low = std::min(least, 0.0f), high = std::max(most, 0.0f);
    const float scale = (high - low) / (levels_.high() - levels_.low());
    if (scale == 0) return {};
    const float middle = (low + high) / 2, level_middle = (levels_.low() + levels_.high()) / 2;
    return {.scale = scale, .zero = level_middle - middle / scale};
  }

  Fit descend(const GroupData& group, Fit fit, bool moves_zero) const {
    Fit best;
    float split_weight = first_split_weight;
    for (int step = 0; step < most_steps; ++step, split_weight *= split_growth) {
      constexpr float smallest = 0x1p-100f;
      if (!(std::abs(fit.scale) > smallest) || !std::isfinite(fit.zero)) break;
      const SplitSums sums =
          split(group, 1 / fit.scale, fit.zero, split_weight * weight_units(fit.scale));
      fit.error = sums.distance * static_cast<double>(std::abs(fit.scale));
      if (step > 0 && !(fit.error < best.error)) break;
      const bool is_slow = step > 0 && fit.error > best.error * (1 - least_progress);
      best = fit;
      if (is_slow) break;
      if (moves_zero) {  // y - r = v - z
        fit.zero = static_cast<float>((sums.v - sums.t) / sums.w);
        continue;
      }
      const double factor = sums.vv > 0 ? sums.tv / sums.vv : 0;  // y - r = factor v
      if (!(factor > 0)) break;
      fit.scale = static_cast<float>(static_cast<double>(fit.scale) * factor);
    }
    return best;
  }

  /// The weight of the split for errors in steps of the code that is 1 for errors in the unit of
  /// the weights, as published: scale^(2 - p).
  static float weight_units(float scale) {
    const float size = std::abs(scale);
    return size / power_below_one(all_lanes(size))[0];
  }

  SplitSums split(const GroupData& group, float inverse, float zero, float split_weight) const {
    return levels_.visit(
        [&](const auto& kind) { return split_sums(kind, group, inverse, zero, split_weight); });
  }

  const Levels& levels_;
  ZeroKind zero_;
  bool has_signed_scales_;
};

/// The fit with numbers that can be stored, in the unit of the scheme's zero.
Fit stored_fit(const Solver& solver, const GroupData& group, const Fit& ideal,
               const StoredNumber& scale, const StoredNumber* zero, ZeroUnit unit) {
  constexpr int reach = 1;
  Fit best{.error = -1};
  scale.for_each_around(ideal.scale, reach, [&](float stored) {
    const auto consider = [&](float stored_zero) {
      const float code_zero = zero == nullptr || stored == 0 ? 0
                              : unit == ZeroUnit::code       ? stored_zero
                                                             : -stored_zero / stored;
      const double error = solver.error(group, stored, code_zero);
      if (std::isfinite(stored) && std::isfinite(stored_zero) &&
          (best.error < 0 || error < best.error)) {
        best = {stored, stored_zero, error};
      }
    };
    if (zero == nullptr) return consider(0);
    zero->for_each_around(unit == ZeroUnit::code ? ideal.zero : -ideal.zero * stored, reach,
                          consider);
  });
  return best;
}

ZeroKind zero_kind_of(const Scheme& scheme) {
  if (scheme.zero == nullptr) return ZeroKind::none;
  return scheme.zero_unit == ZeroUnit::code && scheme.zero->code->formula == nullptr
             ? ZeroKind::integer
             : ZeroKind::real;
}

/// The number that lets the widest of `numbers` reach the end of a code's range, as stored.
float unit_for(std::span<const float> numbers, const StoredCode& code, const StoredCode& super) {
  float widest = 0;
  for (const float number : numbers) {
    if (std::abs(number) > std::abs(widest)) widest = number;
  }
  const float ideal = widest / code.far_end(), unit = super.nearest(ideal);
  return unit == 0 && widest != 0 ? std::copysign(super.smallest(), ideal) : unit;
}

class HalfQuadratic {
 public:
  HalfQuadratic(MatrixView w, const InputStats& stats, QuantizedTensor& tensor)
      : tensor_(tensor),
        walk_(w, stats, tensor),
        levels_(*tensor.scheme.code),
        scale_code_(*tensor.scale->scheme.code),
        solver_(levels_, zero_kind_of(tensor.scheme), scale_code_.is_signed()) {
    if (tensor.zero) zero_code_.emplace(*tensor.zero->scheme.code);
    if (tensor.scale->scale) super_code_.emplace(*tensor.scale->scale->scheme.code);
  }

  void run(ThreadPool& pool) {
    const bool has_tensor_unit = super_code_ && tensor_.scale->scheme.group == Group{0, 0};
    if (has_tensor_unit) return run_under_tensor_unit(pool);
    const std::int64_t per_unit = super_code_ ? tensor_.scale->group_cols() : 1;
    pool.parallel_for(walk_.n_rows(), /*chunk=*/1, [&](std::int64_t first, std::int64_t last, int) {
      std::vector<GroupWalk::Buffers> buffers(static_cast<std::size_t>(per_unit));
      for (std::int64_t row = first; row < last; ++row) {
        for (std::int64_t col = 0; col < walk_.n_cols(); col += per_unit) {
          fit_unit(row, col, std::min(per_unit, walk_.n_cols() - col), buffers);
        }
      }
    });
  }

 private:
  /// Groups [col, col + n) of a row, which share a scale of scales where there is one.
  void fit_unit(std::int64_t row, std::int64_t col, std::int64_t n,
                std::vector<GroupWalk::Buffers>& buffers) {
    std::vector<Fit> fits;
    std::vector<float> scales, zeros;
    std::vector<GroupData> groups;
    for (std::int64_t g = 0; g < n; ++g) {
      groups.push_back(walk_.group(row, col + g, buffers[static_cast<std::size_t>(g)]));
      fits.push_back(solver_.solve(groups.back()));
      scales.push_back(fits.back().scale);
      zeros.push_back(-fits.back().zero * fits.back().scale);
    }
    float unit = 1, zero_unit = 1;
    if (super_code_) {
      const std::int64_t super_col = col / tensor_.scale->group_cols();
      unit = unit_for(scales, scale_code_, *super_code_);
      tensor_.scale->scale->codes.set(row, super_col, super_code_->code_of(unit));
      if (zero_code_) {
        zero_unit = unit_for(zeros, *zero_code_, *super_code_);
        tensor_.zero->scale->codes.set(row, super_col, super_code_->code_of(zero_unit));
      }
    }
    for (std::int64_t g = 0; g < n; ++g) {
      const auto at = static_cast<std::size_t>(g);
      store(row, col + g, groups[at], fits[at], unit, zero_unit);
    }
  }

  void store(std::int64_t row, std::int64_t col, const GroupData& group, const Fit& ideal,
             float unit, float zero_unit) {
    const StoredNumber scale(scale_code_, unit);
    const std::optional<StoredNumber> zero =
        zero_code_ ? std::optional<StoredNumber>(StoredNumber(*zero_code_, zero_unit))
                   : std::nullopt;
    const Fit fit =
        stored_fit(solver_, group, ideal, scale, zero ? &*zero : nullptr, tensor_.scheme.zero_unit);
    tensor_.scale->codes.set(row, col, scale.code_of(fit.scale));
    if (zero) tensor_.zero->codes.set(row, col, zero->code_of(fit.zero));
  }

  /// nvfp4: the widest group reaches the end of the scales' range.
  void run_under_tensor_unit(ThreadPool& pool) {
    std::vector<Fit> fits(static_cast<std::size_t>(walk_.n_rows() * walk_.n_cols()));
    const auto at = [&](std::int64_t row, std::int64_t col) -> Fit& {
      return fits[static_cast<std::size_t>(row * walk_.n_cols() + col)];
    };
    walk_.for_each(pool, [&](std::int64_t row, std::int64_t col, const GroupData& group) {
      at(row, col) = solver_.solve(group);
    });
    std::vector<float> scales;
    for (const Fit& fit : fits) scales.push_back(fit.scale);
    const float unit = unit_for(scales, scale_code_, *super_code_);
    tensor_.scale->scale->codes.set(0, 0, super_code_->code_of(unit));
    walk_.for_each(pool, [&](std::int64_t row, std::int64_t col, const GroupData& group) {
      store(row, col, group, at(row, col), unit, 1);
    });
  }

  QuantizedTensor& tensor_;
  GroupWalk walk_;
  Levels levels_;
  StoredCode scale_code_;
  Solver solver_;
  std::optional<StoredCode> zero_code_, super_code_;
};

}  // namespace

Result<QuantizedTensor> round_half_quadratic(MatrixView w, const InputStats& stats,
                                             const Scheme& scheme, ThreadPool& pool) {
  if (is_plain_float(scheme)) return round_to_nearest(w, {}, scheme, pool);
  if (scheme.code->dim != 1 || scheme.scale == nullptr) {
    return Error(
        fmt::format("hqq solves for the scales of codes of one number, which {} has not; "
                    "rtn:{} rounds it",
                    to_string(scheme), to_string(scheme)));
  }
  if (Status status = check_numbers(w); !status) return std::move(status).error();
  const auto learned = with_learned_table(w, {}, scheme, pool);
  if (!learned) return Error(learned.error());
  QuantizedTensor tensor(*learned, w.rows, w.cols);
  HalfQuadratic(w, stats, tensor).run(pool);
  encode_under_scales(w, tensor, pool);
  return tensor;
}

}  // namespace lowbit
