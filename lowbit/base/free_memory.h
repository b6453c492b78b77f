// SPDX-License-Identifier: Apache-2.0
// How much memory this process may still take, read from files below a root so that tests can
// supply their own /proc and /sys.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace lowbit {

struct FreeMemory {
  std::int64_t n_bytes = 0;
  std::string reason;  // which limit it was, for people to read
};

/// What the system calls available, or what the limit of a cgroup leaves if that is less. Files in
/// the page cache do not count as taken. Nothing where the system does not tell.
std::optional<FreeMemory> free_memory_under(const std::string& root);
std::optional<FreeMemory> free_memory();

}  // namespace lowbit
