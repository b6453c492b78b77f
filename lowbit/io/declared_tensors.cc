// SPDX-License-Identifier: Apache-2.0
#include "lowbit/io/declared_tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

#include "lowbit/formats/learned_code.h"
#include "lowbit/io/lowbit_convention.h"

namespace lowbit {

DeclaredTensors::DeclaredTensors(std::string place, std::vector<TensorDeclaration> tensors)
    : place_(std::move(place)), tensors_(std::move(tensors)) {}

Result<std::size_t> DeclaredTensors::next(const QuantizedTensor& tensor) const {
  if (n_met_ == tensors_.size()) return Error(place_ + ": more tensors than were declared");
  const TensorDeclaration& declared = tensors_[n_met_];
  if (!same_but_for_tables(tensor.scheme, declared.scheme) ||
      tensor.rows != convention::rows_of(declared.shape) ||
      tensor.cols != convention::cols_of(declared.shape)) {
    return Error(fmt::format("tensor {} was declared as {} of {} and is {} x {} of {}",
                             declared.name, fmt::join(declared.shape, " x "),
                             to_string(declared.scheme), tensor.rows, tensor.cols,
                             to_string(tensor.scheme)));
  }
  if (!(tensor.input == declared.input)) {
    return Error(fmt::format("tensor {} has another basis than was declared", declared.name));
  }
  return n_met_;
}

Status DeclaredTensors::check_complete() const {
  if (n_met_ == tensors_.size()) return ok();
  return Error(
      fmt::format("{}: only {} of {} tensors were written", place_, n_met_, tensors_.size()));
}

}  // namespace lowbit
