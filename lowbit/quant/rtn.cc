// SPDX-License-Identifier: Apache-2.0
// Round to nearest: the scales (and zeros) are chosen group by group, then every number takes its
// nearest code. With two levels of scales the super-block is fitted as a whole: its scale of
// scales, the sub-scales around their own optimum, and the scale of scales again by least squares
// over all its numbers.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "lowbit/quant/codebook.h"
#include "lowbit/quant/grid_round.h"
#include "lowbit/quant/group_fit.h"
#include "lowbit/quant/group_walk.h"
#include "lowbit/quant/rounder.h"
#include "lowbit/quant/sparse_ternary.h"

namespace lowbit {
namespace {

enum class Choice : std::uint8_t { extremes, search };

GroupFit fit_group(Choice choice, const GroupData& group, const Levels& levels,
                   const Scheme& scheme, const StoredNumber& scale, const StoredNumber* zero,
                   bool nonpositive) {
  const bool searched = choice == Choice::search;
  if (zero == nullptr) {
    return searched ? fit_scale(group, levels, scale) : absmax_scale(group, levels, scale);
  }
  if (scheme.zero_unit == ZeroUnit::weight) {
    return searched ? fit_offset(group, levels, scale, *zero, nonpositive)
                    : minmax_offset(group, levels, scale, *zero, nonpositive);
  }
  return searched ? fit_code_zero(group, levels, scale, *zero)
                  : minmax_code_zero(group, levels, scale, *zero);
}

void fit_one_level(Choice choice, MatrixView w, const InputStats& stats, QuantizedTensor& tensor,
                   ThreadPool& pool) {
  const GroupWalk walk(w, stats, tensor);
  const Levels levels(*tensor.scheme.code);
  const StoredCode scale_code(*tensor.scale->scheme.code);
  const StoredNumber scale(scale_code);
  const std::optional<StoredCode> zero_code =
      tensor.zero ? std::optional<StoredCode>(*tensor.zero->scheme.code) : std::nullopt;
  const std::optional<StoredNumber> zero =
      zero_code ? std::optional<StoredNumber>(*zero_code) : std::nullopt;
  walk.for_each(pool, [&](std::int64_t row, std::int64_t col, const GroupData& group) {
    const GroupFit fit = fit_group(choice, group, levels, tensor.scheme, scale,
                                   zero ? &*zero : nullptr, /*nonpositive=*/false);
    tensor.scale->codes.set(row, col, scale.code_of(fit.scale));
    if (zero) tensor.zero->codes.set(row, col, zero->code_of(fit.zero));
  });
}

/// The codes of a tensor whose scales (and zeros) are codes under a scale of scales.
struct TwoLevels {
  explicit TwoLevels(const QuantizedTensor& tensor)
      : levels(*tensor.scheme.code),
        scale(*tensor.scale->scheme.code),
        super_scale(*tensor.scale->scale->scheme.code),
        exact(*parse_scheme("f32")->code) {
    if (tensor.zero) zero.emplace(*tensor.zero->scheme.code);
  }

  Levels levels;
  StoredCode scale, super_scale, exact;
  std::optional<StoredCode> zero;
};

/// One super-block: the groups that share a scale of scales.
class SuperBlock {
 public:
  SuperBlock(Choice choice, const TwoLevels& codes, QuantizedTensor& tensor)
      : choice_(choice), codes_(codes), tensor_(tensor) {}

  void fit(const GroupWalk& walk, std::int64_t row, std::int64_t super_col) {
    const std::int64_t n = tensor_.scale->group_cols();
    first_ = super_col * n;
    n_groups_ = std::min(n, walk.n_cols() - first_);
    groups_.clear();
    buffers_.resize(static_cast<std::size_t>(n_groups_));
    for (std::int64_t g = 0; g < n_groups_; ++g) {
      groups_.push_back(walk.group(row, first_ + g, buffers_[static_cast<std::size_t>(g)]));
    }
    find_ideal_fits();
    const float unit = start_unit(&GroupFit::scale, codes_.scale),
                zero_unit = codes_.zero ? start_unit(&GroupFit::zero, *codes_.zero) : 0;
    solve(unit, zero_unit, best_);
    if (choice_ == Choice::search) {
      refine(best_);
      // Sub-scales fall otherwise under another unit: 0.5 to 1.5 % less error for two more starts.
      for (const float factor : {0.97f, 1.03f}) {
        solve(codes_.super_scale.nearest(unit * factor),
              codes_.super_scale.nearest(zero_unit * factor), other_);
        refine(other_);
        if (other_.error < best_.error) std::swap(best_, other_);
      }
    }
    store(row, super_col, best_);
  }

