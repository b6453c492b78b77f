// SPDX-License-Identifier: Apache-2.0
// The kernels in plain C++: the bodies on primitives_scalar.h, for any CPU.
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

namespace lowbit {
namespace {

#include "lowbit/kernels/primitives_scalar.h"

#include "lowbit/kernels/matmul_body.h"

#include "lowbit/kernels/vector_ops_body.h"

#include "lowbit/kernels/attention_body.h"

#include "lowbit/kernels/roof_body.h"

#include "lowbit/kernels/gram_body.h"

constexpr KernelTable table{.isa = Isa::scalar,
                            .matmul = matmul_kernels,
                            .vector = vector_kernels,
                            .attention = attention_kernels,
                            .roof = roof_kernels,
                            .gram = gram_kernels};

}  // namespace
}  // namespace lowbit

namespace lowbit {
const KernelTable* scalar_table() {
  return &table;
}
}  // namespace lowbit
