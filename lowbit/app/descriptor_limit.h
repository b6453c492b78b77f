// SPDX-License-Identifier: Apache-2.0
// The limit of open files, for commands that hold thousands of connections.
#pragma once

#include <sys/resource.h>

namespace lowbit::app {

/// Every connection is a descriptor: as many as the system lets us have.
inline void raise_descriptor_limit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace lowbit::app
