// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/grid_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "lowbit/base/assert.h"

namespace lowbit {
namespace {

constexpr float never = std::numeric_limits<float>::infinity();

float cost_of(const ScaledVector::Nearest& row, float scale) {
  return scale * row.q - 2 * row.p;
}

std::size_t padded(std::size_t n) {
  return (n + n_lanes - 1) / n_lanes * n_lanes;
}

/// p and q of every half; the padding costs more than anything.
void half_sums(const std::vector<std::vector<float>>& numbers, std::size_t n, const float* x,
               const float* weights, std::vector<float>& p, std::vector<float>& q) {
  const std::size_t n_padded = padded(n);
  p.resize(n_padded);
  q.resize(n_padded);
  for (std::size_t at = 0; at < n_padded; at += n_lanes) {
    Lanes sum_p{}, sum_q{};
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const float weight = weights == nullptr ? 1.0f : weights[i];
      const Lanes v = lanes_at(numbers[i].data() + at), weighted = all_lanes(weight) * v;
      sum_p += weighted * all_lanes(x[i]);
      sum_q += weighted * v;
    }
    std::memcpy(p.data() + at, &sum_p, sizeof sum_p);
    std::memcpy(q.data() + at, &sum_q, sizeof sum_q);
  }
  std::fill(q.begin() + static_cast<std::ptrdiff_t>(n), q.end(), never);
}

/// cost = scale q - 2 p; returns the least.
float costs_at(float scale, const std::vector<float>& p, const std::vector<float>& q,
               std::vector<float>& cost) {
  cost.resize(p.size());
  Lanes low = all_lanes(never);
  for (std::size_t at = 0; at < p.size(); at += n_lanes) {
    const Lanes value =
        all_lanes(scale) * lanes_at(q.data() + at) - all_lanes(2) * lanes_at(p.data() + at);
    low = least(value, low);
    std::memcpy(cost.data() + at, &value, sizeof value);
  }
  return std::min(std::min(low[0], low[1]), std::min(low[2], low[3]));
}

}  // namespace

GridRows::GridRows(std::span<const float> values, int dim, std::uint32_t first_code)
    : half_(dim / 2) {
  LOWBIT_ASSERT(dim % 2 == 0 && values.size() % static_cast<std::size_t>(dim) == 0);
  const auto half = static_cast<std::size_t>(half_);
  const std::size_t n_rows = values.size() / static_cast<std::size_t>(dim);
  std::map<std::vector<float>, std::uint32_t> index[2];
  struct Pair {
    std::uint32_t first, second;
  };
  std::vector<Pair> pairs(n_rows);
  Halves* halves[2] = {&first_, &second_};
  for (Halves* side : halves) side->numbers.resize(half);
  for (std::size_t r = 0; r < n_rows; ++r) {
    std::uint32_t found[2];
    for (std::size_t side = 0; side < 2; ++side) {
      const auto numbers = values.subspan((2 * r + side) * half, half);
      const auto [at, is_new] = index[side].try_emplace(
          std::vector<float>(numbers.begin(), numbers.end()), halves[side]->n);
      found[side] = at->second;
      if (!is_new) continue;
      ++halves[side]->n;
      for (std::size_t i = 0; i < half; ++i) halves[side]->numbers[i].push_back(numbers[i]);
    }
    pairs[r] = {found[0], found[1]};
  }
  for (Halves* side : halves) {
    for (std::vector<float>& numbers : side->numbers) numbers.resize(padded(side->n));
  }
  for (const float value : values) largest_ = std::max(largest_, std::abs(value));
  row_begin_.assign(first_.n + 1, 0);
  for (const Pair& pair : pairs) ++row_begin_[pair.first + 1];
  for (std::size_t i = 1; i < row_begin_.size(); ++i) row_begin_[i] += row_begin_[i - 1];
  rows_.resize(n_rows);
  std::vector<std::uint32_t> next(row_begin_.begin(), row_begin_.end() - 1);
  for (std::size_t r = 0; r < n_rows; ++r) {
    rows_[next[pairs[r].first]++] = {pairs[r].second, first_code + static_cast<std::uint32_t>(r)};
  }
}

void ScaledVector::reset(const GridRows& grid, const float* x, const float* weights) {
  grid_ = &grid;
  known_.clear();
  half_sums(grid.first_.numbers, grid.first_.n, x, weights, first_p_, first_q_);
  half_sums(grid.second_.numbers, grid.second_.n, x + grid.half_,
            weights == nullptr ? nullptr : weights + grid.half_, second_p_, second_q_);
}

ScaledVector::Nearest ScaledVector::at(float scale) {
  const auto after = std::ranges::lower_bound(known_, scale, {}, &Known::scale);
  Nearest best;
  float bound = never;
  for (const auto* known : {after != known_.begin() ? &after[-1] : nullptr,
                            after != known_.end() ? &after[0] : nullptr}) {
    if (known == nullptr) continue;
    if (bound != never && known->nearest.code == best.code) return best;
    if (known->scale == scale) return known->nearest;
    const float cost = cost_of(known->nearest, scale);
    if (cost < bound) bound = cost, best = known->nearest;
  }
  const Nearest found = search(scale, bound, best);
  known_.insert(after, {scale, found});
  return found;
}

ScaledVector::Nearest ScaledVector::search(float scale, float bound, Nearest best) {
  const float least_second = costs_at(scale, second_p_, second_q_, second_cost_);
  const float least_first = costs_at(scale, first_p_, first_q_, first_cost_);
  const auto scan = [&](std::size_t first) {
    const float cost = first_cost_[first];
    for (std::uint32_t i = grid_->row_begin_[first]; i < grid_->row_begin_[first + 1]; ++i) {
      const GridRows::Row& row = grid_->rows_[i];
      if (cost + second_cost_[row.second] >= bound) continue;
      bound = cost + second_cost_[row.second];
      best = {row.code, first_p_[first] + second_p_[row.second],
              first_q_[first] + second_q_[row.second]};
    }
  };
  if (bound == never) {  // a good row first, so that most others drop out
    scan(static_cast<std::size_t>(std::ranges::find(first_cost_, least_first) -
                                  first_cost_.begin()));
  }
  for (std::size_t at = 0; at < first_cost_.size(); at += n_lanes) {
    const LaneBits may_win =
        lanes_at(first_cost_.data() + at) + all_lanes(least_second) < all_lanes(bound);
    if ((may_win[0] | may_win[1] | may_win[2] | may_win[3]) == 0) continue;
    for (std::size_t i = 0; i < n_lanes; ++i) {
      if (first_cost_[at + i] + least_second < bound) scan(at + i);
    }
  }
  return best;
}

}  // namespace lowbit
