// SPDX-License-Identifier: Apache-2.0
// The declarations of a writer, which its tensors meet one after the other: what every
// CheckpointWriter checks alike.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/io/checkpoint_writer.h"

namespace lowbit {

class DeclaredTensors {
 public:
  /// place: the file or folder that is written, for messages.
  DeclaredTensors(std::string place, std::vector<TensorDeclaration> tensors);

  const std::vector<TensorDeclaration>& all() const { return tensors_; }
  /// The index of the declaration whose turn it is. Errors: all had theirs, the tensor has another
  /// shape, scheme (but for learned tables) or basis.
  Result<std::size_t> next(const QuantizedTensor& tensor) const;
  /// It is written.
  void advance() { ++n_met_; }
  /// Error: some never came.
  Status check_complete() const;

 private:
  std::string place_;
  std::vector<TensorDeclaration> tensors_;
  std::size_t n_met_ = 0;
};

}  // namespace lowbit
