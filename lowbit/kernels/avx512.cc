// SPDX-License-Identifier: Apache-2.0
// The kernels on AVX-512 (F, BW, DQ, VL) without VNNI.
#if defined(__x86_64__)
// g++ 12 takes the undefined lanes inside its own headers for uninitialized variables.
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include <bit>
#include <cstddef>
#include <cstdint>

#include "lowbit/base/half.h"
#include "lowbit/base/math.h"
#include "lowbit/kernels/attention.h"
#include "lowbit/kernels/isa_tables.h"
#include "lowbit/kernels/kernel_table.h"
#include "lowbit/kernels/target_region.h"
#include "lowbit/kernels/vector_ops.h"

LOWBIT_TARGET_REGION_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
namespace lowbit {
namespace {

#include "lowbit/kernels/primitives_zmm.h"

#include "lowbit/kernels/dot_avx512.h"

#include "lowbit/kernels/matmul_body.h"

#include "lowbit/kernels/vector_ops_body.h"

#include "lowbit/kernels/attention_body.h"

#include "lowbit/kernels/roof_body.h"

#include "lowbit/kernels/gram_body.h"

constexpr KernelTable table{.isa = Isa::avx512,
                            .matmul = matmul_kernels,
                            .vector = vector_kernels,
                            .attention = attention_kernels,
                            .roof = roof_kernels,
                            .gram = gram_kernels};

}  // namespace
}  // namespace lowbit
LOWBIT_TARGET_REGION_END

namespace lowbit {
const KernelTable* avx512_table() {
  return &table;
}
}  // namespace lowbit
#endif
