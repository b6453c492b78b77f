// SPDX-License-Identifier: Apache-2.0
#include "lowbit/io/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "lowbit/base/assert.h"
#include "lowbit/io/block_plan.h"
#include "lowbit/io/ggml_blocks.h"

namespace lowbit {
namespace {

/// Every layout with its plan, evaluated on first use.
struct Table {
  std::vector<BlockLayout> layouts;
  std::vector<BlockPlan> plans;

  Table() {
    plans.reserve(ggml_blocks().size());
    for (const GgmlBlock& block : ggml_blocks()) {
      auto scheme = parse_scheme(block.scheme);
      LOWBIT_ASSERT(scheme);
      if (!scheme) continue;
      plans.emplace_back(*scheme, block.layout);
      layouts.push_back({block.scheme, block.type, *scheme, block.n_numbers, plans.back().n_bytes(),
                         &plans.back()});
    }
  }
};
const Table& table() {
  static const Table evaluated;
  return evaluated;
}

/// The tensors behind the planes of a block; null where the scheme has none.
template <class Tensor>
std::array<Tensor*, n_planes> tensors_of(Tensor& tensor) {
  const auto scale_of = [](Tensor* t) -> Tensor* {
    return t != nullptr ? t->scale.get() : nullptr;
  };
  const auto zero_of = [](Tensor* t) -> Tensor* { return t != nullptr ? t->zero.get() : nullptr; };
  Tensor *scale = scale_of(&tensor), *zero = zero_of(&tensor);
  return {&tensor, scale, zero, scale_of(scale), scale_of(zero)};
}

std::int64_t row_bytes_of(const BlockLayout& layout, std::int64_t cols) {
  LOWBIT_ASSERT(cols % layout.n_numbers == 0);
  return cols / layout.n_numbers * layout.n_bytes;
}

/// All zero; a plane that blocks do not hold, the factor that the container keeps elsewhere, is 1.
QuantizedTensor empty_tensor(const BlockLayout& layout, std::int64_t rows, std::int64_t cols) {
  QuantizedTensor tensor(layout.scheme, rows, cols);
  const auto planes = tensors_of(tensor);
  for (std::size_t p = 0; p < n_planes; ++p) {
    if (planes[p] == nullptr || layout.plan->plane_bytes(static_cast<Plane>(p)) != 0) continue;
    const Code& code = *planes[p]->scheme.code;
    CodeArray& ones = planes[p]->codes;
    for (std::int64_t r = 0; r < ones.n_rows(); ++r) {
      for (std::int64_t i = 0; i < ones.n_per_row(); ++i) ones.set(r, i, nearest_code(code, 1.0f));
    }
  }
  return tensor;
}

void load_row(const BlockLayout& layout, const std::byte* blocks, QuantizedTensor& tensor,
              std::int64_t row) {
  const BlockPlan& plan = *layout.plan;
  const std::int64_t n_blocks = tensor.cols / layout.n_numbers;
  const auto planes = tensors_of(tensor);
  BlockPlan::Rows out{};
  for (std::size_t p = 0; p < n_planes; ++p) {
    if (plan.plane_bytes(static_cast<Plane>(p)) == 0) continue;
    out[p] = planes[p]->codes.row(row).data();
    LOWBIT_ASSERT(planes[p]->codes.row_bytes() ==
                  n_blocks * plan.plane_bytes(static_cast<Plane>(p)));
  }
  plan.load(blocks, n_blocks, out);
}

/// Rows per piece of parallel work: large enough that taking it costs nothing beside doing it.
std::int64_t rows_per_chunk(std::int64_t row_bytes) {
  constexpr std::int64_t chunk_bytes = 64 << 10;
  return std::max<std::int64_t>(1, chunk_bytes / std::max<std::int64_t>(1, row_bytes));
}

template <class Body>
void for_rows(std::int64_t n_rows, std::int64_t row_bytes, ThreadPool* pool, Body&& body) {
  if (pool == nullptr || n_rows * row_bytes < rows_per_chunk(1)) return body(0, n_rows, 0);
  pool->parallel_for(n_rows, rows_per_chunk(row_bytes), body);
}

}  // namespace

std::span<const BlockLayout> block_layouts() {
  return table().layouts;
}

const BlockLayout* layout_named(std::string_view name) {
  for (const BlockLayout& layout : block_layouts()) {
    if (layout.name == name) return &layout;
  }
  return nullptr;
}

const BlockLayout* layout_for_type(std::uint32_t ggml_type) {
  for (const BlockLayout& layout : block_layouts()) {
    if (layout.ggml_type == ggml_type) return &layout;
  }
  return nullptr;
}

const BlockLayout* layout_for_scheme(const Scheme& scheme) {
  const BlockLayout* named = scheme.name.empty() ? nullptr : layout_named(scheme.name);
  if (named != nullptr && named->scheme == scheme) return named;
  for (const BlockLayout& layout : block_layouts()) {
    if (layout.scheme == scheme) return &layout;
  }
  return nullptr;
}

QuantizedTensor load_blocks(const BlockLayout& layout, std::span<const std::byte> bytes,
                            std::int64_t rows, std::int64_t cols, ThreadPool* pool) {
  const std::int64_t row_bytes = row_bytes_of(layout, cols);
  LOWBIT_ASSERT(static_cast<std::int64_t>(bytes.size()) == rows * row_bytes);
  QuantizedTensor tensor = empty_tensor(layout, rows, cols);
  for_rows(rows, row_bytes, pool, [&](std::int64_t first, std::int64_t last, int /*thread*/) {
    for (std::int64_t r = first; r < last; ++r) {
      load_row(layout, bytes.data() + r * row_bytes, tensor, r);
    }
  });
  return tensor;
}

void load_rows(const BlockLayout& layout, std::span<const std::byte> bytes,
               std::span<const std::int64_t> rows, std::int64_t cols, QuantizedTensor& out) {
  const std::int64_t row_bytes = row_bytes_of(layout, cols), n_rows = std::ssize(rows);
  if (out.rows != n_rows || out.cols != cols || !(out.scheme == layout.scheme)) {
    out = empty_tensor(layout, n_rows, cols);
  }
  for (std::int64_t r = 0; r < n_rows; ++r) {
    const std::int64_t row = rows[static_cast<std::size_t>(r)];
    LOWBIT_ASSERT(row >= 0 && (row + 1) * row_bytes <= std::ssize(bytes));
    load_row(layout, bytes.data() + row * row_bytes, out, r);
  }
}

Status store_blocks(const BlockLayout& layout, const QuantizedTensor& tensor,
                    std::span<std::byte> bytes) {
  const BlockPlan& plan = *layout.plan;
  const std::int64_t row_blocks = tensor.cols / layout.n_numbers;
  const std::int64_t row_bytes = row_blocks * layout.n_bytes;
  LOWBIT_ASSERT(tensor.scheme == layout.scheme);
  LOWBIT_ASSERT(static_cast<std::int64_t>(bytes.size()) == tensor.rows * row_bytes);
  const auto planes = tensors_of(tensor);
  for (std::int64_t r = 0; r < tensor.rows; ++r) {
    BlockPlan::ConstRows in{};
    for (std::size_t p = 0; p < n_planes; ++p) {
      if (plan.plane_bytes(static_cast<Plane>(p)) == 0) continue;
      in[p] = std::as_const(*planes[p]).codes.row(r).data();
    }
    if (!plan.store(in, row_blocks, bytes.data() + r * row_bytes)) {
      return Error(fmt::format(
          "row {} does not fit the layout of {}: it shares bits between numbers (signs, deltas or "
          "trits) and these differ; quantize the tensor to {} anew instead of converting it",
          r, layout.name, layout.name));
    }
  }
  return ok();
}

std::optional<double> gguf_bits_per_weight(const Scheme& scheme) {
  const BlockLayout* layout = layout_for_scheme(scheme);
  if (layout == nullptr) return std::nullopt;
  return layout->bits_per_weight();
}

}  // namespace lowbit
