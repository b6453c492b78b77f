// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/grid_round.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

#include "lowbit/quant/grid_group.h"
#include "lowbit/quant/group_walk.h"
#include "lowbit/quant/stored_number.h"

namespace lowbit {
namespace {

/// What all threads share.
struct GridTask {
  GridTask(MatrixView w, const InputStats& stats, QuantizedTensor& tensor_, bool searched_)
      : walk(w, stats, tensor_),
        tensor(tensor_),
        grid(tensor_.scheme),
        scale(*tensor_.scale->scheme.code),
        searched(searched_) {
    if (tensor.scale->scale) super_scale.emplace(*tensor.scale->scale->scheme.code);
  }

  GroupWalk walk;
  QuantizedTensor& tensor;
  GridCode grid;
  StoredCode scale;
  std::optional<StoredCode> super_scale;
  bool searched;
};

/// 0 .. n - 1: the ends first, then the middles of what lies between those before. So most scales
/// are asked for between two neighbours, and where those have the same nearest row nothing is
/// searched (grid_search.h).
template <std::size_t n>
constexpr std::array<std::size_t, n> bisection_order() {
  std::array<std::size_t, n> order{0, n - 1};
  std::array<std::pair<std::size_t, std::size_t>, n> between{{{0, n - 1}}};
  std::size_t n_between = 1;
  for (std::size_t next = 0, at = 2; at < n; ++next) {
    const auto [first, last] = between[next];
    if (last - first < 2) continue;
    const std::size_t middle = (first + last) / 2;
    order[at++] = middle;
    if (middle - first > 1) between[n_between++] = {first, middle};
    if (last - middle > 1) between[n_between++] = {middle, last};
  }
  return order;
}

/// The groups that share a scale of scales; one group where there is none. Its numbers are worked
/// on times a power of two that brings them below 1: no square leaves the range of f32.
class GridBlock {
 public:
  explicit GridBlock(GridTask& task) : task_(task) {}

  void fit(std::int64_t row, std::int64_t first, std::int64_t n) {
    row_ = row;
    first_ = first;
    load(n);
    const float unit = task_.super_scale ? fit_unit() : fit_alone();
    store(unit);
  }

 private:
  struct Member {
    std::vector<float> x, weights;
    GridGroup group;
    float widest = 0, ideal = 0;
  };
  struct Solution {
    float unit = 0;  // the scale of scales as stored, times 2^-exponent
    std::vector<float> scales;
    double error = 0;
  };

  void load(std::int64_t n) {
    members_.resize(static_cast<std::size_t>(n));
    float widest = 0, heaviest = 0;
    for (std::int64_t g = 0; g < n; ++g) {
      Member& member = members_[static_cast<std::size_t>(g)];
      const GroupData data = task_.walk.group(row_, first_ + g, buffers_);
      member.x.assign(data.x.begin(), data.x.end());
      member.weights.assign(data.weights.begin(), data.weights.end());
      member.widest = 0;
      for (const float x : member.x) member.widest = std::max(member.widest, std::abs(x));
      for (const float w : member.weights) heaviest = std::max(heaviest, w);
      widest = std::max(widest, member.widest);
    }
    std::frexp(widest, &exponent_);
    constexpr int least_exponent = -120;  // 2^120 is a number
    exponent_ = std::max(exponent_, least_exponent);
    for (Member& member : members_) {
      for (float& x : member.x) x = std::ldexp(x, -exponent_);
      member.widest = std::ldexp(member.widest, -exponent_);
      // Columns that no input ever used decide nothing, but leave no vector without an error.
      constexpr float least_weight = 1e-6f;
      for (float& w : member.weights) {
        w = heaviest > 0 ? std::max(w / heaviest, least_weight) : 1.0f;
      }
      const float fullest = member.widest / task_.grid.largest();
      member.group.reset(task_.grid, member.x,
                         member.weights.empty() ? nullptr : member.weights.data(), fullest);
      member.ideal = task_.searched ? ideal_scale(member, fullest) : fullest;
    }
  }

  /// The scale of least error if it were stored exactly.
  static float ideal_scale(Member& member, float fullest) {
    double best_gain = 0;
    float best = 0;
    const auto consider = [&](float scale) {
      const GridGroup::Sums sums = member.group.at(scale);
      if (!(sums.p > 0 && sums.q > 0) || sums.p * sums.p / sums.q <= best_gain) return false;
      best_gain = sums.p * sums.p / sums.q;
      best = static_cast<float>(sums.p / sums.q);
      return true;
    };
    // The largest number reaches half of the grid's largest, up to a number four times too large.
    constexpr std::size_t n_scales = 27;
    constexpr float widest_scale = 2, step = 0.9231f;  // step^26 = 1/8
    static constexpr std::array order = bisection_order<n_scales>();
    if (fullest > 0) {
      std::array<float, n_scales> scales;
      scales[0] = fullest * widest_scale;
      for (std::size_t i = 1; i < n_scales; ++i) scales[i] = scales[i - 1] * step;
      for (const std::size_t i : order) consider(scales[i]);
    }
    constexpr int max_refits = 4;
    for (int i = 0; i < max_refits && best > 0 && consider(best); ++i) {
    }
    return best;
  }

  float stored_unit(float unit) const {
    return std::ldexp(task_.super_scale->nearest(std::ldexp(unit, exponent_)), -exponent_);
  }

