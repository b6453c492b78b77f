// SPDX-License-Identifier: Apache-2.0
// LOWBIT_ASSERT states what the programmer guarantees; no input may reach it. Checked in the debug
// and asan builds, free in release.
#pragma once

#if defined(LOWBIT_CHECKED)
#include <cstdio>
#include <cstdlib>
#define LOWBIT_ASSERT(condition) \
  ((condition)                   \
       ? void(0)                 \
       : (std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition), std::abort()))
#else
#define LOWBIT_ASSERT(condition) ((void)0)
#endif
