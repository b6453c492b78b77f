// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/round_tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "lowbit/formats/learned_code.h"

namespace lowbit {
namespace {

/// Rows of the source as f32: [first, first + n_rows) into out.
using ReadRows = std::function<void(std::int64_t first, std::int64_t n_rows, std::span<float> out)>;

struct Source {
  std::int64_t rows = 0, cols = 0;
  ReadRows read;  // threads call it at once
};

/// Errors: a number that is not finite, with its place.
Status check_finite(std::span<const float> w, std::int64_t first_row, std::int64_t n_cols) {
  const auto bad = std::ranges::find_if(w, [](float number) { return !std::isfinite(number); });
  if (bad == w.end()) return ok();
  const std::int64_t at = bad - w.begin();
  return Error(fmt::format("the number in row {}, column {} is {}; the file is damaged",
                           first_row + at / n_cols, at % n_cols,
                           std::isnan(*bad) ? "NaN" : "infinite"));
}

/// Whether rows of the tensor can be made one by one: they share no factor and no table.
bool has_separate_rows(const Scheme& scheme) {
  if (scheme.code->is_learned) return false;
  if (scheme.scale == nullptr) return true;
  const bool whole_row = scheme.group.rows == 1;
  return whole_row && has_separate_rows(*scheme.scale) &&
         (scheme.zero == nullptr || has_separate_rows(*scheme.zero));
}

/// Copies the rows of every plane behind those of earlier slices.
void put_rows(const QuantizedTensor& slice, std::int64_t first_row, QuantizedTensor& whole) {
  for (std::int64_t row = 0; row < slice.codes.n_rows(); ++row) {
    std::ranges::copy(slice.codes.row(row), whole.codes.row(first_row + row).begin());
  }
  if (slice.scale) put_rows(*slice.scale, first_row, *whole.scale);
  if (slice.zero) put_rows(*slice.zero, first_row, *whole.zero);
}

Result<std::vector<float>> finite_rows(const Source& source, std::int64_t first,
                                       std::int64_t n_rows, ThreadPool& pool) {
  std::vector<float> w(static_cast<std::size_t>(n_rows * source.cols));
  constexpr std::int64_t rows_per_chunk = 16;
  pool.parallel_for(n_rows, rows_per_chunk, [&](std::int64_t begin, std::int64_t end, int) {
    source.read(first + begin, end - begin,
                std::span(w).subspan(static_cast<std::size_t>(begin * source.cols),
                                     static_cast<std::size_t>((end - begin) * source.cols)));
  });
  if (Status checked = check_finite(w, first, source.cols); !checked) {
    return std::move(checked).error();
  }
  return w;
}

Result<Rounded> round_rows(const Source& source, std::int64_t first, std::int64_t n_rows,
                           const InputStats& stats, const TensorRecipe& recipe, ThreadPool& pool) {
  const auto w = finite_rows(source, first, n_rows, pool);
  if (!w) return Error(w.error());
  return recipe.rounder->round(MatrixView(w->data(), n_rows, source.cols), stats, recipe.scheme,
                               pool);
}

Result<Rounded> round_source(const Source& source, const InputStats& stats,
                             const TensorRecipe& recipe, std::int64_t memory_bytes,
                             ThreadPool& pool) {
  const std::int64_t row_bytes = source.cols * std::int64_t{sizeof(float)};
  const std::int64_t n_at_once = std::max<std::int64_t>(1, memory_bytes / row_bytes);
  const bool may_be_cut =
      recipe.rounder->needs != Needs::hessian && has_separate_rows(recipe.scheme);
  if (n_at_once >= source.rows || !may_be_cut) {
    return round_rows(source, 0, source.rows, stats, recipe, pool);
  }
  Rounded whole{QuantizedTensor(recipe.scheme, source.rows, source.cols), {}};
  for (std::int64_t first = 0; first < source.rows; first += n_at_once) {
    const std::int64_t n_rows = std::min(n_at_once, source.rows - first);
    auto slice = round_rows(source, first, n_rows, stats, recipe, pool);
    if (!slice) return slice;
    put_rows(slice->tensor, first, whole.tensor);
    if (whole.note.empty()) whole.note = std::move(slice->note);
  }
  return whole;
}

Source source_of(const QuantizedTensor& tensor) {
  return {tensor.rows, tensor.cols,
          [&](std::int64_t first, std::int64_t n_rows, std::span<float> out) {
            decode_rows(tensor, first, n_rows, out);
          }};
}

}  // namespace

Result<std::vector<float>> finite_numbers(const QuantizedTensor& tensor, ThreadPool& pool) {
  return finite_rows(source_of(tensor), 0, tensor.rows, pool);
}

Result<Rounded> round_tensor(const QuantizedTensor& tensor, const InputStats& stats,
                             const TensorRecipe& recipe, std::int64_t memory_bytes,
                             ThreadPool& pool) {
  auto rounded = round_source(source_of(tensor), stats, recipe, memory_bytes, pool);
  if (rounded) rounded->tensor.input = tensor.input;
  return rounded;
}

Result<Rounded> round_tensor(const TensorSource& source, std::string_view name,
                             const InputStats& stats, const TensorRecipe& recipe,
                             std::int64_t memory_bytes, ThreadPool& pool) {
  const auto finish = [&](Result<Rounded> rounded) -> Result<Rounded> {
    source.drop(name);
    if (!rounded) return std::move(rounded).error().in(name);
    return rounded;
  };
  if (const auto rows = source.rows(name); rows && rows->scheme != recipe.scheme) {
    const auto read = [&](std::int64_t first, std::int64_t n_rows, std::span<float> out) {
      QuantizedTensor part;
      rows->read(first, n_rows, part);
      decode_rows(part, 0, n_rows, out);
    };
    return finish(round_source({rows->rows, rows->cols, read}, stats, recipe, memory_bytes, pool));
  }
  auto tensor = source.load(name);
  if (!tensor) return std::move(tensor).error().in(name);
  if (same_but_for_tables(tensor->scheme, recipe.scheme))
    return finish(Rounded{*std::move(tensor), {}});
  return finish(round_tensor(*tensor, stats, recipe, memory_bytes, pool));
}

}  // namespace lowbit
