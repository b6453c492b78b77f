// SPDX-License-Identifier: Apache-2.0
// One group of numbers on its way to a grid: signs apart, the sign that a container does not store
// put where it costs least, and the sums of the nearest rows under any scale.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lowbit/formats/scheme.h"
#include "lowbit/quant/grid_search.h"

namespace lowbit {

/// A grid code prepared for search, once for a tensor.
class GridCode {
 public:
  explicit GridCode(const Scheme& scheme);

  const Code& code() const { return *code_; }
  std::size_t dim() const { return static_cast<std::size_t>(code_->dim); }
  float largest() const { return alternatives_.front().largest(); }
  float least() const { return least_; }  // magnitude
  /// The parts of the grid of which a group uses one: one, or the two halves of the top bit.
  std::span<const GridRows> alternatives() const { return alternatives_; }

 private:
  const Code* code_;
  float least_ = 0;
  std::vector<GridRows> alternatives_;
};

class GridGroup {
 public:
  /// x: numbers of the group, whole vectors; weights: as many, or null. `scale` is about the one
  /// that will be found: it decides which sign is cheapest to turn. `part`: the one alternative
  /// that is free to the group; -1: all are.
  void reset(const GridCode& grid, std::span<const float> x, const float* weights, float scale,
             int part = -1);

  struct Sums {
    double p = 0, q = 0;  // sum w x v and sum w v^2 over the nearest rows
  };
  Sums at(float scale);
  /// sum w (x - scale v)^2 with the nearest rows.
  double error(float scale) {
    const Sums sums = at(scale);
    return power_ + static_cast<double>(scale) * (static_cast<double>(scale) * sums.q - 2 * sums.p);
  }
  double power() const { return power_; }  // sum w x^2
  /// The codes of the nearest rows: as many as there are vectors.
  void codes_at(float scale, std::span<std::uint32_t> codes);

 private:
  void turn_signs(std::span<const float> x, const float* weights, float scale);
  Sums sums_of(std::size_t alternative, float scale);

  const GridCode* grid_ = nullptr;
  std::size_t n_vectors_ = 0, n_parts_ = 0;
  double power_ = 0;
  std::vector<float> magnitudes_;
  std::vector<std::uint32_t> signs_;   // per vector
  std::vector<ScaledVector> vectors_;  // alternative by alternative
};

}  // namespace lowbit
