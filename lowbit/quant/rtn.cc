// SPDX-License-Identifier: Apache-2.0
// Round to nearest: the scales (and zeros) are chosen group by group, then every number takes its
// nearest code. With two levels of scales the super-block is fitted as a whole: its scale of
// scales, the sub-scales around their own optimum, and the scale of scales again by least squares
// over all its numbers.
#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "lowbit/quant/group_fit.h"
#include "lowbit/quant/group_walk.h"
#include "lowbit/quant/rounder.h"
#include "lowbit/quant/sparse_ternary.h"

namespace lowbit {
namespace {

enum class Choice : std::uint8_t { extremes, search };

/// A plane of scales or zeros whose codes are set by value.
struct Plane {
  QuantizedTensor* tensor = nullptr;
  std::optional<CodeSearch> search;

  explicit Plane(QuantizedTensor* plane) : tensor(plane) {
    if (plane != nullptr) search.emplace(*plane->scheme.code);
  }
  void set(std::int64_t row, std::int64_t col, float value, float unit) {
    tensor->codes.set(row, col, search->nearest(unit == 0 ? 0.0f : value / unit));
  }
};

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
  const StoredNumber scale(*tensor.scale->scheme.code);
  const std::optional<StoredNumber> zero =
      tensor.zero ? std::optional<StoredNumber>(*tensor.zero->scheme.code) : std::nullopt;
  pool.parallel_for(walk.n_rows(), /*chunk=*/1, [&](std::int64_t first, std::int64_t last, int) {
    GroupWalk::Buffers buffers;
    Plane scales(tensor.scale.get()), zeros(tensor.zero.get());
    for (std::int64_t row = first; row < last; ++row) {
      for (std::int64_t col = 0; col < walk.n_cols(); ++col) {
        const GroupFit fit = fit_group(choice, walk.group(row, col, buffers), levels, tensor.scheme,
                                       scale, zero ? &*zero : nullptr, /*nonpositive=*/false);
        scales.set(row, col, fit.scale, 1);
        if (tensor.zero) zeros.set(row, col, fit.zero, 1);
      }
    }
  });
}

/// One super-block: the groups that share a scale of scales.
class SuperBlock {
 public:
  SuperBlock(Choice choice, const Levels& levels, QuantizedTensor& tensor)
      : choice_(choice),
        levels_(levels),
        tensor_(tensor),
        scales_(tensor.scale.get()),
        zeros_(tensor.zero.get()),
        super_scale_(*tensor.scale->scale->scheme.code) {}

  void fit(const GroupWalk& walk, std::int64_t row, std::int64_t super_col) {
    const std::int64_t n = tensor_.scale->group_cols();
    first_ = super_col * n;
    n_groups_ = std::min(n, walk.n_cols() - first_);
    groups_.clear();
    buffers_.resize(static_cast<std::size_t>(n_groups_));
    for (std::int64_t g = 0; g < n_groups_; ++g) {
      groups_.push_back(walk.group(row, first_ + g, buffers_[static_cast<std::size_t>(g)]));
    }
    ideal_ = ideal_fits();
    Solution best = solve(start_unit(&GroupFit::scale, *tensor_.scale),
                          tensor_.zero ? start_unit(&GroupFit::zero, *tensor_.zero) : 0);
    if (choice_ == Choice::search) {
      constexpr int max_rounds = 3;
      for (int i = 0; i < max_rounds; ++i) {
        const auto [unit, zero_unit] = refit_units(best);
        Solution next = solve(unit, zero_unit);
        if (next.error >= best.error) break;
        best = std::move(next);
      }
    }
    store(row, super_col, best);
  }

 private:
  struct Solution {
    float unit = 0, zero_unit = 0;
    std::vector<GroupFit> groups;
    double error = 0;
  };

  std::vector<GroupFit> ideal_fits() const {
    static const Code& exact = *parse_scheme("f32")->code;
    const StoredNumber any(exact);
    std::vector<GroupFit> fits;
    for (const GroupData& group : groups_) {
      fits.push_back(fit_group(choice_, group, levels_, tensor_.scheme, any,
                               tensor_.zero ? &any : nullptr,
                               /*nonpositive=*/tensor_.zero != nullptr));
    }
    return fits;
  }

  /// The unit that lets the widest ideal number reach the end of its code's range, as stored.
  float start_unit(float GroupFit::*field, const QuantizedTensor& plane) const {
    float widest = 0;
    for (const GroupFit& fit : ideal_) {
      if (std::abs(fit.*field) > std::abs(widest)) widest = fit.*field;
    }
    const std::vector<float> values = writable_values(*plane.scheme.code);
    const float low = values.front(), high = values.back();
    const float end = -low > high ? low : high;
    return super_scale_.nearest(widest / end);
  }

