// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/allocate.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <tuple>

namespace lowbit {
namespace {

using Items = std::span<const std::vector<Candidate>>;
constexpr double infinity = std::numeric_limits<double>::infinity();

/// Candidates worth a thought, by rising bytes and falling loss.
std::vector<std::size_t> pareto(const std::vector<Candidate>& candidates) {
  std::vector<std::size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) {
    return std::tuple(candidates[i].n_bytes, candidates[i].loss, i);
  });
  std::vector<std::size_t> kept;
  for (const std::size_t i : order) {
    if (kept.empty() || candidates[i].loss < candidates[kept.back()].loss) kept.push_back(i);
  }
  return kept;
}

/// Loss saved per byte on the way from one candidate to a larger one.
double saving(const Candidate& from, const Candidate& to) {
  return (from.loss - to.loss) / static_cast<double>(to.n_bytes - from.n_bytes);
}

/// The part of the Pareto front on which every byte more saves less than the one before.
std::vector<std::size_t> hull(const std::vector<Candidate>& candidates,
                              std::span<const std::size_t> front) {
  std::vector<std::size_t> kept;
  for (const std::size_t i : front) {
    const auto at = [&](std::size_t back) { return candidates[kept[kept.size() - back]]; };
    while (kept.size() > 1 && saving(at(1), candidates[i]) >= saving(at(2), at(1))) kept.pop_back();
    kept.push_back(i);
  }
  return kept;
}

void sum_up(Items items, Allocation& allocation) {
  allocation.n_bytes = 0;
  allocation.loss = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    allocation.n_bytes += items[i][allocation.chosen[i]].n_bytes;
    allocation.loss += items[i][allocation.chosen[i]].loss;
  }
}

bool is_better(const Allocation& a, const Allocation& b) {
  return std::tuple(a.loss, a.n_bytes) < std::tuple(b.loss, b.n_bytes);
}

/// The steps of all hulls by falling saving, as far as the budget goes: what a multiplier gives
/// whose value is the saving of the last step. Sorting finds it exactly where bisection would only
/// come close.
Allocation by_multiplier(Items items, std::span<const std::vector<std::size_t>> fronts,
                         std::int64_t budget) {
  struct Step {
    double saving;
    std::size_t item, place;
  };
  std::vector<std::vector<std::size_t>> hulls;
  std::vector<Step> steps;
  Allocation allocation;
  for (std::size_t i = 0; i < items.size(); ++i) {
    hulls.push_back(hull(items[i], fronts[i]));
    allocation.chosen.push_back(hulls[i][0]);
    for (std::size_t place = 1; place < hulls[i].size(); ++place) {
      steps.push_back({saving(items[i][hulls[i][place - 1]], items[i][hulls[i][place]]), i, place});
    }
  }
  std::ranges::sort(
      steps, {}, [](const Step& step) { return std::tuple(-step.saving, step.item, step.place); });
  sum_up(items, allocation);
  std::vector<bool> is_full(items.size(), false);
  for (const Step& step : steps) {
    if (is_full[step.item]) continue;
    const std::size_t next = hulls[step.item][step.place];
    const std::int64_t n_more =
        items[step.item][next].n_bytes - items[step.item][allocation.chosen[step.item]].n_bytes;
    if (allocation.n_bytes + n_more > budget) {
      is_full[step.item] = true;
      continue;
    }
    allocation.chosen[step.item] = next;
    allocation.n_bytes += n_more;
  }
  sum_up(items, allocation);
  return allocation;
}

