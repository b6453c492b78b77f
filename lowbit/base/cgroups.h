// SPDX-License-Identifier: Apache-2.0
// Where the control groups of this process keep their limits, in cgroup v1 and v2 (also side by
// side, as systemd's hybrid layout has them).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace lowbit {

/// The first number of a file; nothing where there is none: "max" means no limit.
std::optional<std::int64_t> read_number(const std::string& path);

/// Visits the folders of a controller ("cpu", "memory") that limit this process: its own group's
/// and those of all ancestors. root: "" for the system's own /proc and /sys.
void visit_cgroups(const std::string& root, std::string_view controller,
                   const std::function<void(const std::string& folder, bool is_v2)>& visit);

}  // namespace lowbit
