// SPDX-License-Identifier: Apache-2.0
// The kernels on AMX-INT8: matrix tiles for int8 products of many tokens, AVX-512 VNNI for all
// else.
#if defined(__x86_64__)
// g++ 12 takes the undefined lanes inside its own headers for uninitialized variables.
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include <bit>
#include <cstddef>
#include <cstdint>

#include "lowbit/base/half.h"
#include "lowbit/base/math.h"
#include "lowbit/kernels/isa_tables.h"
#include "lowbit/kernels/kernel_table.h"
#include "lowbit/kernels/target_region.h"

LOWBIT_TARGET_REGION_BEGIN(
    "amx-tile,amx-int8,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
namespace lowbit {
namespace {

#include "lowbit/kernels/primitives_zmm.h"

#include "lowbit/kernels/dot_avx512_vnni.h"

#include "lowbit/kernels/matmul_body.h"

#include "lowbit/kernels/amx_body.h"

/// The tile registers. In assembly, because the intrinsics take literals alone as tile numbers.
struct HardwareTiles {
  static void configure(const TileConfig& config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
  }
  static void release() { __asm__ volatile("tilerelease"); }
  template <int tile>
  LOWBIT_PRIMITIVE static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(tile));
  }
  /// Rows of bytes, `stride` apart.
  template <int tile>
  LOWBIT_PRIMITIVE static void load(const void* p, std::int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(tile) : "memory");
  }
  template <int tile>
  LOWBIT_PRIMITIVE static void store(void* p, std::int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                     :
                     : "r"(p), "r"(stride), "i"(tile)
                     : "memory");
  }
  /// sums += signed bytes of a's rows times unsigned bytes of b's columns, four at a time.
  template <int sums, int a, int b>
  LOWBIT_PRIMITIVE static void dot_signed_unsigned() {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(a), "i"(b));
  }
};

}  // namespace
}  // namespace lowbit
LOWBIT_TARGET_REGION_END

namespace lowbit {
const KernelTable* amx_int8_table() {
  static const KernelTable table = amx_table<HardwareTiles, avx512_vnni_table>();
  return &table;
}
}  // namespace lowbit
#endif
