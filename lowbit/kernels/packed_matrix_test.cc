// SPDX-License-Identifier: Apache-2.0
// Packing row by row gives the bytes of packing the whole; what is not finite is found either way.
#include "lowbit/kernels/packed_matrix.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lowbit/kernels/random_codes.h"

namespace lowbit {
namespace {

constexpr std::uint32_t f16_one = 0x3c00, f16_infinity = 0x7c00;

void copy_rows(const QuantizedTensor& from, std::int64_t first, QuantizedTensor& to) {
  for (std::int64_t r = 0; r < to.codes.n_rows(); ++r) {
    const std::int64_t row = from.codes.n_rows() == 1 ? 0 : first + r;  // one for the whole tensor
    std::ranges::copy(from.codes.row(row), to.codes.row(r).begin());
  }
  if (from.scale) copy_rows(*from.scale, first, *to.scale);
  if (from.zero) copy_rows(*from.zero, first, *to.zero);
}

RowSource rows_of(const QuantizedTensor& tensor, std::atomic<std::int64_t>& most_rows) {
  return {tensor.scheme, tensor.rows, tensor.cols,
          [&](std::int64_t first, std::int64_t n_rows, QuantizedTensor& out) {
            if (out.rows != n_rows) out = QuantizedTensor(tensor.scheme, n_rows, tensor.cols);
            copy_rows(tensor, first, out);
            for (auto most = most_rows.load(); n_rows > most;) {
              if (most_rows.compare_exchange_weak(most, n_rows)) break;
            }
          }};
}

void expect_same(const PackedMatrix& a, const PackedMatrix& b) {
  const PackedParts x = a.parts(), y = b.parts();
  ASSERT_EQ(x.panels.size(), y.panels.size());
  EXPECT_TRUE(std::ranges::equal(x.panels, y.panels));
  const auto same = [](std::span<const float> p, std::span<const float> q) {
    return std::ranges::equal(std::as_bytes(p), std::as_bytes(q));
  };
  EXPECT_TRUE(same(x.row_scale, y.row_scale) && same(x.row_zero, y.row_zero));
  EXPECT_TRUE(same(x.scale_values, y.scale_values) && same(x.zero_values, y.zero_values));
  EXPECT_EQ(a.is_finite(), b.is_finite());
}

TEST(Packing, RowByRowGivesTheSameBytes) {
  std::vector<std::string> names{"int4.g128.asym", "int8.channel", "int8.channel.asym",
                                 "e4m3.block128",  "e4m3.tensor",  "nf4.g64",
                                 "int2.g64.offset"};
  for (const Scheme& scheme : named_schemes()) names.emplace_back(scheme.name);
  ThreadPool pool(3);
  std::mt19937 random(7);
  for (const std::string& name : names) {
    for (const std::int64_t rows : {1, 16, 37, 700}) {
      SCOPED_TRACE(name + ", rows " + std::to_string(rows));
      QuantizedTensor tensor(*parse_scheme(name), rows, 512);
      fill(tensor, random);
      SlabMemory memory;
      std::atomic<std::int64_t> most_rows = 0;
      const auto whole = pack(tensor, pool),
                 by_rows = pack(rows_of(tensor, most_rows), pool, &memory);
      ASSERT_EQ(whole.has_value(), by_rows.has_value());
      if (whole) expect_same(*whole, *by_rows);
      // Only factors of one row each let a matrix be taken apart.
      if (rows == 700 && (name == "q4_1" || name == "nvfp4" || name == "f16")) {
        EXPECT_LE(most_rows, 128);
      }
    }
  }
}

TEST(Packing, FindsWhatIsNotFiniteInAnyRow) {
  constexpr std::int64_t rows = 100, cols = 64;
  ThreadPool pool(2);
  std::atomic<std::int64_t> most_rows = 0;
  for (const char* name : {"f16", "q4_0", "q4_1"}) {
    SCOPED_TRACE(name);
    QuantizedTensor tensor(*parse_scheme(name), rows, cols);
    std::vector<CodeArray*> planes;
    if (tensor.scale) planes.push_back(&tensor.scale->codes);
    if (tensor.zero) planes.push_back(&tensor.zero->codes);
    if (planes.empty()) planes.push_back(&tensor.codes);
    for (CodeArray* plane : planes) {
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t i = 0; i < plane->n_per_row(); ++i) plane->set(r, i, f16_one);
      }
    }
    EXPECT_TRUE(pack(tensor, pool)->is_finite());
    EXPECT_TRUE(pack(rows_of(tensor, most_rows), pool)->is_finite());
    for (CodeArray* plane : planes) {
      for (const std::int64_t row : {std::int64_t{0}, std::int64_t{50}, rows - 1}) {
        for (const std::uint32_t bad : {f16_infinity, f16_infinity + 1, 0x8000 + f16_infinity}) {
          plane->set(row, plane->n_per_row() - 1, bad);
          EXPECT_FALSE(pack(tensor, pool)->is_finite()) << row;
          EXPECT_FALSE(pack(rows_of(tensor, most_rows), pool)->is_finite()) << row;
        }
        plane->set(row, plane->n_per_row() - 1, f16_one);
      }
    }
  }
}

}  // namespace
}  // namespace lowbit
