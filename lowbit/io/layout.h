// SPDX-License-Identifier: Apache-2.0
// A layout says where the bits of a container's block belong in the planar form. Each one is a
// single function that names, for every number of a block, the bits that hold it
// (layouts.cc); reading, writing and the size of a block all follow from that function, so they
// cannot disagree. It is evaluated once per process into a plan of shifts and masks, which then
// runs over all blocks of a row. Rejected: one hand-written reader per type (23 chances to be
// wrong), and calling the function per number (20 times slower).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/quantized_tensor.h"

namespace lowbit {

class BlockPlan;

struct BlockLayout {
  std::string_view name;  // of its scheme where it has one, e.g. "q4_k"
  std::uint32_t ggml_type = 0;
  Scheme scheme;
  int n_numbers = 0;                // of one block, along the row
  int n_bytes = 0;                  // of one block
  const BlockPlan* plan = nullptr;  // static

  double bits_per_weight() const { return 8.0 * n_bytes / n_numbers; }
};

/// Every GGUF block type we read and write, by type number.
std::span<const BlockLayout> block_layouts();
const BlockLayout* layout_named(std::string_view name);
const BlockLayout* layout_for_type(std::uint32_t ggml_type);
/// By the scheme's name first (tq1_0 and tq2_0 are one structure), else by structure.
const BlockLayout* layout_for_scheme(const Scheme& scheme);

/// bytes -> planes. bytes: rows * cols / n_numbers blocks, rows one after another; cols must be a
/// multiple of n_numbers. A plane that the block does not hold (the tensor scale of nvfp4) is 1.
QuantizedTensor load_blocks(const BlockLayout& layout, std::span<const std::byte> bytes,
                            std::int64_t rows, std::int64_t cols, ThreadPool* pool);

/// The same of chosen rows: row i of `out` is row rows[i] of a tensor of `cols` columns. `out`
/// keeps its memory where it has as many rows already.
void load_rows(const BlockLayout& layout, std::span<const std::byte> bytes,
               std::span<const std::int64_t> rows, std::int64_t cols, QuantizedTensor& out);

/// planes -> bytes. Error: numbers that this layout cannot say (a sign that breaks the parity, a
/// shared delta that differs, a fourth value of a trit).
Status store_blocks(const BlockLayout& layout, const QuantizedTensor& tensor,
                    std::span<std::byte> bytes);

/// Bits per weight of a (rows, cols) tensor as GGUF stores it, or nothing when it cannot.
std::optional<double> gguf_bits_per_weight(const Scheme& scheme);

}  // namespace lowbit
