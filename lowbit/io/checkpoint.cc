// SPDX-License-Identifier: Apache-2.0
#include "lowbit/io/checkpoint.h"

namespace lowbit {

std::int64_t TensorInfo::cols() const {
  return shape.empty() ? 1 : shape.back();
}

std::int64_t TensorInfo::rows() const {
  std::int64_t product = 1;
  for (std::size_t d = 0; d + 1 < shape.size(); ++d) product *= shape[d];
  return product;
}

std::int64_t Checkpoint::index_of(std::string_view name) const {
  const auto all = tensors();
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i].name == name) return static_cast<std::int64_t>(i);
  }
  return -1;
}

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const std::int64_t index = index_of(name);
  return index < 0 ? nullptr : &tensors()[static_cast<std::size_t>(index)];
}

double bits_per_weight(const Checkpoint& checkpoint) {
  std::int64_t n_bytes = 0, n_numbers = 0;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    n_bytes += tensor.n_bytes;
    n_numbers += tensor.n_numbers();
  }
  return n_numbers == 0 ? 0 : 8.0 * static_cast<double>(n_bytes) / static_cast<double>(n_numbers);
}

}  // namespace lowbit
