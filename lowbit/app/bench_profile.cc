// SPDX-License-Identifier: Apache-2.0
#include "lowbit/app/bench_profile.h"

#include <fmt/format.h>

#include <numeric>

namespace lowbit::app {

std::string profile_text(const BenchRow& row, std::int64_t n_layers, int n_threads) {
  constexpr double micro = 1e6;
  const BackendCounters& c = row.counters;
  const double total = std::accumulate(row.seconds.begin(), row.seconds.end(), 0.0);
  // A decode is a step per token, a prefill one for all of them.
  const double n_repetitions = static_cast<double>(row.seconds.size());
  const double n_steps =
      n_repetitions * (row.phase == "decode" ? static_cast<double>(row.n_tokens) : 1.0);
  std::string text = fmt::format("{}, depth {}, batch {}: {:.1f} us a step\n", row.phase,
                                 row.n_depth, row.n_batch, total / n_steps * micro);
  text += "| work      |     us |   share | barriers | busy | joined late | waited at the end |\n";
  text += "|-----------|-------:|--------:|---------:|-----:|------------:|------------------:|\n";
  LoopCounters all;
  double counted = 0;
  const auto add_line = [&](const char* name, const WorkCounters& work) {
    // Shares of the threads' time in loops; what is missing to 100 % of busy is in the other two.
    const double capacity = work.loops.seconds * n_threads;
    const auto share = [&](double seconds) {
      return capacity > 0 ? fmt::format("{:.1f} %", 100 * seconds / capacity) : std::string("-");
    };
    text += fmt::format("| {:<9} | {:>6.1f} | {:>5.1f} % | {:>8.1f} | {:>4} | {:>11} | {:>17} |\n",
                        name, work.seconds / n_steps * micro, 100 * work.seconds / total,
                        static_cast<double>(work.loops.n_shared) / n_steps, share(work.loops.busy),
                        share(work.loops.late), share(work.loops.idle));
    all += work.loops;
    counted += work.seconds;
  };
  add_line("products", c.products);
  add_line("attention", c.attention);
  add_line("rows", c.rows);
  text += fmt::format("| the rest  | {:>6.1f} | {:>5.1f} % |\n",
                      (total - counted) / n_steps * micro, 100 * (total - counted) / total);
  const auto n_barriers = static_cast<double>(all.n_shared);
  const double lost = (all.late + all.idle) / n_threads;
  text += fmt::format(
      "{:.1f} barriers a step, {:.2f} a layer; {:.2f} us lost at each, {:.1f} us a step ({:.1f} "
      "%)\n",
      n_barriers / n_steps, n_barriers / n_steps / static_cast<double>(n_layers),
      n_barriers > 0 ? lost / n_barriers * micro : 0.0, lost / n_steps * micro, 100 * lost / total);
  return text;
}

}  // namespace lowbit::app
