// SPDX-License-Identifier: Apache-2.0
// The rounding mode and the denormal modes of the current thread. Same bits everywhere needs the
// defaults: round to nearest even, denormals kept.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lowbit {

#if defined(__x86_64__)
inline constexpr std::uint32_t default_float_control = 0x1f80;  // MXCSR: all exceptions masked
inline constexpr std::uint32_t float_status_flags = 0x3f;       // sticky, no influence on results

inline bool float_environment_is_default() {
  return (_mm_getcsr() & ~float_status_flags) == default_float_control;
}
inline void set_default_float_environment() {
  _mm_setcsr(default_float_control);
}
#elif defined(__aarch64__)
inline bool float_environment_is_default() {
  std::uint64_t control;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  return control == 0;
}
inline void set_default_float_environment() {
  asm volatile("msr fpcr, xzr");
}
#endif

}  // namespace lowbit