 private:
  struct Solution {
    float unit = 0, zero_unit = 0;
    std::vector<GroupFit> groups;
    double error = 0;
  };

  /// In turns: the units by least squares, the stored scales and zeros under them.
  void refine(Solution& solution) {
    constexpr int max_rounds = 3;
    for (int i = 0; i < max_rounds; ++i) {
      const auto [unit, zero_unit] = refit_units(solution);
      solve(unit, zero_unit, next_);
      if (!(next_.error < solution.error)) break;
      std::swap(solution, next_);
    }
  }

  /// Scales and zeros as if they were stored exactly.
  void find_ideal_fits() {
    const StoredNumber any(codes_.exact);
    ideal_.clear();
    for (const GroupData& group : groups_) {
      ideal_.push_back(fit_group(choice_, group, codes_.levels, tensor_.scheme, any,
                                 codes_.zero ? &any : nullptr,
                                 /*nonpositive=*/codes_.zero.has_value()));
    }
  }

  /// The unit that lets the widest ideal number reach the end of its code's range, as stored; not
  /// 0 as long as its smallest multiples may hold something.
  float start_unit(float GroupFit::*field, const StoredCode& code) const {
    float widest = 0;
    for (const GroupFit& fit : ideal_) {
      if (std::abs(fit.*field) > std::abs(widest)) widest = fit.*field;
    }
    const float ideal = widest / code.far_end(), unit = codes_.super_scale.nearest(ideal);
    return unit == 0 && widest != 0 ? std::copysign(codes_.super_scale.smallest(), ideal) : unit;
  }

  void solve(float unit, float zero_unit, Solution& solution) const {
    solution.unit = unit;
    solution.zero_unit = zero_unit;
    solution.groups.clear();
    solution.error = 0;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      solution.groups.push_back(fit_stored(groups_[g], ideal_[g], unit, zero_unit));
      solution.error += solution.groups.back().error;
    }
  }

  /// The best of the stored scales and zeros around the ideal ones.
  GroupFit fit_stored(const GroupData& group, const GroupFit& ideal, float unit,
                      float zero_unit) const {
    const int reach = choice_ == Choice::search ? 1 : 0;
    GroupFit best{.scale = 0, .zero = 0, .error = -1};
    StoredNumber(codes_.scale, unit).for_each_around(ideal.scale, reach, [&](float scale) {
      const auto consider = [&](float zero) {
        const double error = group_error(group, codes_.levels, scale, 0, zero);
        if (best.error < 0 || error < best.error) best = {scale, zero, error};
      };
      if (!codes_.zero) return consider(0);
      StoredNumber(*codes_.zero, zero_unit).for_each_around(ideal.zero, reach, consider);
    });
    return best;
  }

  /// Least squares of x ~ d (c v) + e m over the super-block, c and m the codes of `solution`.
  std::pair<float, float> refit_units(const Solution& solution) const {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const GroupFit& fit = solution.groups[g];
      if (fit.scale == 0 && fit.zero == 0) continue;
      const double c = solution.unit == 0 ? 0 : static_cast<double>(fit.scale / solution.unit);
      const double m =
          solution.zero_unit == 0 ? 0 : static_cast<double>(fit.zero / solution.zero_unit);
      const float inverse = fit.scale == 0 ? 0 : 1 / fit.scale;
      const Sums sums = rounded_sums(groups_[g], codes_.levels, {inverse, -fit.zero * inverse});
      aa += c * c * sums.wvv;
      ax += c * sums.wxv;
      if (!codes_.zero) continue;
      const Totals totals = totals_of(groups_[g]);
      ab += c * m * sums.wv;
      bb += m * m * totals.w;
      bx += m * totals.wx;
    }
    const double determinant = aa * bb - ab * ab;
    double unit = static_cast<double>(solution.unit),
           zero_unit = static_cast<double>(solution.zero_unit);
    if (determinant > 0) {
      unit = (bb * ax - ab * bx) / determinant;
      zero_unit = (aa * bx - ab * ax) / determinant;
    } else if (aa > 0) {
      unit = (ax - ab * zero_unit) / aa;
    }
    return {codes_.super_scale.nearest(static_cast<float>(unit)),
            codes_.super_scale.nearest(static_cast<float>(zero_unit))};
  }

