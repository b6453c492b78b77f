// SPDX-License-Identifier: Apache-2.0
// Four floats side by side, for the sums over a group: one vector register of every CPU this builds
// for. Written out, because the result must not depend on what a compiler chooses to vectorise: the
// order of additions is the same everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace lowbit {

constexpr std::size_t n_lanes = 4;
using Lanes = float __attribute__((vector_size(n_lanes * sizeof(float))));
using LaneDoubles = double __attribute__((vector_size(n_lanes * sizeof(double))));
using LaneBits = std::int32_t __attribute__((vector_size(n_lanes * sizeof(std::int32_t))));

inline Lanes lanes_at(const float* values) {
  Lanes lanes;
  std::memcpy(&lanes, values, sizeof(lanes));
  return lanes;
}

/// The first n < n_lanes of them, then zeros.
inline Lanes lanes_at(const float* values, std::size_t n) {
  Lanes lanes{};
  std::memcpy(&lanes, values, n * sizeof(float));
  return lanes;
}

inline Lanes all_lanes(float value) {
  return Lanes{value, value, value, value};
}

/// The smaller and the larger of two; b where a is NaN.
inline Lanes least(Lanes a, Lanes b) {
  return a < b ? a : b;
}
inline Lanes most(Lanes a, Lanes b) {
  return a > b ? a : b;
}

/// Additions in float for a short run, then in double: a sum of any length with the error of the
/// run.
class LaneSum {
 public:
  void add(Lanes value) { run_ += value; }
  void end_run() {
    total_ += __builtin_convertvector(run_, LaneDoubles);
    run_ = Lanes{};
  }
  double total() const { return (total_[0] + total_[1]) + (total_[2] + total_[3]); }

 private:
  Lanes run_{};
  LaneDoubles total_{};
};

}  // namespace lowbit
