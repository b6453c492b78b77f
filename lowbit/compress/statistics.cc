// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/statistics.h"

namespace lowbit {

InputStats TensorStats::view() const {
  const std::int64_t n = hessian.empty() ? 0 : n_inputs();
  return {.mean_square = mean_square,
          .mean_abs = mean_abs,
          .max_abs = max_abs,
          .hessian = MatrixView(hessian.data(), n, n),
          .n_tokens = n_tokens};
}

}  // namespace lowbit