  void store(std::int64_t row, std::int64_t super_col, const Solution& solution) {
    store_plane(*tensor_.scale, codes_.scale, row, super_col, solution, solution.unit,
                &GroupFit::scale);
    if (!codes_.zero) return;
    store_plane(*tensor_.zero, *codes_.zero, row, super_col, solution, solution.zero_unit,
                &GroupFit::zero);
  }

  void store_plane(QuantizedTensor& plane, const StoredCode& code, std::int64_t row,
                   std::int64_t super_col, const Solution& solution, float unit,
                   float GroupFit::*field) const {
    plane.scale->codes.set(row, super_col, codes_.super_scale.code_of(unit));
    const StoredNumber stored(code, unit);
    for (std::int64_t g = 0; g < n_groups_; ++g) {
      const GroupFit& fit = solution.groups[static_cast<std::size_t>(g)];
      plane.codes.set(row, first_ + g, stored.code_of(fit.*field));
    }
  }

  Choice choice_;
  const TwoLevels& codes_;
  QuantizedTensor& tensor_;
  std::int64_t first_ = 0, n_groups_ = 0;
  std::vector<GroupWalk::Buffers> buffers_;
  std::vector<GroupData> groups_;
  std::vector<GroupFit> ideal_;
  Solution best_, next_, other_;
};

/// One scale of scales for the whole tensor (nvfp4): the one that lets the widest group reach the
/// end of the scales' range or, searched, stay below it, so that it can choose too; then every
/// group finds its scale among those there are.
void fit_under_tensor_scale(Choice choice, MatrixView w, const InputStats& stats,
                            QuantizedTensor& tensor, ThreadPool& pool) {
  const GroupWalk walk(w, stats, tensor);
  const Levels levels(*tensor.scheme.code);
  float amax = 0;
  for (std::int64_t r = 0; r < w.rows; ++r) {
    for (const float value : w.row_span(r)) amax = std::max(amax, std::abs(value));
  }
  const StoredCode scale_code(*tensor.scale->scheme.code);
  const StoredCode super_code(*tensor.scale->scale->scheme.code);
  const float tightest = super_code.nearest(amax / (scale_code.largest() * levels.high()));
  const auto error_under = [&](float candidate) {
    constexpr std::int64_t n_voters = 64;  // rows
    const std::int64_t step = std::max<std::int64_t>(walk.n_rows() / n_voters, 1);
    const StoredNumber stored(scale_code, candidate);
    std::vector<double> errors(static_cast<std::size_t>((walk.n_rows() + step - 1) / step), 0.0);
    pool.parallel_for(static_cast<std::int64_t>(errors.size()), /*chunk=*/1,
                      [&](std::int64_t first, std::int64_t last, int) {
                        GroupWalk::Buffers buffers;
                        for (std::int64_t i = first; i < last; ++i) {
                          double& error = errors[static_cast<std::size_t>(i)];
                          for (std::int64_t col = 0; col < walk.n_cols(); ++col) {
                            error += fit_group(choice, walk.group(i * step, col, buffers), levels,
                                               tensor.scheme, stored, nullptr,
                                               /*nonpositive=*/false)
                                         .error;
                          }
                        }
                      });
    return std::accumulate(errors.begin(), errors.end(), 0.0);
  };
  float unit = tightest;
  if (choice == Choice::search && tightest > 0) {
    double least = error_under(tightest);
    for (const float factor : {1.25f, 1.5f, 1.75f}) {
      const float candidate = super_code.nearest(tightest * factor);
      const double error = error_under(candidate);
      if (error < least) least = error, unit = candidate;
    }
  }
  tensor.scale->scale->codes.set(0, 0, super_code.code_of(unit));
  const StoredNumber scale(scale_code, unit);
  walk.for_each(pool, [&](std::int64_t row, std::int64_t col, const GroupData& group) {
    const GroupFit fit = fit_group(choice, group, levels, tensor.scheme, scale, nullptr,
                                   /*nonpositive=*/false);
    tensor.scale->codes.set(row, col, scale.code_of(fit.scale));
  });
}

