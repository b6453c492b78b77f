// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/free_memory.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "lowbit/base/cgroups.h"

namespace lowbit {
namespace {

/// The number after a name at the start of a line: "MemAvailable:   123 kB", "inactive_file 123".
std::optional<std::int64_t> read_field(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string first;
    std::int64_t value = 0;
    if (words >> first >> value && first == name) return value;
  }
  return std::nullopt;
}

struct GroupFiles {
  const char *limit, *used, *reclaimable;
};
constexpr GroupFiles files_v2{"/memory.max", "/memory.current", "inactive_file"};
constexpr GroupFiles files_v1{"/memory.limit_in_bytes", "/memory.usage_in_bytes",
                              "total_inactive_file"};

}  // namespace

std::optional<FreeMemory> free_memory_under(const std::string& root) {
  constexpr std::int64_t bytes_per_kb = 1024;
  const auto available = read_field(root + "/proc/meminfo", "MemAvailable:");
  if (!available) return std::nullopt;
  FreeMemory memory{*available * bytes_per_kb, "available memory"};
  visit_cgroups(root, "memory", [&](const std::string& folder, bool is_v2) {
    const GroupFiles& files = is_v2 ? files_v2 : files_v1;
    const auto limit = read_number(folder + files.limit), used = read_number(folder + files.used);
    if (!limit || !used || *limit < 0) return;
    const auto cached = read_field(folder + "/memory.stat", files.reclaimable).value_or(0);
    const std::int64_t left = std::max<std::int64_t>(0, *limit - (*used - cached));
    if (left < memory.n_bytes) memory = {left, "memory limit of the cgroup"};
  });
  return memory;
}

std::optional<FreeMemory> free_memory() {
  return free_memory_under("");
}

}  // namespace lowbit
