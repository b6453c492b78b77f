// SPDX-License-Identifier: Apache-2.0
// The kernels on AVX2 + FMA + F16C with AVX-VNNI: VEX encodings alone, for CPUs without AVX-512.
#if defined(__x86_64__)
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

LOWBIT_TARGET_REGION_BEGIN("avxvnni,avx2,fma,f16c")
namespace lowbit {
namespace {

#include "lowbit/kernels/primitives_ymm.h"

#include "lowbit/kernels/dot_avx_vnni.h"

#include "lowbit/kernels/matmul_body.h"

#include "lowbit/kernels/vector_ops_body.h"

#include "lowbit/kernels/attention_body.h"

#include "lowbit/kernels/roof_body.h"

#include "lowbit/kernels/gram_body.h"

constexpr KernelTable table{.isa = Isa::avx_vnni,
                            .matmul = matmul_kernels,
                            .vector = vector_kernels,
                            .attention = attention_kernels,
                            .roof = roof_kernels,
                            .gram = gram_kernels};

}  // namespace
}  // namespace lowbit
LOWBIT_TARGET_REGION_END

namespace lowbit {
const KernelTable* avx_vnni_table() {
  return &table;
}
}  // namespace lowbit
#endif
