// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/roofs.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

namespace lowbit {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double probe_seconds = 0.02;
constexpr double giga = 1e9;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Operations per second of all threads together, each running probe(n_rounds); the best probe
/// counts, what a neighbour takes away is not this machine's limit.
template <class Probe>
double compute_roof(ThreadPool& pool, int n_probes, Probe&& probe) {
  std::int64_t n_rounds = 1 << 10;
  while (true) {
    const auto start = Clock::now();
    probe(n_rounds);
    const double seconds = seconds_since(start);
    if (seconds >= probe_seconds) break;
    n_rounds = seconds < probe_seconds / 8 ? n_rounds * 8 : n_rounds * 2;
  }
  double best = 0;
  for (int i = 0; i < n_probes; ++i) {
    std::vector<std::int64_t> operations(static_cast<std::size_t>(pool.n_threads()));
    const auto start = Clock::now();
    pool.parallel_for(pool.n_threads(), /*chunk=*/1,
                      [&](std::int64_t first, std::int64_t last, int) {
                        for (std::int64_t share = first; share < last; ++share) {
                          operations[static_cast<std::size_t>(share)] = probe(n_rounds);
                        }
                      });
    double sum = 0;
    for (const std::int64_t n : operations) sum += static_cast<double>(n);
    best = std::max(best, sum / seconds_since(start));
  }
  return best;
}

double read_roof(const KernelTable& kernels, ThreadPool& pool, std::int64_t read_bytes,
                 int n_probes) {
  // Chunks as the products take them: large enough for the prefetcher, small enough to be stolen.
  constexpr std::int64_t chunk_bytes = std::int64_t{1} << 20;
  static_assert(chunk_bytes % roof_read_multiple == 0);
  const std::int64_t n_chunks =
      std::max<std::int64_t>((read_bytes + chunk_bytes - 1) / chunk_bytes, 1);
  constexpr std::size_t alignment = 64;
  const auto n_bytes = static_cast<std::size_t>(n_chunks * chunk_bytes);
  std::vector<std::byte> memory(n_bytes + alignment);
  void* aligned = memory.data();
  std::size_t space = memory.size();
  std::align(alignment, n_bytes, aligned, space);
  const auto* bytes = static_cast<const std::byte*>(aligned);
  // Written once: untouched pages would all be the same page of zeros.
  pool.parallel_for(n_chunks, 1, [&](std::int64_t first, std::int64_t last, int) {
    std::memset(static_cast<std::byte*>(aligned) + first * chunk_bytes, 1,
                static_cast<std::size_t>((last - first) * chunk_bytes));
  });
  double best = 0;
  for (int i = 0; i < n_probes; ++i) {
    const auto start = Clock::now();
    pool.parallel_for(n_chunks, 1, [&](std::int64_t first, std::int64_t last, int) {
      std::array<std::uint8_t, 64> sink;
      for (std::int64_t chunk = first; chunk < last; ++chunk) {
        kernels.roof.read(bytes + chunk * chunk_bytes, chunk_bytes, sink.data());
      }
    });
    best = std::max(best, static_cast<double>(n_bytes) / seconds_since(start));
  }
  return best;
}

}  // namespace

Roofs measure_roofs(const KernelTable& kernels, ThreadPool& pool, std::int64_t read_bytes,
                    int n_probes) {
  Roofs roofs;
  roofs.int8_gops = compute_roof(pool, n_probes,
                                 [&](std::int64_t n_rounds) {
                                   std::array<std::int32_t, 16> sink;
                                   return kernels.roof.int8_products(n_rounds, sink.data());
                                 }) /
                    giga;
  roofs.f32_gflops = compute_roof(pool, n_probes,
                                  [&](std::int64_t n_rounds) {
                                    std::array<float, 16> sink;
                                    return kernels.roof.f32_products(n_rounds, sink.data());
                                  }) /
                     giga;
  roofs.read_gbs = read_roof(kernels, pool, read_bytes, n_probes) / giga;
  return roofs;
}

}  // namespace lowbit
