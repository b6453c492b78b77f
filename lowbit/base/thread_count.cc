// SPDX-License-Identifier: Apache-2.0
// SMT siblings share the units that kernels saturate, a cgroup quota throttles whoever exceeds it:
// both make more threads slower, so the count takes the smallest limit and says which one it was.
#include "lowbit/base/thread_count.h"

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "lowbit/base/cgroups.h"

namespace lowbit {
namespace {

int count_cores(const std::string& root, std::span<const int> cpus) {
  std::set<std::pair<std::int64_t, std::int64_t>>
      cores;  // (package, core); an unknown CPU counts as its own core
  for (const int cpu : cpus) {
    const std::string topology =
        fmt::format("{}/sys/devices/system/cpu/cpu{}/topology/", root, cpu);
    const auto package = read_number(topology + "physical_package_id");
    const auto core = read_number(topology + "core_id");
    cores.emplace(core ? package.value_or(0) : -1, core ? *core : cpu);
  }
  return static_cast<int>(cores.size());
}

/// cgroup v2: "QUOTA PERIOD" or "max PERIOD" in microseconds.
std::optional<double> quota_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  double quota = 0, period = 0;
  if (!(file >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

/// cgroup v1: a quota of -1 means no limit.
std::optional<double> quota_v1(const std::string& folder) {
  const auto quota = read_number(folder + "/cpu.cfs_quota_us");
  const auto period = read_number(folder + "/cpu.cfs_period_us");
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

/// CPUs' worth of time this process may use; infinity without a quota.
double cgroup_quota(const std::string& root) {
  double least = std::numeric_limits<double>::infinity();
  visit_cgroups(root, "cpu", [&](const std::string& folder, bool is_v2) {
    if (const auto quota = is_v2 ? quota_v2(folder) : quota_v1(folder)) {
      least = std::min(least, *quota);
    }
  });
  return least;
}

std::vector<int> affinity_cpus() {
  // The kernel refuses a mask smaller than its own: grow until it fits.
  constexpr std::size_t n_cpus_first_try = 1024, n_cpus_last_try = 1 << 20;
  for (std::size_t n_cpus = n_cpus_first_try; n_cpus <= n_cpus_last_try; n_cpus *= 2) {
    std::vector<cpu_set_t> mask(n_cpus / CPU_SETSIZE);
    const std::size_t n_bytes = mask.size() * sizeof(cpu_set_t);
    if (sched_getaffinity(0, n_bytes, mask.data()) != 0) continue;
    std::vector<int> cpus;
    for (std::size_t cpu = 0; cpu < n_cpus; ++cpu) {
      if (CPU_ISSET_S(cpu, n_bytes, mask.data())) cpus.push_back(static_cast<int>(cpu));
    }
    return cpus;
  }
  return {0};
}

std::string count_of(int n, const char* what) {
  return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
}

}  // namespace

ThreadCount thread_count_under(const std::string& root, std::span<const int> allowed_cpus) {
  const int n_cores = std::max(count_cores(root, allowed_cpus), 1);
  const double quota = cgroup_quota(root);
  if (quota < n_cores) {
    return {
        std::max(static_cast<int>(quota), 1),
        fmt::format("cgroup quota of {:.2f} CPUs, {}", quota, count_of(n_cores, "physical core"))};
  }
  return {n_cores, count_of(n_cores, "physical core")};
}

ThreadCount default_thread_count() {
  return thread_count_under("", affinity_cpus());
}

}  // namespace lowbit
