// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/cgroups.h"

#include <fstream>
#include <sstream>

namespace lowbit {

std::optional<std::int64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  if (!(file >> value)) return std::nullopt;
  return value;
}

void visit_cgroups(const std::string& root, std::string_view controller,
                   const std::function<void(const std::string& folder, bool is_v2)>& visit) {
  const auto visit_ancestors = [&](const std::string& mount, std::string path, bool is_v2) {
    for (;;) {
      visit(mount + path, is_v2);
      const auto slash = path.rfind('/');
      if (path.empty() || slash == std::string::npos) return;
      path.resize(slash);
    }
  };
  const std::string mount = root + "/sys/fs/cgroup";
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "ID:CONTROLLERS:PATH"
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) visit_ancestors(mount, path, /*is_v2=*/true);
    std::istringstream names(controllers);
    for (std::string name; std::getline(names, name, ',');) {
      if (name == controller) visit_ancestors(mount + "/" + name, path, /*is_v2=*/false);
    }
  }
}

}  // namespace lowbit
