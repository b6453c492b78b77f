// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/fold.h"

#include <utility>

#include "lowbit/base/assert.h"

namespace lowbit {

void divide_channels(const Fold& fold, std::span<const float> factors, EditedMatrix producer) {
  const std::int64_t n_each = fold.path == Fold::Path::norm ? 1 : producer.cols;
  LOWBIT_ASSERT(static_cast<std::int64_t>(factors.size()) == fold.n_channels);
  LOWBIT_ASSERT(static_cast<std::int64_t>(producer.numbers.size()) == fold.n_channels * n_each);
  for (std::size_t i = 0; i < producer.numbers.size(); ++i) {
    producer.numbers[i] /= factors[i / static_cast<std::size_t>(n_each)];
  }
}

void multiply_columns(const Fold& fold, std::span<const float> factors, EditedMatrix consumer) {
  LOWBIT_ASSERT(consumer.cols == fold.n_columns());
  std::vector<float> by_column(static_cast<std::size_t>(consumer.cols));
  for (std::int64_t c = 0; c < consumer.cols; ++c) {
    by_column[static_cast<std::size_t>(c)] = factors[static_cast<std::size_t>(fold.channel_of(c))];
  }
  for (std::int64_t r = 0; r < consumer.rows; ++r) {
    const std::span<float> row = consumer.row(r);
    for (std::size_t c = 0; c < row.size(); ++c) row[c] *= by_column[c];
  }
}

FoldedModel::Changes& FoldedModel::changes_of(const std::string& name) {
  return changes_.try_emplace(name, Changes{{}, source().input(name)}).first->second;
}

void FoldedModel::edit(const std::string& name, Edit edit) {
  LOWBIT_ASSERT(source().shape(name));
  changes_of(name).edits.push_back(std::move(edit));
}

void FoldedModel::set_input(const std::string& name, const Basis& input) {
  LOWBIT_ASSERT(source().shape(name) && check_basis(input, source().shape(name)->cols));
  changes_of(name).input = input;
}

void FoldedModel::scale(const Fold& fold, std::vector<float> factors) {
  const auto shared = std::make_shared<const std::vector<float>>(std::move(factors));
  edit(fold.producer, [=](EditedMatrix w) { divide_channels(fold, *shared, w); });
  if (!fold.bias.empty()) {
    edit(fold.bias, [=](EditedMatrix bias) {
      for (std::size_t i = 0; i < bias.numbers.size(); ++i) bias.numbers[i] /= (*shared)[i];
    });
  }
  for (const std::string& consumer : fold.consumers) {
    edit(consumer, [=](EditedMatrix w) { multiply_columns(fold, *shared, w); });
  }
}

Result<std::vector<float>> FoldedModel::numbers(std::string_view name) const {
  auto tensor = source().load(name);
  if (!tensor) return std::move(tensor).error();
  std::vector<float> numbers = decode(*tensor);
  if (const auto at = changes_.find(name); at != changes_.end()) {
    for (const Edit& edit : at->second.edits) edit({numbers, tensor->rows, tensor->cols});
  }
  return numbers;
}

Result<QuantizedTensor> FoldedModel::load(std::string_view name) const {
  const auto at = changes_.find(name);
  if (at == changes_.end()) return source().load(name);
  auto edited = numbers(name);
  if (!edited) return std::move(edited).error();
  const Shape shape = source().shape(name).value_or(Shape{});
  static const Scheme f32 = *parse_scheme("f32");
  QuantizedTensor tensor = encode_plain(*edited, f32, shape.rows, shape.cols);
  tensor.input = at->second.input;
  return tensor;
}

std::optional<RowSource> FoldedModel::rows(std::string_view name) const {
  return changes_.contains(name) ? std::nullopt : source().rows(name);
}

Basis FoldedModel::input(std::string_view name) const {
  const auto at = changes_.find(name);
  return at == changes_.end() ? source().input(name) : at->second.input;
}

}  // namespace lowbit
