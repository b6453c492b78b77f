// SPDX-License-Identifier: Apache-2.0
// The kernels on NEON with the int8 matrix extension (Neoverse V1 and N2, Cortex-A710 and later).
#if defined(__aarch64__)
#include <arm_neon.h>

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

LOWBIT_TARGET_REGION_BEGIN("arch=armv8.2-a+dotprod+i8mm")
namespace lowbit {
namespace {

#include "lowbit/kernels/primitives_neon.h"

#include "lowbit/kernels/dot_neon_i8mm.h"

#include "lowbit/kernels/matmul_body.h"

#include "lowbit/kernels/vector_ops_body.h"

#include "lowbit/kernels/attention_body.h"

#include "lowbit/kernels/roof_body.h"

#include "lowbit/kernels/gram_body.h"

constexpr KernelTable table{.isa = Isa::neon_i8mm,
                            .matmul = matmul_kernels,
                            .vector = vector_kernels,
                            .attention = attention_kernels,
                            .roof = roof_kernels,
                            .gram = gram_kernels};

}  // namespace
}  // namespace lowbit
LOWBIT_TARGET_REGION_END

namespace lowbit {
const KernelTable* neon_i8mm_table() {
  return &table;
}
}  // namespace lowbit
#endif
