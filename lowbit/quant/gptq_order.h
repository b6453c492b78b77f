// SPDX-License-Identifier: Apache-2.0
// The order in which GPTQ visits the columns of a matrix. Super-blocks, the groups inside them and
// the columns inside those by falling weight: large errors are made early, while many columns are
// left to take them over, and a group stays together, so that no order has to be stored. Then the
// blocks of that order, as the passes take them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace lowbit {

/// A run of positions in the order.
struct Run {
  std::int64_t first = 0, n = 0;
  std::int64_t index = 0;  // which group (or super-block) of columns it is
};

struct ColumnOrder {
  std::vector<std::int64_t> column;  // (n_cols): the column at each position
  std::vector<Run> groups, units;    // units: what is fitted at once, whole groups
};

/// How many columns stand together: of an atom, whose columns keep their order; of a group, whole
/// atoms; of a unit, whole groups.
struct ColumnSteps {
  std::int64_t atom = 1, group = 1, unit = 1;
};

/// Without `is_ordered` the columns stand as they are.
ColumnOrder order_columns(std::span<const float> weights, const ColumnSteps& steps,
                          bool is_ordered);

/// Groups, or parts of a group of many columns, that are rounded in one go.
struct ColumnBlock {
  std::int64_t first = 0, n = 0;
  struct Part {
    std::int64_t first = 0, n = 0;  // columns of the block
    std::int64_t group = 0;
    bool is_whole = true;  // not a part of a longer group
  };
  std::vector<Part> parts = {};
  std::optional<Run> unit = {}, long_group = {};  // that start here and must be fitted first
};

/// Blocks of up to max_cols columns; with has_units every unit starts one.
std::vector<ColumnBlock> cut_into_blocks(const ColumnOrder& order, std::int64_t max_cols,
                                         bool has_units);

}  // namespace lowbit