  Solution solve(float unit, float zero_unit) const {
    Solution solution{unit, zero_unit, {}, 0};
    const StoredNumber scale(*tensor_.scale->scheme.code, unit);
    const std::optional<StoredNumber> zero =
        tensor_.zero
            ? std::optional<StoredNumber>(std::in_place, *tensor_.zero->scheme.code, zero_unit)
            : std::nullopt;
    const int reach = choice_ == Choice::search ? 1 : 0;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      GroupFit best;
      best.error = -1;
      for (const float s : scale.around(ideal_[g].scale, reach)) {
        const std::vector<float> zeros =
            zero ? zero->around(ideal_[g].zero, reach) : std::vector<float>{0.0f};
        for (const float z : zeros) {
          const double error = group_error(groups_[g], levels_, s, 0, z);
          if (best.error < 0 || error < best.error) best = {s, z, error};
        }
      }
      solution.error += best.error;
      solution.groups.push_back(best);
    }
    return solution;
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
      for (std::size_t i = 0; i < groups_[g].x.size(); ++i) {
        const double x = static_cast<double>(groups_[g].x[i]);
        const double weight =
            groups_[g].weights.empty() ? 1 : static_cast<double>(groups_[g].weights[i]);
        const double a =
            c * static_cast<double>(levels_.nearest((groups_[g].x[i] - fit.zero) * inverse));
        aa += weight * a * a;
        ab += weight * a * m;
        bb += weight * m * m;
        ax += weight * a * x;
        bx += weight * m * x;
      }
    }
    const double determinant = aa * bb - ab * ab;
    double unit = static_cast<double>(solution.unit),
           zero_unit = static_cast<double>(solution.zero_unit);
    if (tensor_.zero && determinant > 0) {
      unit = (bb * ax - ab * bx) / determinant;
      zero_unit = (aa * bx - ab * ax) / determinant;
    } else if (aa > 0) {
      unit = (ax - ab * zero_unit) / aa;
    }
    return {super_scale_.nearest(static_cast<float>(unit)),
            super_scale_.nearest(static_cast<float>(zero_unit))};
  }

  void store(std::int64_t row, std::int64_t super_col, const Solution& solution) {
    Plane(tensor_.scale->scale.get()).set(row, super_col, solution.unit, 1);
    if (tensor_.zero) Plane(tensor_.zero->scale.get()).set(row, super_col, solution.zero_unit, 1);
    for (std::int64_t g = 0; g < n_groups_; ++g) {
      const GroupFit& fit = solution.groups[static_cast<std::size_t>(g)];
      scales_.set(row, first_ + g, fit.scale, solution.unit);
      if (tensor_.zero) zeros_.set(row, first_ + g, fit.zero, solution.zero_unit);
    }
  }

  Choice choice_;
  const Levels& levels_;
  QuantizedTensor& tensor_;
  Plane scales_, zeros_;
  StoredNumber super_scale_;
  std::int64_t first_ = 0, n_groups_ = 0;
  std::vector<GroupWalk::Buffers> buffers_;
  std::vector<GroupData> groups_;
  std::vector<GroupFit> ideal_;
};

/// One scale of scales for the whole tensor (nvfp4): it lets the widest group reach the end of the
/// scales' range, then every group finds its scale among those there are.
void fit_under_tensor_scale(Choice choice, MatrixView w, const InputStats& stats,
                            QuantizedTensor& tensor, ThreadPool& pool) {
  const GroupWalk walk(w, stats, tensor);
  const Levels levels(*tensor.scheme.code);
  float amax = 0;
  for (std::int64_t r = 0; r < w.rows; ++r) {
    for (const float value : w.row_span(r)) amax = std::max(amax, std::abs(value));
  }
  const StoredNumber scale_codes(*tensor.scale->scheme.code);
  const StoredNumber super(*tensor.scale->scale->scheme.code);
  const float unit = super.nearest(amax / (scale_codes.largest() * levels.high()));
  Plane(tensor.scale->scale.get()).set(0, 0, unit, 1);
  const StoredNumber scale(*tensor.scale->scheme.code, unit);
  pool.parallel_for(walk.n_rows(), /*chunk=*/1, [&](std::int64_t first, std::int64_t last, int) {
    GroupWalk::Buffers buffers;
    Plane scales(tensor.scale.get());
    for (std::int64_t row = first; row < last; ++row) {
      for (std::int64_t col = 0; col < walk.n_cols(); ++col) {
        const GroupFit fit = fit_group(choice, walk.group(row, col, buffers), levels, tensor.scheme,
                                       scale, nullptr, /*nonpositive=*/false);
        scales.set(row, col, fit.scale, unit);
      }
    }
  });
}

void fit_super_blocks(Choice choice, MatrixView w, const InputStats& stats, QuantizedTensor& tensor,
                      ThreadPool& pool) {
  const GroupWalk walk(w, stats, tensor);
  const Levels levels(*tensor.scheme.code);
  const std::int64_t n_super = tensor.scale->scale->cols;
  pool.parallel_for(walk.n_rows(), /*chunk=*/1, [&](std::int64_t first, std::int64_t last, int) {
    SuperBlock block(choice, levels, tensor);
    for (std::int64_t row = first; row < last; ++row) {
      for (std::int64_t super_col = 0; super_col < n_super; ++super_col)
        block.fit(walk, row, super_col);
    }
  });
}

Result<QuantizedTensor> round(Choice choice, MatrixView w, const InputStats& stats,
                              const Scheme& scheme, ThreadPool& pool) {
  for (std::int64_t r = 0; r < w.rows; ++r) {
    for (const float value : w.row_span(r)) {
      if (!std::isfinite(value)) {
        return Error(
            fmt::format("row {} holds a number that is not finite; the source is damaged", r));
      }
    }
  }
  if (w.stride != w.cols) return Error("a matrix to be quantized must be contiguous");
  const std::span<const float> numbers(w.data, static_cast<std::size_t>(w.rows * w.cols));
  if (is_plain_float(scheme)) return encode_plain(numbers, scheme, w.rows, w.cols);
  if (w.cols % scheme.code->dim != 0) {
    return Error(
        fmt::format("rows of {} numbers do not divide into codes of {}", w.cols, scheme.code->dim));
  }
  QuantizedTensor tensor(scheme, w.rows, w.cols);
  if (is_sparse_ternary(*scheme.code)) {
    round_sparse_ternary(w, stats, tensor, /*refit=*/choice == Choice::search, pool);
    return tensor;
  }
  if (scheme.code->dim != 1) {
    return Error(fmt::format("scheme {} has no encoder here; it can be read and run, not written",
                             to_string(scheme)));
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
  encode_with_scales(numbers, tensor);
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
