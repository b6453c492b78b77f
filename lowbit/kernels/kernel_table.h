// SPDX-License-Identifier: Apache-2.0
// A kernel table is what one instruction set offers: plain function pointers, grouped by who calls
// them. Tables are constants, walked best first; LOWBIT_ISA forces one. No static initialisers, so
// nothing wide runs before a table was chosen.
#pragma once

#include <span>

#include "lowbit/base/isa.h"
#include "lowbit/base/result.h"
#include "lowbit/kernels/attention.h"
#include "lowbit/kernels/gram.h"
#include "lowbit/kernels/matmul_kernels.h"
#include "lowbit/kernels/roof_kernels.h"
#include "lowbit/kernels/vector_ops.h"

namespace lowbit {

struct KernelTable {
  Isa isa = Isa::scalar;
  MatmulKernels matmul;
  VectorKernels vector;
  AttentionKernels attention;
  RoofKernels roof;
  GramKernels gram;
};

/// Null when the set is not compiled into this build or this CPU does not have it.
const KernelTable* kernels_for(Isa isa);

/// The first is the best that needs not be asked for; scalar is last and always there.
std::span<const KernelTable* const> available_kernels();

/// Whether a set may be chosen without being named: not an approximate one, and not one that the
/// project never ran on hardware.
bool runs_by_default(Isa isa);

/// The instruction sets this build has code for, best first, whether the CPU has them or not.
std::span<const Isa> compiled_isas();

/// The table that the environment variable LOWBIT_ISA names, or the best one. Read once. Errors: a
/// name that is unknown or not available here; the sentence lists what can be chosen.
Result<const KernelTable*> select_kernels();

/// select_kernels() for a given name; empty means the best.
Result<const KernelTable*> select_kernels(std::string_view isa_name);

}  // namespace lowbit
