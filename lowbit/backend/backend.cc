// SPDX-License-Identifier: Apache-2.0
// What the verbs of a layer mean.
#include "lowbit/backend/backend.h"

#include <array>

namespace lowbit {

void Backend::norm_matmul(const Tensor& x, const Norm& norm, std::span<const Product> products) {
  rms_norm(x, *norm.w, norm.eps, *norm.y);
  matmul(*norm.y, products);
}

void Backend::attention_inputs(const Tensor& x, const Norm& norm, const AttentionInputs& inputs) {
  norm_matmul(x, norm, std::array{inputs.q, inputs.k, inputs.v});
  Tensor &q = *inputs.q.y, &k = *inputs.k.y;
  if (inputs.q_norm != nullptr) rms_norm(q, *inputs.q_norm, inputs.eps, q);
  if (inputs.k_norm != nullptr) rms_norm(k, *inputs.k_norm, inputs.eps, k);
  rope(q, inputs.head_dim, *inputs.cos, *inputs.sin);
  rope(k, inputs.head_dim, *inputs.cos, *inputs.sin);
  kv_store(*inputs.pool, k, *inputs.v.y, inputs.sequences);
}

void Backend::gated_matmul(const Tensor& x, const Norm& norm, const Product& gate,
                           const Product& up) {
  norm_matmul(x, norm, std::array{gate, up});
  silu_mul(*gate.y, *up.y);
}

void Backend::matmul_add(const Tensor& x, const Product& product, Tensor& sum) {
  matmul(x, {&product, 1});
  add(sum, *product.y);
}

}  // namespace lowbit
