// SPDX-License-Identifier: Apache-2.0
// What limits the number of useful threads, read from files below a root so that tests can supply
// their own /proc and /sys.
#pragma once

#include <span>
#include <string>

#include "lowbit/base/thread_pool.h"

namespace lowbit {

/// floor(min(distinct physical cores among allowed_cpus, number of allowed_cpus, cgroup quota)), at
/// least 1. root: "" on a real machine. Files that are missing limit nothing.
ThreadCount thread_count_under(const std::string& root, std::span<const int> allowed_cpus);

}  // namespace lowbit
