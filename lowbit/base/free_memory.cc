// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/free_memory.h"

#include <algorithm>
#include <fstream>
#include <sstream>

namespace lowbit {
namespace {

std::optional<std::int64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  if (!(file >> value)) return std::nullopt;  // "max" is no number: no limit
  return value;
}

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

/// What a group and its ancestors leave.
void limit_by_groups(const std::string& mount, std::string path, const GroupFiles& files,
                     FreeMemory& memory) {
  for (;;) {
    const std::string folder = mount + path;
    const auto limit = read_number(folder + files.limit), used = read_number(folder + files.used);
    if (limit && used && *limit >= 0) {
      const auto cached = read_field(folder + "/memory.stat", files.reclaimable).value_or(0);
      const std::int64_t left = std::max<std::int64_t>(0, *limit - (*used - cached));
      if (left < memory.n_bytes) memory = {left, "memory limit of the cgroup"};
    }
    const auto slash = path.rfind('/');
    if (path.empty() || slash == std::string::npos) return;
    path.resize(slash);
  }
}

}  // namespace

std::optional<FreeMemory> free_memory_under(const std::string& root) {
  constexpr std::int64_t bytes_per_kb = 1024;
  const auto available = read_field(root + "/proc/meminfo", "MemAvailable:");
  if (!available) return std::nullopt;
  FreeMemory memory{*available * bytes_per_kb, "available memory"};
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "ID:CONTROLLERS:PATH"
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) limit_by_groups(root + "/sys/fs/cgroup", path, files_v2, memory);
    std::istringstream names(controllers);
    for (std::string name; std::getline(names, name, ',');) {
      if (name == "memory") {
        limit_by_groups(root + "/sys/fs/cgroup/memory", path, files_v1, memory);
      }
    }
  }
  return memory;
}

std::optional<FreeMemory> free_memory() {
  return free_memory_under("");
}

}  // namespace lowbit
