// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/gptq_order.h"

#include <algorithm>
#include <functional>

namespace lowbit {
namespace {

/// Spans of `step` columns between first and end, the one with the heaviest column first.
std::vector<Run> spans_by_weight(std::span<const float> weights, std::int64_t first,
                                 std::int64_t end, std::int64_t step, bool is_ordered) {
  std::vector<Run> spans;
  for (std::int64_t at = first; at < end; at += step) {
    spans.push_back({at, std::min(step, end - at), at / step});
  }
  if (!is_ordered) return spans;
  const auto heaviest = [&](const Run& run) {
    return std::ranges::max(
        weights.subspan(static_cast<std::size_t>(run.first), static_cast<std::size_t>(run.n)));
  };
  std::ranges::stable_sort(spans, std::greater<>(), heaviest);
  return spans;
}

}  // namespace

ColumnOrder order_columns(std::span<const float> weights, const ColumnSteps& steps,
                          bool is_ordered) {
  ColumnOrder order;
  const auto n_cols = static_cast<std::int64_t>(weights.size());
  const auto position = [&] { return static_cast<std::int64_t>(order.column.size()); };
  for (const Run& unit : spans_by_weight(weights, 0, n_cols, steps.unit, is_ordered)) {
    order.units.push_back({position(), unit.n, unit.index});
    for (const Run& group :
         spans_by_weight(weights, unit.first, unit.first + unit.n, steps.group, is_ordered)) {
      order.groups.push_back({position(), group.n, group.index});
      for (const Run& atom :
           spans_by_weight(weights, group.first, group.first + group.n, steps.atom, is_ordered)) {
        for (std::int64_t i = 0; i < atom.n; ++i) order.column.push_back(atom.first + i);
      }
    }
  }
  return order;
}

std::vector<ColumnBlock> cut_into_blocks(const ColumnOrder& order, std::int64_t max_cols,
                                         bool has_units) {
  std::vector<ColumnBlock> blocks;
  auto unit = order.units.begin();
  for (const Run& group : order.groups) {
    const bool starts_unit = unit != order.units.end() && unit->first == group.first;
    for (std::int64_t done = 0; done < group.n;) {
      const std::int64_t n = std::min(group.n - done, max_cols);
      const bool fits_in = !blocks.empty() && blocks.back().n + n <= max_cols;
      if (!fits_in || (starts_unit && has_units && done == 0)) {
        blocks.push_back({.first = group.first + done, .n = 0});
      }
      ColumnBlock& block = blocks.back();
      if (starts_unit && has_units && done == 0) block.unit = *unit;
      if (group.n > max_cols && done == 0) block.long_group = group;
      block.parts.push_back({block.n, n, group.index, n == group.n});
      block.n += n;
      done += n;
    }
    if (starts_unit) ++unit;
  }
  return blocks;
}

}  // namespace lowbit
