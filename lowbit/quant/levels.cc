// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/levels.h"

#include <algorithm>
#include <cmath>

#include "lowbit/base/assert.h"

namespace lowbit {
namespace {

constexpr float round_magic = 0x1.8p23f;

/// Whether the levels round every value to itself, and to either side of each border.
template <class Kind>
bool agrees(const Kind& kind, const std::vector<float>& values) {
  const auto nearest = [&](float x) { return kind.nearest(all_lanes(x))[0]; };
  constexpr float off_border = 1.0f / 64;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (nearest(values[i]) != values[i]) return false;
    if (i + 1 == values.size()) break;
    const float rise = values[i + 1] - values[i], border = values[i] + rise / 2;
    if (nearest(border - rise * off_border) != values[i]) return false;
    if (nearest(border + rise * off_border) != values[i + 1]) return false;
  }
  return nearest(2 * values.back()) == values.back() || values.back() <= 0;
}

}  // namespace

std::vector<float> writable_values(const Code& code) {
  std::vector<float> values;
  for (const float value : code.values) {
    if (!std::isfinite(value)) continue;
    float written = 0;
    code.look_up(nearest_code(code, value), &written);
    if (written == value) values.push_back(value);
  }
  std::ranges::sort(values);
  const auto [first, last] = std::ranges::unique(values);
  values.erase(first, last);
  return values;
}

bool is_power_of_two(float value) {
  int exponent = 0;
  return value > 0 && std::frexp(value, &exponent) == 0.5f;
}

Levels::Levels(const Code& code) {
  const std::vector<float> values = writable_values(code);
  LOWBIT_ASSERT(!values.empty());
  low_ = values.front();
  high_ = values.back();
  n_levels_ = static_cast<int>(values.size());
  is_symmetric_ = std::ranges::equal(values.begin(), values.end(), values.rbegin(), values.rend(),
                                     {}, {}, std::negate<>());
  const float step = n_levels_ > 1 ? values[1] - values[0] : 0;
  even_ = {low_, high_, round_magic * step};
  if (is_power_of_two(step) && std::fmod(low_, step) == 0 && agrees(even_, values)) {
    kind_ = Kind::even;
    return;
  }
  const auto positive = std::ranges::upper_bound(values, 0.0f);
  constexpr int most_mantissa_bits = 7;
  for (int bits = 0; bits <= most_mantissa_bits && positive != values.end(); ++bits) {
    floats_ = {high_, std::ldexp(*positive, bits), std::ldexp(round_magic, -bits)};
    if (is_power_of_two(*positive) && agrees(floats_, values)) {
      kind_ = Kind::floats;
      return;
    }
  }
  table_.low = low_;
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    table_.borders.push_back(values[i] + (values[i + 1] - values[i]) / 2);
    table_.rises.push_back(values[i + 1] - values[i]);
  }
}

}  // namespace lowbit
