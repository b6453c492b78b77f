// SPDX-License-Identifier: Apache-2.0
// The kernels on AVX512-BF16: products with f32 activations by pairs of bfloats, approximate;
// AVX-512 VNNI for all else.
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

LOWBIT_TARGET_REGION_BEGIN("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
namespace lowbit {
namespace {

#include "lowbit/kernels/primitives_zmm.h"

#include "lowbit/kernels/dot_avx512_vnni.h"

#include "lowbit/kernels/matmul_body.h"

#include "lowbit/kernels/bf16_body.h"

}  // namespace
}  // namespace lowbit
LOWBIT_TARGET_REGION_END

namespace lowbit {
const KernelTable* avx512_bf16_table() {
  static const KernelTable table = [] {
    KernelTable t = *avx512_vnni_table();
    t.isa = Isa::avx512_bf16;
    t.matmul.f32_panels = f32_panels_by<Bf16Chain>;
    return t;
  }();
  return &table;
}
}  // namespace lowbit
#endif