/// Exact but for rounding bytes up to a unit, which is their common divisor where that gives few
/// enough states: never above the budget.
Allocation by_dynamic_programming(Items items, std::span<const std::vector<std::size_t>> fronts,
                                  std::int64_t slack) {
  constexpr std::int64_t most_states = std::int64_t{1} << 16;
  std::int64_t divisor = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    for (const std::size_t c : fronts[i])
      divisor = std::gcd(divisor, items[i][c].n_bytes - items[i][fronts[i][0]].n_bytes);
  }
  divisor = std::max<std::int64_t>(divisor, 1);
  const std::int64_t unit =
      slack / divisor < most_states ? divisor : (slack + most_states - 1) / most_states;
  const auto n_states = static_cast<std::size_t>(slack / unit) + 1;

  // best[s]: least loss of the items so far within s units; taken[i][s]: what item i has then.
  std::vector<double> best(n_states, 0.0), next(n_states);
  std::vector<std::vector<std::uint16_t>> taken;
  const auto cost = [&](std::size_t i, std::size_t place) {
    const std::int64_t n_more = items[i][fronts[i][place]].n_bytes - items[i][fronts[i][0]].n_bytes;
    return static_cast<std::size_t>((n_more + unit - 1) / unit);
  };
  for (std::size_t i = 0; i < items.size(); ++i) {
    std::ranges::fill(next, infinity);
    auto& item_taken = taken.emplace_back(n_states, std::uint16_t{0});
    for (std::size_t place = 0; place < fronts[i].size(); ++place) {
      const double loss = items[i][fronts[i][place]].loss;
      const std::size_t n_units = cost(i, place);
      for (std::size_t s = n_units; s < n_states; ++s) {
        const double sum = best[s - n_units] + loss;
        if (sum < next[s]) {
          next[s] = sum;
          item_taken[s] = static_cast<std::uint16_t>(place);
        }
      }
    }
    std::swap(best, next);
  }
  Allocation allocation;
  allocation.chosen.resize(items.size());
  std::size_t state = n_states - 1;
  for (std::size_t i = items.size(); i-- > 0;) {
    const std::size_t place = taken[i][state];
    allocation.chosen[i] = fronts[i][place];
    state -= cost(i, place);
  }
  sum_up(items, allocation);
  return allocation;
}

/// What rounding to units left over: the most useful step that still fits, until none does.
void fill(Items items, std::span<const std::vector<std::size_t>> fronts, std::int64_t budget,
          Allocation& allocation) {
  while (true) {
    double most_saved = 0;
    std::size_t item = 0, candidate = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const Candidate& now = items[i][allocation.chosen[i]];
      for (const std::size_t c : fronts[i]) {
        const double saved = now.loss - items[i][c].loss;
        if (allocation.n_bytes - now.n_bytes + items[i][c].n_bytes <= budget &&
            saved > most_saved) {
          most_saved = saved;
          item = i;
          candidate = c;
        }
      }
    }
    if (most_saved == 0) return;
    allocation.chosen[item] = candidate;
    sum_up(items, allocation);
  }
}

std::int64_t sum_of_extremes(Items items, bool largest) {
  std::int64_t total = 0;
  for (const std::vector<Candidate>& candidates : items) {
    const auto [least, most] = std::ranges::minmax(candidates, {}, &Candidate::n_bytes);
    total += largest ? most.n_bytes : least.n_bytes;
  }
  return total;
}

}  // namespace

std::int64_t least_bytes(Items items) {
  return sum_of_extremes(items, /*largest=*/false);
}

std::int64_t most_bytes(Items items) {
  return sum_of_extremes(items, /*largest=*/true);
}

Result<Allocation> allocate(Items items, std::int64_t budget) {
  const std::int64_t least = least_bytes(items);
  if (budget < least) {
    return Error(fmt::format("{} bytes are fewer than the {} that the smallest choices take",
                             budget, least));
  }
  std::vector<std::vector<std::size_t>> fronts;
  for (const std::vector<Candidate>& candidates : items) fronts.push_back(pareto(candidates));
  Allocation best = by_multiplier(items, fronts, budget);
  fill(items, fronts, budget, best);
  Allocation exact = by_dynamic_programming(items, fronts, budget - least);
  fill(items, fronts, budget, exact);
  return is_better(exact, best) ? exact : best;
}

Result<Allocation> allocate_under_loss(Items items, double most_loss) {
  std::int64_t low = least_bytes(items), high = most_bytes(items);
  auto best = allocate(items, high);
  if (!best) return best;
  if (!(best->loss <= most_loss)) {
    return Error(fmt::format("a loss of {:.4g} cannot be reached; the least is {:.4g}", most_loss,
                             best->loss));
  }
  constexpr std::int64_t n_parts = 4096;
  const std::int64_t precision = std::max<std::int64_t>((high - low) / n_parts, 1);
  auto smallest = allocate(items, low);
  if (!smallest || smallest->loss <= most_loss) return smallest;
  while (high - low > precision) {
    const std::int64_t middle = low + (high - low) / 2;
    auto tried = allocate(items, middle);
    if (!tried) return tried;
    if (tried->loss <= most_loss) {
      high = std::min(middle, tried->n_bytes);
      best = std::move(tried);
    } else {
      low = middle;
    }
  }
  return best;
}

}  // namespace lowbit
