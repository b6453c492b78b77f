// SPDX-License-Identifier: Apache-2.0
// What codes mean, said once and plainly: the searches here scan the whole table in double and are
// the reference that CodeSearch is tested against.
#include "lowbit/formats/code.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>

#include "lowbit/base/assert.h"
#include "lowbit/formats/tables.h"

namespace lowbit {

bool operator==(const Code& a, const Code& b) {
  const auto same_bits = [](float x, float y) {
    return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
  };
  if (a.window != b.window || a.step != b.step || a.dim != b.dim || a.signs != b.signs) {
    return false;
  }
  if (a.formula != b.formula || a.values.size() != b.values.size()) return false;
  return a.values.data() == b.values.data() || std::ranges::equal(a.values, b.values, same_bits);
}

float int8_unit(const Code& code) {
  return code.formula != nullptr ? 0 : tables::int8_unit(code.values);
}

std::uint32_t nearest_code(const Code& code, float value) {
  LOWBIT_ASSERT(code.dim == 1);
  if (code.encoder != nullptr) return code.encoder(value);
  const auto n_codes = static_cast<std::uint32_t>(code.values.size());
  float least = std::numeric_limits<float>::max(), largest = -least;
  for (std::uint32_t c = 0; c < n_codes; ++c) {
    const float candidate = code.values[c];
    if (std::isfinite(candidate)) {
      least = std::min(least, candidate);
      largest = std::max(largest, candidate);
    } else if (candidate == value || (std::isnan(candidate) && std::isnan(value))) {
      return c;
    }
  }
  const float target = std::isnan(value) ? 0 : std::clamp(value, least, largest);
  // Two candidates are compared through their middle: it is exact where it matters (neighbours), a
  // difference to a tiny target would not be.
  std::optional<std::uint32_t> best;
  for (std::uint32_t c = 0; c < n_codes; ++c) {
    const float candidate = code.values[c];
    if (!std::isfinite(candidate)) continue;
    if (!best) {
      best = c;
      continue;
    }
    const float rival = code.values[*best];
    const double middle = (static_cast<double>(candidate) + static_cast<double>(rival)) / 2;
    bool better = candidate > rival ? target > middle : target < middle;
    if (candidate == rival) {  // -0 and +0; a second code of the same number is never better
      better = std::signbit(candidate) == std::signbit(target) &&
               std::signbit(rival) != std::signbit(target);
    } else if (target == middle) {
      better = (c & 1u) == 0 && (*best & 1u) != 0;
    }
    if (better) best = c;
  }
  return best.value_or(0);
}

std::uint32_t nearest_vector(const Code& code, const float* values) {
  LOWBIT_ASSERT(code.formula == nullptr);
  const std::span target(values, static_cast<std::size_t>(code.dim));
  // Signs are chosen apart, number by number: a grid with signs holds magnitudes only.
  std::uint32_t signs = 0;
  if (code.signs != 0) {
    for (std::size_t i = 0; i < target.size(); ++i) {
      signs |= (std::signbit(target[i]) ? 1u : 0u) << i;
    }
  }
  std::uint32_t best = 0;
  double best_distance = std::numeric_limits<double>::infinity();
  const auto n_rows = static_cast<std::uint32_t>(code.values.size() / target.size());
  for (std::uint32_t row = 0; row < n_rows; ++row) {
    double distance = 0;
    for (std::size_t i = 0; i < target.size(); ++i) {
      const double x = code.signs != 0 ? std::abs(target[i]) : target[i];
      const double difference = code.values[row * target.size() + i] - x;
      distance += difference * difference;
    }
    if (distance < best_distance) {
      best = row;
      best_distance = distance;
    }
  }
  return best | signs << (code.window - code.signs);
}

}  // namespace lowbit
