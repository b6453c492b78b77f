// SPDX-License-Identifier: Apache-2.0
// Matrices that must share a scheme, because programs that run models multiply them as one: q, k
// and v of a layer, gate and up of a layer. Every other matrix is a group of its own; embeddings
// that are the head too are one tensor and one group.
#pragma once

#include <string>
#include <vector>

#include "lowbit/model/model_file.h"

namespace lowbit {

struct TensorGroup {
  std::string name;  // "layers.3 q k v", or the name of its one tensor
  std::vector<const ModelTensor*> tensors;

  std::int64_t n_weights() const;
};

/// Every matrix of the model in exactly one group, in the order of the model's tensors. `model`
/// must outlive the result.
std::vector<TensorGroup> tensor_groups(const ModelFile& model);

}  // namespace lowbit
