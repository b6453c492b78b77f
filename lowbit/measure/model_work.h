// SPDX-License-Identifier: Apache-2.0
// What one token costs a loaded model: operations of its matrix products by kind of arithmetic,
// bytes of weights that a decode step reads, and how its matrices are stored.
#pragma once

#include <cstdint>
#include <string>

#include "lowbit/runtime/loaded_model.h"

namespace lowbit {

struct ModelWork {
  // Operations for one token; a multiply-add counts as two. The head runs only where logits are
  // wanted.
  double int8_ops = 0, f32_ops = 0, head_int8_ops = 0, head_f32_ops = 0;
  std::int64_t decode_bytes = 0;  // packed weights read for one token, head included
  std::string scheme;             // of most numbers of the layers; "+" stands for further ones
  std::string activations;        // the same
};

ModelWork work_of(const LoadedModel& model);

/// The recipe as it runs: "w=q4_1,a=int8.g32,kv=f16".
std::string recipe_in_use(const LoadedModel& model);

}  // namespace lowbit