void fit_super_blocks(Choice choice, MatrixView w, const InputStats& stats, QuantizedTensor& tensor,
                      ThreadPool& pool) {
  const GroupWalk walk(w, stats, tensor);
  const TwoLevels codes(tensor);
  const std::int64_t n_super = tensor.scale->scale->cols;
  pool.parallel_for(walk.n_rows(), /*chunk=*/1, [&](std::int64_t first, std::int64_t last, int) {
    SuperBlock block(choice, codes, tensor);
    for (std::int64_t row = first; row < last; ++row) {
      for (std::int64_t super_col = 0; super_col < n_super; ++super_col)
        block.fit(walk, row, super_col);
    }
  });
}

Status check_input(MatrixView w, const InputStats& stats) {
  if (Status status = check_numbers(w); !status) return status;
  const std::span<const float> weights = stats.mean_square;
  if (weights.empty()) return ok();
  if (static_cast<std::int64_t>(weights.size()) != w.cols) {
    return Error(
        fmt::format("the calibration knows {} columns, the matrix has {}", weights.size(), w.cols));
  }
  if (!std::ranges::all_of(weights,
                           [](float value) { return std::isfinite(value) && value >= 0; })) {
    return Error("the calibration holds a mean square that is negative or not finite");
  }
  return ok();
}

Result<QuantizedTensor> round(Choice choice, MatrixView w, const InputStats& stats,
                              const Scheme& scheme, ThreadPool& pool) {
  if (Status checked = check_input(w, stats); !checked) return std::move(checked).error();
  const std::span<const float> numbers(w.data, static_cast<std::size_t>(w.rows * w.cols));
  if (is_plain_float(scheme)) return encode_plain(numbers, scheme, w.rows, w.cols);
  if (scheme.code->is_learned && scheme.code->owner == nullptr) {
    if (scheme.zero || !scheme.scale || scheme.scale->scale) {
      return Error(
          fmt::format("scheme {}: a table is learned under scales of one level and without "
                      "zeros only",
                      to_string(scheme)));
    }
    if (w.cols % scheme.code->dim == 0) {
      auto learned = with_learned_table(w, stats, scheme, pool);
      if (!learned) return std::move(learned).error();
      return round(choice, w, stats, *learned, pool);
    }
  }
  if (w.cols % scheme.code->dim != 0) {
    return Error(
        fmt::format("rows of {} numbers do not divide into codes of {}", w.cols, scheme.code->dim));
  }
  QuantizedTensor tensor(scheme, w.rows, w.cols);
  if (tensor.scale && tensor.group_cols() % scheme.code->dim != 0) {
    return Error(fmt::format("scheme {}: groups of {} numbers do not divide into codes of {}",
                             to_string(scheme), tensor.group_cols(), scheme.code->dim));
  }
  if (is_sparse_ternary(*scheme.code)) {
    round_sparse_ternary(w, stats, tensor, /*refit=*/choice == Choice::search, pool);
    return tensor;
  }
  if (is_grid(*scheme.code)) {
    Status rounded = round_to_grid(w, stats, tensor, /*searched=*/choice == Choice::search, pool);
    if (!rounded) return std::move(rounded).error();
    return tensor;
  }
  if (scheme.code->dim != 1) {
    return Error(fmt::format("scheme {} has no encoder: its vectors have {} numbers",
                             to_string(scheme), scheme.code->dim));
  }
  if (!scheme.scale) {
    return Error(fmt::format("scheme {} has no scale to choose", to_string(scheme)));
  }
  if (tensor.scale->scale == nullptr) {
    fit_one_level(choice, w, stats, tensor, pool);
  } else if (tensor.scale->scheme.group == Group{0, 0}) {
    fit_under_tensor_scale(choice, w, stats, tensor, pool);
  } else {
    fit_super_blocks(choice, w, stats, tensor, pool);
  }
  encode_under_scales(w, tensor, pool);
  return tensor;
}

}  // namespace

Result<QuantizedTensor> round_to_nearest(MatrixView w, const InputStats& stats,
                                         const Scheme& scheme, ThreadPool& pool) {
  return round(Choice::search, w, stats, scheme, pool);
}

Result<QuantizedTensor> round_absmax(MatrixView w, const InputStats& stats, const Scheme& scheme,
                                     ThreadPool& pool) {
  return round(Choice::extremes, w, stats, scheme, pool);
}

}  // namespace lowbit
