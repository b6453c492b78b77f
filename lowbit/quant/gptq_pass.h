// SPDX-License-Identifier: Apache-2.0
// The passes of GPTQ over one matrix, once its Hessian is factored: codes column by column with
// feedback, then sweeps of coordinate descent. Blocks of up to 128 columns: what the columns before
// a block lost reaches it by one matrix product, what happens inside it runs on tiles of 16 rows.
#pragma once

#include "lowbit/quant/gptq.h"
#include "lowbit/quant/gptq_order.h"
#include "lowbit/quant/linear_algebra.h"

namespace lowbit {

/// hessian, factor: over the columns in their order, damped.
Result<QuantizedTensor> round_with_feedback(MatrixView w, const Scheme& scheme,
                                            const GptqOptions& options, MatrixView hessian,
                                            const TriangularFactor& factor,
                                            const ColumnOrder& order, FloatProducts& products,
                                            ThreadPool& pool);

}  // namespace lowbit
