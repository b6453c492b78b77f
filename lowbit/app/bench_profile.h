// SPDX-License-Identifier: Apache-2.0
// Where the time of a benchmark's phase went, as text: kinds of work, barriers, waiting.
#pragma once

#include <string>

#include "lowbit/measure/bench.h"

namespace lowbit::app {

/// Lines for people, one per kind of work. row.counters must have been filled.
std::string profile_text(const BenchRow& row, std::int64_t n_layers, int n_threads);

}  // namespace lowbit::app
