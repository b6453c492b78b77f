// SPDX-License-Identifier: Apache-2.0
// Which of its candidates every item of a model gets when all of them together may take a number of
// bytes: the least sum of losses. A Lagrange multiplier on the lower convex hulls gives a choice
// that is within one step of the best; dynamic programming over the bytes that are left finishes
// it, exactly while the bytes have a coarse common divisor. Knows neither tensors nor schemes.
// Rejected: the multiplier alone, which leaves up to one embedding's step of the budget unused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lowbit/base/result.h"

namespace lowbit {

/// One way to store an item.
struct Candidate {
  std::int64_t n_bytes = 0;
  double loss = 0;  // finite, >= 0; losses of different items add up
};

struct Allocation {
  std::vector<std::size_t> chosen;  // an index into the candidates of every item
  std::int64_t n_bytes = 0;
  double loss = 0;
};

/// The least and the most bytes that a choice can take; every item needs a candidate.
std::int64_t least_bytes(std::span<const std::vector<Candidate>> items);
std::int64_t most_bytes(std::span<const std::vector<Candidate>> items);

/// The least loss within `budget` bytes; the same on every machine. Error: budget < least_bytes.
Result<Allocation> allocate(std::span<const std::vector<Candidate>> items, std::int64_t budget);

/// The fewest bytes, to a 4096th of the range, with a loss of at most `most_loss`. Error: the best
/// candidates together lose more.
Result<Allocation> allocate_under_loss(std::span<const std::vector<Candidate>> items,
                                       double most_loss);

}  // namespace lowbit