  /// The best stored scale of every group under a unit.
  Solution solved(float unit) {
    Solution solution{.unit = unit, .scales = {}, .error = 0};
    const StoredNumber number(task_.scale, unit);
    const int reach = task_.searched ? 1 : 0;
    for (Member& member : members_) {
      float best = 0;
      double least = -1;
      number.for_each_around(member.ideal, reach, [&](float scale) {
        const double error = scale > 0 ? member.group.error(scale) : member.group.power();
        if (least < 0 || error < least) least = error, best = scale;
      });
      solution.scales.push_back(best);
      solution.error += least;
    }
    return solution;
  }

  /// Least squares of x ~ unit (c v) over all groups.
  float refitted_unit(const Solution& solution) {
    double p = 0, q = 0;
    for (std::size_t g = 0; g < members_.size(); ++g) {
      if (solution.scales[g] <= 0) continue;
      const GridGroup::Sums sums = members_[g].group.at(solution.scales[g]);
      const double c = static_cast<double>(solution.scales[g] / solution.unit);
      p += c * sums.p;
      q += c * c * sums.q;
    }
    return q > 0 ? static_cast<float>(p / q) : 0;
  }

  float fit_unit() {
    float widest = 0;
    for (const Member& member : members_) widest = std::max(widest, member.ideal);
    const float full = widest / task_.scale.largest();
    float unit = stored_unit(full);
    if (unit == 0 && full > 0) unit = std::ldexp(task_.super_scale->smallest(), -exponent_);
    best_ = solved(unit);
    if (!task_.searched || full == 0) return best_.unit;
    // Numbers far below what the smallest unit can say are best left out.
    if (Solution nothing = solved(0); nothing.error < best_.error) best_ = std::move(nothing);
    constexpr int n_steps = 16;
    constexpr float least = 0.88f, step = 0.03f;
    for (int i = 0; i < n_steps; ++i) {
      consider_unit(stored_unit(full * (least + step * static_cast<float>(i))));
    }
    constexpr int max_refits = 3;
    for (int i = 0; i < max_refits && best_.unit > 0; ++i) {
      if (!consider_unit(stored_unit(refitted_unit(best_)))) break;
    }
    return best_.unit;
  }

  bool consider_unit(float unit) {
    if (unit <= 0) return false;
    Solution solution = solved(unit);
    if (!(solution.error < best_.error)) return false;
    best_ = std::move(solution);
    return true;
  }

  /// Scales of one level: the unit is 2^-exponent.
  float fit_alone() {
    best_ = solved(std::ldexp(1.0f, -exponent_));
    return best_.unit;
  }

  void store(float unit) {
    if (task_.super_scale) {
      task_.tensor.scale->scale->codes.set(row_, first_ / task_.tensor.scale->group_cols(),
                                           task_.super_scale->code_of(std::ldexp(unit, exponent_)));
    }
    const StoredNumber number(task_.scale, unit);
    const auto dim = static_cast<std::int64_t>(task_.grid.dim());
    const std::int64_t group_cols = task_.tensor.group_cols(), cols = task_.tensor.cols;
    for (std::size_t g = 0; g < members_.size(); ++g) {
      const std::int64_t col = first_ + static_cast<std::int64_t>(g);
      const float scale = best_.scales[g];
      task_.tensor.scale->codes.set(row_, col, number.code_of(scale));
      Member& member = members_[g];
      codes_.resize(member.x.size() / task_.grid.dim());
      // A scale of 0 decodes to 0 whatever the codes are.
      member.group.codes_at(scale > 0 ? scale : 1.0f, codes_);
      const std::int64_t per_row = std::min(group_cols, cols - col * group_cols) / dim;
      const std::int64_t first_row = row_ * task_.tensor.group_rows();
      for (std::size_t i = 0; i < codes_.size(); ++i) {
        const auto at = static_cast<std::int64_t>(i);
        task_.tensor.codes.set(first_row + at / per_row, col * group_cols / dim + at % per_row,
                               codes_[i]);
      }
    }
  }

  GridTask& task_;
  std::int64_t row_ = 0, first_ = 0;
  int exponent_ = 0;
  GroupWalk::Buffers buffers_;
  std::vector<Member> members_;
  Solution best_;
  std::vector<std::uint32_t> codes_;
};

}  // namespace

bool is_grid(const Code& code) {
  return code.formula == nullptr && code.dim % 2 == 0 && !code.values.empty();
}

Status round_to_grid(MatrixView w, const InputStats& stats, QuantizedTensor& tensor, bool searched,
                     ThreadPool& pool) {
  if (tensor.zero || !tensor.scale) {
    return Error(
        fmt::format("scheme {}: a grid of vectors is written with scales and without "
                    "zeros only",
                    to_string(tensor.scheme)));
  }
  const bool two_level = tensor.scale->scale != nullptr;
  if (two_level && tensor.scale->scheme.group.rows == 0) {
    return Error(
        fmt::format("scheme {}: a grid of vectors is not written under one scale for the "
                    "whole tensor",
                    to_string(tensor.scheme)));
  }
  GridTask task(w, stats, tensor, searched);
  const std::int64_t n_members = two_level ? tensor.scale->group_cols() : 1;
  pool.parallel_for(task.walk.n_rows(), /*chunk=*/1,
                    [&](std::int64_t first, std::int64_t last, int) {
                      GridBlock block(task);
                      for (std::int64_t row = first; row < last; ++row) {
                        for (std::int64_t col = 0; col < task.walk.n_cols(); col += n_members) {
                          block.fit(row, col, std::min(n_members, task.walk.n_cols() - col));
                        }
                      }
                    });
  return ok();
}

}  // namespace lowbit
