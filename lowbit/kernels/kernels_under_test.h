// SPDX-License-Identifier: Apache-2.0
// The kernels that tests compare with the reference: those that this CPU runs, and bodies whose
// instruction set it may lack on an emulation of it.
#pragma once

#include <vector>

#include "lowbit/kernels/kernel_table.h"

namespace lowbit {

std::vector<const KernelTable*> kernels_under_test();

}  // namespace lowbit
