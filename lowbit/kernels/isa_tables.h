// SPDX-License-Identifier: Apache-2.0
// The tables of the instruction-set files, for kernel_table.cc. The functions are compiled for the
// baseline: asking for a table runs nothing wide.
#pragma once

namespace lowbit {

struct KernelTable;

const KernelTable* scalar_table();
const KernelTable* avx2_table();
const KernelTable* avx_vnni_table();
const KernelTable* avx512_table();
const KernelTable* avx512_vnni_table();
const KernelTable* amx_int8_table();
const KernelTable* avx512_bf16_table();
const KernelTable* neon_dotprod_table();
const KernelTable* neon_i8mm_table();

}  // namespace lowbit
