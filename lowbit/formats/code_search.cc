// SPDX-License-Identifier: Apache-2.0
#include "lowbit/formats/code_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lowbit/base/assert.h"

namespace lowbit {
namespace {

/// Whether value == (first + code) * step for all codes, first even and step a power of two: then
/// rounding to the even integer is rounding to the even code, and the division by step is exact.
bool is_evenly_spaced(std::span<const float> values, float& step, float& first) {
  if (values.size() < 2) return false;
  step = values[1] - values[0];
  int exponent = 0;
  if (!(step > 0) || !std::isfinite(step) || std::frexp(step, &exponent) != 0.5f) return false;
  first = values[0] / step;
  if (std::fmod(first, 2.0f) != 0) return false;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] != (first + static_cast<float>(i)) * step) return false;
  }
  return true;
}

}  // namespace

CodeSearch::CodeSearch(const Code& code) : code_(&code) {
  LOWBIT_ASSERT(code.dim == 1);
  if (code.values.empty()) return;
  float step = 0, first = 0;
  if (code.encoder == nullptr && is_evenly_spaced(code.values, step, first)) {
    uniform_ = true;
    inverse_step_ = 1 / step;
    low_ = first;
    high_ = first + static_cast<float>(code.values.size() - 1);
    constexpr std::uint32_t magic_bits = 0x4b400000u;
    zero_bits_ = magic_bits + static_cast<std::uint32_t>(static_cast<std::int32_t>(first));
    return;
  }
  // The codes that are ever written, by value; -0 before +0.
  nan_code_ = nearest_code(code, std::numeric_limits<float>::quiet_NaN());
  for (std::uint32_t c = 0; c < code.values.size(); ++c) {
    if (!std::isnan(code.values[c]) && nearest_code(code, code.values[c]) == c) codes_.push_back(c);
  }
  std::ranges::sort(codes_, {}, [&](std::uint32_t c) { return ordered(code.values[c]); });
  // The reference decides every border, ties included; it lies at the middle or next to it.
  for (std::size_t i = 0; i + 1 < codes_.size(); ++i) {
    const float lower = code.values[codes_[i]], upper = code.values[codes_[i + 1]];
    const double middle = (static_cast<double>(lower) + static_cast<double>(upper)) / 2;
    std::uint32_t border = ordered(lower == upper ? upper : static_cast<float>(middle));
    const auto rounds_up = [&](std::uint32_t key) {
      return ordered(code.values[nearest_code(code, from_ordered(key))]) >= ordered(upper);
    };
    while (rounds_up(border)) --border;
    while (!rounds_up(border)) ++border;
    thresholds_.push_back(border);
  }
  thresholds_.push_back(std::numeric_limits<std::uint32_t>::max());
  first_.resize(std::size_t{1} << (32 - key_shift));
  std::uint8_t n_below = 0;
  for (std::size_t bucket = 0; bucket < first_.size(); ++bucket) {
    int steps = 0;
    for (; thresholds_[n_below] < bucket << key_shift; ++n_below) ++steps;
    first_[bucket] = n_below;
    most_steps_ = std::max(most_steps_, steps);
  }
}

void CodeSearch::nearest(std::span<const float> values, std::uint32_t* out) const {
  if (uniform_) {
    for (std::size_t i = 0; i < values.size(); ++i) out[i] = nearest_uniform(values[i]);
    return;
  }
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = nearest(values[i]);
}

}  // namespace lowbit
