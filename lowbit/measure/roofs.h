// SPDX-License-Identifier: Apache-2.0
// The roofs of this machine with a given team of threads: the denominators of every speed that is
// printed.
#pragma once

#include <cstdint>

#include "lowbit/base/thread_pool.h"
#include "lowbit/kernels/kernel_table.h"

namespace lowbit {

struct Roofs {
  double read_gbs = 0;   // 10^9 bytes/s, all threads together
  double int8_gops = 0;  // 10^9 int8 operations/s, a multiply-add being two
  double f32_gflops = 0;
};

/// Best of n_probes short ones. read_bytes: size of the buffer that is read over and over, shared
/// by the threads; with the bytes of a model's weights it answers how fast exactly these bytes
/// could be read on this machine, caches included.
Roofs measure_roofs(const KernelTable& kernels, ThreadPool& pool, std::int64_t read_bytes,
                    int n_probes = 7);

/// A buffer far beyond most caches: the roof of memory.
inline constexpr std::int64_t memory_read_bytes = std::int64_t{1} << 30;

}  // namespace lowbit
