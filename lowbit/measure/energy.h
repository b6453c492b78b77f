// SPDX-License-Identifier: Apache-2.0
// Energy from the counters that Linux shows under /sys/class/powercap (RAPL of Intel and AMD):
// packages, and their memory where it has a counter of its own. They belong to the whole machine,
// so what other processes use meanwhile is in them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lowbit/base/result.h"

namespace lowbit {

class EnergyMeter {
 public:
  /// Errors say why nothing can be read: no such folder, no counter in it, no permission.
  static Result<EnergyMeter> open(const std::string& folder = "/sys/class/powercap");

  /// Joules since the last call, or since open. Counters that wrapped around once in between are
  /// taken for that. Errors: a counter that has become unreadable.
  Result<double> joules();
  /// "package-0", "package-0 dram", ...
  const std::vector<std::string>& domains() const { return names_; }

 private:
  EnergyMeter() = default;
  struct Domain {
    std::string folder;
    std::int64_t range = 0, last = 0;  // microjoules
  };
  std::vector<Domain> domains_;
  std::vector<std::string> names_;
};

}  // namespace lowbit
