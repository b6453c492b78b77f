// SPDX-License-Identifier: Apache-2.0
// A model whose tensors were scaled or rotated against each other, computed when they are asked
// for: every tensor that was touched comes as f32, all others as the source has them. Memory holds
// what is being loaded.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/compress/graph.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

/// Numbers of a tensor, changed in place.
struct EditedMatrix {
  std::span<float> numbers;  // (rows, cols) row-major
  std::int64_t rows = 0, cols = 0;

  std::span<float> row(std::int64_t r) const {
    return numbers.subspan(static_cast<std::size_t>(r * cols), static_cast<std::size_t>(cols));
  }
};

/// The factors of a fold: the channels of the producer are divided by them, the columns of the
/// consumers multiplied. factors: (fold.n_channels), none 0.
void divide_channels(const Fold& fold, std::span<const float> factors, EditedMatrix producer);
void multiply_columns(const Fold& fold, std::span<const float> factors, EditedMatrix consumer);

class FoldedModel final : public TensorOverlay {
 public:
  /// `source` must outlive this.
  explicit FoldedModel(const TensorSource& source) : TensorOverlay(source) {}
  FoldedModel(const FoldedModel&) = delete;  // a model folded twice is folded over a TensorSource
  FoldedModel& operator=(const FoldedModel&) = delete;

  using Edit = std::function<void(EditedMatrix)>;
  /// Comes after all earlier edits of the tensor.
  void edit(const std::string& name, Edit edit);
  /// Inputs of the matrix come in this basis from now on; its numbers are the caller's to turn.
  void set_input(const std::string& name, const Basis& input);
  /// The channels of the producer divided by the factors, the columns of the consumers multiplied.
  void scale(const Fold& fold, std::vector<float> factors);
  /// What a tensor holds now, as f32.
  Result<std::vector<float>> numbers(std::string_view name) const;

  Result<QuantizedTensor> load(std::string_view name) const override;
  Basis input(std::string_view name) const override;
  std::optional<RowSource> rows(std::string_view name) const override;

 private:
  struct Changes {
    std::vector<Edit> edits;
    Basis input;
  };
  Changes& changes_of(const std::string& name);

  std::map<std::string, Changes, std::less<>> changes_;
};

}  // namespace lowbit
