// SPDX-License-Identifier: Apache-2.0
// A target region: the functions between its begin and its end may use an instruction set that the
// rest of the program does not assume. Per-file -m flags would also compile shared inline functions
// for the wide set, and the linker may keep that copy for everyone. Standard headers and intrinsics
// are included before a region begins; inside it every function has internal linkage (a symbol gate
// checks this) and nothing of std:: is called.
#pragma once

#define LOWBIT_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define LOWBIT_TARGET_REGION_BEGIN(target_list) \
  LOWBIT_PRAGMA(clang attribute push(__attribute__((target(target_list))), apply_to = function))
#define LOWBIT_TARGET_REGION_END LOWBIT_PRAGMA(clang attribute pop)
#else
#define LOWBIT_TARGET_REGION_BEGIN(target_list) \
  LOWBIT_PRAGMA(GCC push_options)               \
  LOWBIT_PRAGMA(GCC target(target_list))
#define LOWBIT_TARGET_REGION_END LOWBIT_PRAGMA(GCC pop_options)
#endif

/// A primitive is one to four instructions: never a call, whatever the inliner's budget.
#define LOWBIT_PRIMITIVE [[gnu::always_inline]] inline
