// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/grid_group.h"

#include <algorithm>
#include <cmath>

namespace lowbit {

GridCode::GridCode(const Scheme& scheme) : code_(scheme.code) {
  const std::size_t n_parts = scheme.one_top_bit ? 2 : 1;
  const std::size_t n_values = code_->values.size() / n_parts;
  for (std::size_t part = 0; part < n_parts; ++part) {
    alternatives_.emplace_back(code_->values.subspan(part * n_values, n_values), code_->dim,
                               static_cast<std::uint32_t>(part * n_values / dim()));
  }
  least_ = largest();
  for (const float value : code_->values) least_ = std::min(least_, std::abs(value));
}

void GridGroup::reset(const GridCode& grid, std::span<const float> x, const float* weights,
                      float scale, int part) {
  grid_ = &grid;
  n_vectors_ = x.size() / grid.dim();
  power_ = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double square = static_cast<double>(x[i]) * static_cast<double>(x[i]);
    power_ += weights == nullptr ? square : static_cast<double>(weights[i]) * square;
  }
  const float* numbers = x.data();
  if (grid.code().signs != 0) {
    turn_signs(x, weights, scale);
    numbers = magnitudes_.data();
  }
  const auto parts = part < 0 ? grid.alternatives()
                              : grid.alternatives().subspan(static_cast<std::size_t>(part), 1);
  n_parts_ = parts.size();
  if (vectors_.size() < n_parts_ * n_vectors_) vectors_.resize(n_parts_ * n_vectors_);
  for (std::size_t p = 0; p < n_parts_; ++p) {
    for (std::size_t i = 0; i < n_vectors_; ++i) {
      const std::size_t first = i * grid.dim();
      vectors_[p * n_vectors_ + i].reset(parts[p], numbers + first,
                                         weights == nullptr ? nullptr : weights + first);
    }
  }
}

void GridGroup::turn_signs(std::span<const float> x, const float* weights, float scale) {
  magnitudes_.resize(x.size());
  signs_.assign(n_vectors_, 0);
  for (std::size_t i = 0; i < x.size(); ++i) {
    magnitudes_[i] = std::abs(x[i]);
    signs_[i / grid_->dim()] |= (std::signbit(x[i]) ? 1u : 0u) << i % grid_->dim();
  }
  const auto unit = static_cast<std::size_t>(grid_->code().even_signs);
  if (unit == 0) return;
  const float least = scale * grid_->least();
  for (std::size_t first = 0; first < x.size(); first += unit) {
    const std::size_t end = std::min(first + unit, x.size());
    std::uint32_t negated = 0;
    std::size_t cheapest = first;
    float least_cost = 0;
    for (std::size_t i = first; i < end; ++i) {
      negated += std::signbit(x[i]) ? 1u : 0u;
      // Turned, the number is nearest to the least one of the other sign.
      const float magnitude = magnitudes_[i];
      const float before = std::min(magnitude - least, 0.0f), after = magnitude + least;
      const float cost =
          (weights == nullptr ? 1.0f : weights[i]) * (after * after - before * before);
      if (i == first || cost < least_cost) cheapest = i, least_cost = cost;
    }
    if (negated % 2 == 0) continue;
    magnitudes_[cheapest] = -magnitudes_[cheapest];
    signs_[cheapest / grid_->dim()] ^= 1u << cheapest % grid_->dim();
  }
}

GridGroup::Sums GridGroup::sums_of(std::size_t alternative, float scale) {
  Sums sums;
  for (std::size_t i = 0; i < n_vectors_; ++i) {
    const ScaledVector::Nearest nearest = vectors_[alternative * n_vectors_ + i].at(scale);
    sums.p += static_cast<double>(nearest.p);
    sums.q += static_cast<double>(nearest.q);
  }
  return sums;
}

GridGroup::Sums GridGroup::at(float scale) {
  Sums best = sums_of(0, scale);
  const double s = static_cast<double>(scale);
  for (std::size_t part = 1; part < n_parts_; ++part) {
    const Sums sums = sums_of(part, scale);
    if (s * sums.q - 2 * sums.p < s * best.q - 2 * best.p) best = sums;
  }
  return best;
}

void GridGroup::codes_at(float scale, std::span<std::uint32_t> codes) {
  const double s = static_cast<double>(scale);
  std::size_t best = 0;
  double best_cost = 0;
  for (std::size_t part = 0; part < n_parts_; ++part) {
    const Sums sums = sums_of(part, scale);
    const double cost = s * sums.q - 2 * sums.p;
    if (part == 0 || cost < best_cost) best = part, best_cost = cost;
  }
  const int sign_shift = grid_->code().window - grid_->code().signs;
  for (std::size_t i = 0; i < n_vectors_; ++i) {
    codes[i] = vectors_[best * n_vectors_ + i].at(scale).code;
    if (grid_->code().signs != 0) codes[i] |= signs_[i] << sign_shift;
  }
}

}  // namespace lowbit
