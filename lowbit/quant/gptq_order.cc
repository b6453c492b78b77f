// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/gptq_order.h"

#include <algorithm>
#include <numeric>

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

ColumnOrder order_columns(std::span<const float> weights, std::int64_t group_cols,
                          std::int64_t unit_cols, bool is_ordered) {
  ColumnOrder order;
  const auto n_cols = static_cast<std::int64_t>(weights.size());
  for (const Run& unit : spans_by_weight(weights, 0, n_cols, unit_cols, is_ordered)) {
    order.units.push_back(
        {static_cast<std::int64_t>(order.column.size()), unit.n, unit.first / unit_cols});
    for (const Run& group :
         spans_by_weight(weights, unit.first, unit.first + unit.n, group_cols, is_ordered)) {
      order.groups.push_back(
          {static_cast<std::int64_t>(order.column.size()), group.n, group.first / group_cols});
      const auto begin = static_cast<std::ptrdiff_t>(order.column.size());
      order.column.resize(order.column.size() + static_cast<std::size_t>(group.n));
      std::iota(order.column.begin() + begin, order.column.end(), group.first);
      if (!is_ordered) continue;
      std::stable_sort(
          order.column.begin() + begin, order.column.end(), [&](std::int64_t a, std::int64_t b) {
            return weights[static_cast<std::size_t>(a)] > weights[static_cast<std::size_t>(b)];
          });
    }
  }
  return order;
}

}  // namespace lowbit
