// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/gptq_pass.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "lowbit/quant/gptq_tile.h"
#include "lowbit/quant/gptq_vectors.h"
#include "lowbit/quant/grid_round.h"
#include "lowbit/quant/group_fit.h"

namespace lowbit {
namespace {

using Block = ColumnBlock;

constexpr std::int64_t rows_per_tile = gptq_tile_rows;

std::size_t index(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

/// One matrix on its way to codes. All arrays over columns are in the order of the visit.
class Gptq {
 public:
  Gptq(MatrixView w, const Scheme& scheme, const GptqOptions& options, MatrixView hessian,
       const TriangularFactor& factor, const ColumnOrder& order, FloatProducts& products,
       ThreadPool& pool)
      : w_(w),
        options_(options),
        hessian_(hessian),
        factor_(factor),
        order_(order),
        products_(products),
        pool_(pool),
        tensor_(scheme, w.rows, w.cols),
        scale_code_(*scheme.scale->code),
        n_groups_(static_cast<std::int64_t>(order.groups.size())) {
    if (scheme.zero) zero_code_.emplace(*scheme.zero->code);
    if (is_grid(*scheme.code)) {
      grid_.emplace(scheme);
      codes_.assign(index(w.rows * tensor_.codes.n_per_row()), 0u);
    } else {
      levels_.emplace(*scheme.code);
    }
    const auto n = index(w.rows * w.cols), n_scales = index(w.rows * n_groups_);
    numbers_.resize(n);
    errors_.assign(n, 0.0f);
    values_.resize(n);
    scales_.assign(n_scales, 0.0f);
    zeros_.assign(n_scales, 0.0f);
    pool_.parallel_for(w_.rows, rows_per_tile, [&](std::int64_t first, std::int64_t last, int) {
      for (std::int64_t r = first; r < last; ++r) {
        float* row = numbers().row(r);
        for (std::int64_t k = 0; k < w_.cols; ++k) row[k] = w_.row(r)[order_.column[index(k)]];
      }
    });
  }

  Result<QuantizedTensor> run() {
    if (Status status = choose_units(); !status) return std::move(status).error();
    const std::vector<Block> blocks = cut_into_blocks(order_, gptq_block_cols, has_units_);
    for (const Block& block : blocks) {
      if (Status status = round_block(block); !status) return std::move(status).error();
    }
    for (int i = 0; i < options_.n_sweeps; ++i) {
      for (const Block& block : blocks) improve_block(block);
    }
    store();
    return std::move(tensor_);
  }

 private:
  MutableMatrixView numbers() { return {numbers_.data(), w_.rows, w_.cols}; }
  MutableMatrixView errors() { return {errors_.data(), w_.rows, w_.cols}; }
  MutableMatrixView values() { return {values_.data(), w_.rows, w_.cols}; }
  float& scale(std::int64_t row, std::int64_t group) {
    return scales_[index(row * n_groups_ + group)];
  }
  float& zero(std::int64_t row, std::int64_t group) {
    return zeros_[index(row * n_groups_ + group)];
  }
  bool is_two_level() const { return tensor_.scale->scale != nullptr; }
  bool has_offset() const {
    return tensor_.zero != nullptr && tensor_.scheme.zero_unit == ZeroUnit::weight;
  }

  /// What is fitted once for all columns: scales that rows share, and the scale of all scales.
  Status choose_units() {
    is_fixed_ = tensor_.group_rows() != 1;
    const bool one_unit = is_two_level() && tensor_.scale->scheme.group == Group{0, 0};
    has_units_ = grid_ || (is_two_level() && !one_unit);
    if (!is_fixed_ && !one_unit) {
      if (is_two_level()) {
        const std::int64_t n = w_.rows * static_cast<std::int64_t>(order_.units.size());
        unit_scales_.assign(index(n), 0.0f);
        unit_zeros_.assign(index(n), 0.0f);
      }
      return ok();
    }
    std::vector<float> weights(index(w_.cols));
    for (std::int64_t k = 0; k < w_.cols; ++k) {
      weights[index(order_.column[index(k)])] = factor_.pivots[index(k)];
    }
    auto fitted = round_to_nearest(w_, InputStats{.mean_square = weights}, tensor_.scheme, pool_);
    if (!fitted) return std::move(fitted).error();
    if (one_unit) {
      unit_scales_.assign(index(w_.rows), decode(*fitted->scale->scale)[0]);
      unit_zeros_.assign(index(w_.rows), 0.0f);
    }
    if (is_fixed_) copy_fixed(*fitted);
    return ok();
  }

  void copy_fixed(QuantizedTensor& fitted) {
    const std::vector<float> scales = decode(*fitted.scale);
    const std::vector<float> zeros = fitted.zero ? decode(*fitted.zero) : std::vector<float>();
    for (std::int64_t r = 0; r < w_.rows; ++r) {
      for (std::int64_t g = 0; g < n_groups_; ++g) {
        const std::size_t at = index(r / tensor_.group_rows() * n_groups_ + g);
        scale(r, g) = scales[at];
        if (!zeros.empty()) zero(r, g) = zeros[at];
      }
    }
    tensor_.scale = std::move(fitted.scale);
    tensor_.zero = std::move(fitted.zero);
  }

  /// The scale of scales of the super-block at `unit`, fitted to what its columns should be by now.
  Status fit_unit(const Run& unit) {
    const MutableMatrixView targets = targets_of(unit.first, unit.n);
    std::vector<float> slice(index(w_.rows * unit.n)), weights(index(unit.n));
    const std::int64_t first_column = *std::min_element(
        order_.column.begin() + unit.first, order_.column.begin() + unit.first + unit.n);
    for (std::int64_t k = 0; k < unit.n; ++k) {
      const std::int64_t at = order_.column[index(unit.first + k)] - first_column;
      weights[index(at)] = factor_.pivots[index(unit.first + k)];
      for (std::int64_t r = 0; r < w_.rows; ++r) slice[index(r * unit.n + at)] = targets.row(r)[k];
    }
    auto fitted = round_to_nearest({slice.data(), w_.rows, unit.n},
                                   InputStats{.mean_square = weights}, tensor_.scheme, pool_);
    if (!fitted) return std::move(fitted).error();
    if (grid_) {  // its groups keep the scales of this fit
      const std::vector<float> found = decode(*fitted->scale);
      const std::int64_t n = fitted->scale->cols, first_group = first_column / tensor_.group_cols();
      for (std::int64_t r = 0; r < w_.rows; ++r) {
        for (std::int64_t g = 0; g < n; ++g) scale(r, first_group + g) = found[index(r * n + g)];
      }
    }
    if (!is_two_level()) return ok();
    const auto n_units = static_cast<std::int64_t>(order_.units.size());
    const std::vector<float> scales = decode(*fitted->scale->scale);
    for (std::int64_t r = 0; r < w_.rows; ++r) {
      unit_scales_[index(r * n_units + unit.index)] = scales[index(r)];
    }
    if (fitted->zero) {
      const std::vector<float> zeros = decode(*fitted->zero->scale);
      for (std::int64_t r = 0; r < w_.rows; ++r) {
        unit_zeros_[index(r * n_units + unit.index)] = zeros[index(r)];
      }
    }
    return ok();
  }

  /// w + e M over columns [first, first + n): what they should be, given what those before lost.
  MutableMatrixView targets_of(std::int64_t first, std::int64_t n) {
    scratch_.resize(index(w_.rows * n));
    const MutableMatrixView targets(scratch_.data(), w_.rows, n);
    if (first > 0) {
      const MatrixView feedback(factor_.view().row(first), n, first, w_.cols);
      products_.multiply({errors_.data(), w_.rows, first, w_.cols}, feedback, targets);
    }
    pool_.parallel_for(w_.rows, rows_per_tile, [&](std::int64_t from, std::int64_t to, int) {
      for (std::int64_t r = from; r < to; ++r) {
        const float* row = numbers().row(r) + first;
        for (std::int64_t k = 0; k < n; ++k) {
          targets.row(r)[k] = first > 0 ? row[k] + targets.row(r)[k] : row[k];
        }
      }
    });
    return targets;
  }

  StoredNumber scale_number(std::int64_t row, std::int64_t group) const {
    return StoredNumber(scale_code_, is_two_level() ? unit_scales_[unit_at(row, group)] : 1.0f);
  }
  StoredNumber zero_number(std::int64_t row, std::int64_t group) const {
    return StoredNumber(*zero_code_, is_two_level() ? unit_zeros_[unit_at(row, group)] : 1.0f);
  }
  std::size_t unit_at(std::int64_t row, std::int64_t group) const {
    const auto n_units = static_cast<std::int64_t>(order_.units.size());
    if (!has_units_) return index(row);
    return index(row * n_units + group / tensor_.scale->group_cols());
  }

  GroupFit fit_row(const GroupData& data, std::int64_t row, std::int64_t group) const {
    const StoredNumber stored = scale_number(row, group);
    if (!zero_code_) return fit_scale(data, *levels_, stored);
    const StoredNumber stored_zero = zero_number(row, group);
    return has_offset() ? fit_offset(data, *levels_, stored, stored_zero, is_two_level())
                        : fit_code_zero(data, *levels_, stored, stored_zero);
  }

  /// Calls visit(scale, zero) for the fit and the stored numbers around it, the fit first.
  template <class Visit>
  void for_each_candidate(const GroupFit& fit, std::int64_t row, std::int64_t group,
                          Visit&& visit) const {
    const StoredNumber stored = scale_number(row, group);
    const float middle = (levels_->low() + levels_->high()) / 2;
    const float step = 0.25f / std::sqrt(static_cast<float>(levels_->n_levels()));
    visit(fit.scale, fit.zero);
    for (int i = 1; i <= options_.n_candidates; ++i) {
      for (const float sign : {-1.0f, 1.0f}) {
        const float factor = stored.is_power_of_two() ? std::ldexp(1.0f, sign < 0 ? -i : i)
                                                      : 1 + sign * static_cast<float>(i) * step;
        const float scale = stored.nearest(fit.scale * factor);
        if (scale == fit.scale || scale == 0) continue;
        float zero = fit.zero;
        if (has_offset()) {
          zero = zero_number(row, group).nearest(fit.zero + (fit.scale - scale) * middle);
          if (is_two_level()) zero = std::min(zero, 0.0f);
        }
        visit(scale, zero);
      }
    }
  }

  TileGrid grid_of(std::int64_t first_row, std::int64_t group) {
    TileGrid grid;
    const std::int64_t n_rows = std::min(rows_per_tile, w_.rows - first_row);
    for (std::int64_t r = 0; r < n_rows; ++r) {
      grid.set(r, scale(first_row + r, group), zero(first_row + r, group),
               tensor_.scheme.zero_unit);
    }
    return grid;
  }

  Status round_block(const Block& block) {
    if (block.unit) {
      if (Status status = fit_unit(*block.unit); !status) return status;
    }
    if (block.long_group && !is_fixed_) fit_long_group(*block.long_group);
    const MutableMatrixView targets = targets_of(block.first, block.n);
    BlockMatrix feedback(block.n);
    for (std::int64_t k = 0; k < block.n; ++k) {
      for (std::int64_t j = k + 1; j < block.n; ++j) {
        feedback.row(k)[j] = factor_.view().row(block.first + j)[block.first + k];
      }
    }
    const float* pivots = factor_.pivots.data() + block.first;
    const std::int64_t n_atom = grid_ ? atom_cols(grid_->code()) : 1;
    const std::vector<float> weights =
        grid_ ? atom_weights(feedback, pivots, n_atom) : std::vector<float>();
    for_each_tile([&](Tile& tile) {
      load_columns(numbers(), tile.first_row, block.first, block.n, tile.w.data());
      load_columns(targets, tile.first_row, 0, block.n, tile.target.data());
      for (const Block::Part& part : block.parts) {
        const std::int64_t last = part.first + part.n;
        if (grid_) {
          round_atoms(*tile.rounder, grid_of(tile.first_row, part.group), feedback, weights, n_atom,
                      tile.n_rows, part.first, last, tile.w.data(), tile.target.data(),
                      tile.v.data(), tile.e.data(), codes_of(tile, block));
          continue;
        }
        levels_->visit([&](const auto& kind) {
          if (!is_fixed_ && part.is_whole) {
            choose_scales(kind, block, part, feedback, tile);
          }
          TileColumn error;
          round_columns(kind, grid_of(tile.first_row, part.group), feedback, pivots, part.first,
                        last, block.n, tile.w.data(), tile.target.data(), tile.v.data(),
                        tile.e.data(), error);
        });
      }
      save_columns(tile.v.data(), tile.first_row, block.first, block.n, values());
      save_columns(tile.e.data(), tile.first_row, block.first, block.n, errors());
    });
    return ok();
  }

  /// Up to 16 rows of a block.
  struct Tile {
    std::int64_t first_row = 0, n_rows = 0;
    TileColumns w, target, v, e;  // target: in sweeps the gradient e H
    std::optional<AtomRounder> rounder;
    std::vector<std::int64_t> code_of;
  };

  template <class Body>
  void for_each_tile(Body&& body) {
    const std::int64_t n_tiles = (w_.rows + rows_per_tile - 1) / rows_per_tile;
    pool_.parallel_for(n_tiles, /*chunk=*/4, [&](std::int64_t from, std::int64_t to, int) {
      const auto tile = std::make_unique<Tile>();
      if (grid_) tile->rounder.emplace(*grid_);
      for (std::int64_t i = from; i < to; ++i) {
        tile->first_row = i * rows_per_tile;
        tile->n_rows = std::min(rows_per_tile, w_.rows - tile->first_row);
        body(*tile);
      }
    });
  }

  TileCodes codes_of(Tile& tile, const Block& block) {
    tile.code_of.clear();
    for (std::int64_t k = 0; k < block.n; ++k) {
      tile.code_of.push_back(order_.column[index(block.first + k)] / grid_->code().dim);
    }
    const std::int64_t per_row = tensor_.codes.n_per_row();
    return {codes_.data() + tile.first_row * per_row, per_row, tile.code_of};
  }

  /// The scales of a group that is longer than a block, from its targets when it begins.
  void fit_long_group(const Run& group) {
    const MutableMatrixView targets = targets_of(group.first, group.n);
    const std::span<const float> weights(factor_.pivots.data() + group.first, index(group.n));
    pool_.parallel_for(w_.rows, /*chunk=*/1, [&](std::int64_t first, std::int64_t last, int) {
      for (std::int64_t r = first; r < last; ++r) {
        const GroupFit fit = fit_row({targets.row_span(r), weights}, r, group.index);
        scale(r, group.index) = fit.scale;
        zero(r, group.index) = fit.zero;
      }
    });
  }

  /// Of the candidates of each row the one with which the columns of the group lose least, their
  /// feedback included.
  template <class Kind>
  void choose_scales(const Kind& kind, const Block& block, const Block::Part& part,
                     const BlockMatrix& feedback, const Tile& tile) {
    const std::int64_t first_row = tile.first_row, n_rows = tile.n_rows;
    const TileColumn* target = tile.target.data();
    const std::span<const float> weights(factor_.pivots.data() + block.first + part.first,
                                         index(part.n));
    std::array<GroupFit, rows_per_tile> fits;
    std::vector<TileGrid> grids;
    std::vector<float> x(index(part.n));
    for (std::int64_t r = 0; r < n_rows; ++r) {
      for (std::int64_t k = 0; k < part.n; ++k) x[index(k)] = target[part.first + k].get(r);
      fits[index(r)] = fit_row({x, weights}, first_row + r, part.group);
      std::size_t n = 0;
      for_each_candidate(fits[index(r)], first_row + r, part.group, [&](float scale, float zero) {
        if (grids.size() == n) grids.emplace_back(n == 0 ? TileGrid() : grids.front());
        grids[n++].set(r, scale, zero, tensor_.scheme.zero_unit);
      });
      for (; n < grids.size(); ++n) {
        grids[n].set(r, fits[index(r)].scale, fits[index(r)].zero, tensor_.scheme.zero_unit);
      }
    }
    std::array<float, rows_per_tile> least{};
    TileColumns tried, v, e;
    for (std::size_t c = 0; c < grids.size(); ++c) {
      TileColumn error;
      std::copy_n(target + part.first, part.n, tried.data() + part.first);
      round_columns(kind, grids[c], feedback, factor_.pivots.data() + block.first, part.first,
                    part.first + part.n, part.first + part.n, tile.w.data(), tried.data(), v.data(),
                    e.data(), error);
      for (std::int64_t r = 0; r < n_rows; ++r) {
        if (c != 0 && !(error.get(r) < least[index(r)])) continue;
        least[index(r)] = error.get(r);
        scale(first_row + r, part.group) = grids[c].scale.get(r);
        zero(first_row + r, part.group) =
            has_offset() ? grids[c].offset.get(r) : grids[c].code_zero.get(r);
      }
    }
  }

  void improve_block(const Block& block) {
    scratch_.resize(index(w_.rows * block.n));
    const MutableMatrixView gradient(scratch_.data(), w_.rows, block.n);
    products_.multiply(errors(), {hessian_.row(block.first), block.n, w_.cols, hessian_.stride},
                       gradient);
    BlockMatrix h(block.n);
    for (std::int64_t k = 0; k < block.n; ++k) {
      std::copy_n(hessian_.row(block.first + k) + block.first, block.n, h.row(k));
    }
    for_each_tile([&](Tile& tile) {
      load_columns(numbers(), tile.first_row, block.first, block.n, tile.w.data());
      load_columns(values(), tile.first_row, block.first, block.n, tile.v.data());
      load_columns(errors(), tile.first_row, block.first, block.n, tile.e.data());
      load_columns(gradient, tile.first_row, 0, block.n, tile.target.data());
      for (const Block::Part& part : block.parts) {
        const std::int64_t last = part.first + part.n;
        if (!is_fixed_ && part.is_whole) {
          refit_scales(block, part, h, tile.first_row, tile.w.data(), tile.v.data(), tile.e.data(),
                       tile.target.data());
        }
        const TileGrid grid = grid_of(tile.first_row, part.group);
        if (grid_) {
          improve_atoms(*tile.rounder, grid, h, atom_cols(grid_->code()), tile.n_rows, part.first,
                        last, tile.w.data(), tile.v.data(), tile.e.data(), tile.target.data(),
                        codes_of(tile, block));
          continue;
        }
        levels_->visit([&](const auto& kind) {
          improve_columns(kind, grid, h, part.first, last, tile.w.data(), tile.v.data(),
                          tile.e.data(), tile.target.data());
        });
      }
      save_columns(tile.v.data(), tile.first_row, block.first, block.n, values());
      save_columns(tile.e.data(), tile.first_row, block.first, block.n, errors());
    });
  }

  /// The scale (and zero) that minimise e H e^T with the codes of the group as they are: along
  /// c = v - code_zero and 1 the error is a quadratic.
  void refit_scales(const Block& block, const Block::Part& part, const BlockMatrix& h,
                    std::int64_t first_row, const TileColumn* w, const TileColumn* v, TileColumn* e,
                    TileColumn* gradient) {
    const TileGrid before = grid_of(first_row, part.group);
    TileColumns hc{};
    std::array<float, gptq_block_cols> h1{};
    for (std::int64_t k = part.first; k < part.first + part.n; ++k) {
      TileColumn c;
      for (std::size_t i = 0; i < lanes_per_column; ++i) {
        c.lanes[i] = v[k].lanes[i] - before.code_zero.lanes[i];
      }
      const float* row = h.row(k);
      for (std::int64_t j = 0; j < block.n; ++j) {
        hc[index(j)].add(c, row[j]);
        h1[index(j)] += row[j];
      }
    }
    TileColumn gc, g1, chc, ch1;
    float all = 0;
    for (std::int64_t k = part.first; k < part.first + part.n; ++k) {
      for (std::size_t i = 0; i < lanes_per_column; ++i) {
        const Lanes c = v[k].lanes[i] - before.code_zero.lanes[i];
        gc.lanes[i] += gradient[k].lanes[i] * c;
        g1.lanes[i] += gradient[k].lanes[i];
        chc.lanes[i] += hc[index(k)].lanes[i] * c;
        ch1.lanes[i] += hc[index(k)].lanes[i];
      }
      all += h1[index(k)];
    }
    TileColumn scale_change, offset_change;
    bool is_changed = false;
    const std::int64_t n_rows = std::min(rows_per_tile, w_.rows - first_row);
    for (std::int64_t r = 0; r < n_rows; ++r) {
      const Quadratic q{static_cast<double>(gc.get(r)), static_cast<double>(g1.get(r)),
                        static_cast<double>(chc.get(r)), static_cast<double>(ch1.get(r)),
                        static_cast<double>(all)};
      const auto [ds, offset] = refit_row(q, first_row + r, part.group);
      scale_change.set(r, ds);
      offset_change.set(r, offset);
      is_changed = is_changed || ds != 0 || offset != 0;
    }
    if (!is_changed) return;
    for (std::int64_t j = 0; j < block.n; ++j) {
      for (std::size_t i = 0; i < lanes_per_column; ++i) {
        gradient[j].lanes[i] -= scale_change.lanes[i] * hc[index(j)].lanes[i] +
                                offset_change.lanes[i] * all_lanes(h1[index(j)]);
      }
    }
    const TileGrid after = grid_of(first_row, part.group);
    for (std::int64_t k = part.first; k < part.first + part.n; ++k) {
      for (std::size_t i = 0; i < lanes_per_column; ++i) {
        e[k].lanes[i] = w[k].lanes[i] - after.decoded(i, v[k].lanes[i]);
      }
    }
  }

  /// The change of e H e^T when decoded grows by s c + o: -2 (s gc + o g1) + s^2 chc + 2 s o ch1 +
  /// o^2 all.
  struct Quadratic {
    double gc, g1, chc, ch1, all;
    double change(double s, double o) const {
      return -2 * (s * gc + o * g1) + s * s * chc + 2 * s * o * ch1 + o * o * all;
    }
  };
  struct Change {
    float scale = 0, offset = 0;
  };

  /// The stored scale nearest to the best one, and the stored zero that goes with it; nothing where
  /// they would not lower the error.
  Change refit_row(const Quadratic& q, std::int64_t row, std::int64_t group) {
    const float old_scale = scale(row, group), old_zero = zero(row, group);
    if (!(q.chc > 0) || old_scale == 0) return {};
    double best = q.gc / q.chc;
    const double determinant = q.chc * q.all - q.ch1 * q.ch1;
    constexpr double nearly_dependent = 1e-6;
    if (zero_code_ && determinant > nearly_dependent * q.chc * q.all) {
      best = (q.gc * q.all - q.g1 * q.ch1) / determinant;
    }
    const float new_scale =
        scale_number(row, group).nearest(static_cast<float>(static_cast<double>(old_scale) + best));
    if (!std::isfinite(new_scale) || !(new_scale * old_scale > 0)) return {};
    Change change{new_scale - old_scale, 0};
    const auto s = static_cast<double>(change.scale);
    float new_zero = old_zero;
    if (zero_code_) {
      const double o = q.all > 0 ? (q.g1 - s * q.ch1) / q.all : 0;
      const double wanted =
          static_cast<double>(old_zero) + (has_offset() ? o : -o / static_cast<double>(new_scale));
      new_zero = zero_number(row, group).nearest(static_cast<float>(wanted));
      if (has_offset()) {
        if (is_two_level()) new_zero = std::min(new_zero, 0.0f);
        change.offset = new_zero - old_zero;
      } else {
        change.offset = new_scale * (old_zero - new_zero);
      }
    }
    if (!std::isfinite(new_zero)) return {};
    if (!(q.change(s, static_cast<double>(change.offset)) < 0)) return {};
    scale(row, group) = new_scale;
    zero(row, group) = new_zero;
    return change;
  }

  void store() {
    std::optional<StoredCode> super_code;
    if (is_two_level()) super_code.emplace(*tensor_.scale->scale->scheme.code);
    const StoredCode* super = super_code ? &*super_code : nullptr;
    std::optional<CodeSearch> search;
    if (!grid_) search.emplace(*tensor_.scheme.code);
    pool_.parallel_for(w_.rows, rows_per_tile, [&](std::int64_t first, std::int64_t last, int) {
      std::vector<std::uint32_t> codes(index(w_.cols));
      for (std::int64_t r = first; r < last; ++r) {
        if (grid_) {
          const std::int64_t n = tensor_.codes.n_per_row();
          tensor_.codes.pack(
              r, 0, std::span<const std::uint32_t>(codes_).subspan(index(r * n), index(n)));
        } else {
          const float* row = values().row(r);
          for (std::int64_t k = 0; k < w_.cols; ++k) {
            codes[index(order_.column[index(k)])] = search->nearest(row[k]);
          }
          tensor_.codes.pack(r, 0, codes);
        }
        if (!is_fixed_) store_scales(r, super);
      }
    });
    if (is_two_level() && !has_units_ && !is_fixed_) {
      tensor_.scale->scale->codes.set(0, 0, super->code_of(unit_scales_[0]));
    }
  }

  void store_scales(std::int64_t row, const StoredCode* super) {
    for (std::int64_t g = 0; g < n_groups_; ++g) {
      tensor_.scale->codes.set(row, g, scale_number(row, g).code_of(scale(row, g)));
      if (zero_code_) tensor_.zero->codes.set(row, g, zero_number(row, g).code_of(zero(row, g)));
    }
    if (!has_units_ || !is_two_level()) return;
    const auto n_units = static_cast<std::int64_t>(order_.units.size());
    for (std::int64_t u = 0; u < n_units; ++u) {
      const std::size_t at = index(row * n_units + u);
      tensor_.scale->scale->codes.set(row, u, super->code_of(unit_scales_[at]));
      if (zero_code_) tensor_.zero->scale->codes.set(row, u, super->code_of(unit_zeros_[at]));
    }
  }

  MatrixView w_;
  const GptqOptions& options_;
  MatrixView hessian_;
  const TriangularFactor& factor_;
  const ColumnOrder& order_;
  FloatProducts& products_;
  ThreadPool& pool_;
  QuantizedTensor tensor_;
  std::optional<Levels> levels_;  // of codes of one number
  std::optional<GridCode> grid_;  // of several
  StoredCode scale_code_;
  std::optional<StoredCode> zero_code_;
  std::int64_t n_groups_;
  bool is_fixed_ = false, has_units_ = false;
  std::vector<float> numbers_, errors_, values_, scales_, zeros_, scratch_;
  std::vector<float> unit_scales_, unit_zeros_;
  std::vector<std::uint32_t> codes_;  // of several numbers: (rows, codes of a row), as stored
};

}  // namespace

Result<QuantizedTensor> round_with_feedback(MatrixView w, const Scheme& scheme,
                                            const GptqOptions& options, MatrixView hessian,
                                            const TriangularFactor& factor,
                                            const ColumnOrder& order, FloatProducts& products,
                                            ThreadPool& pool) {
  return Gptq(w, scheme, options, hessian, factor, order, products, pool).run();
}

}  // namespace lowbit
