// SPDX-License-Identifier: Apache-2.0
// Plans of small layouts made up for one property each, and the example of
// docs/adding-a-layout.md.
#include "lowbit/io/block_plan.h"

#include <gtest/gtest.h>

#include <vector>

#include "lowbit/formats/quantized_tensor.h"

namespace lowbit {
namespace {

using enum Plane;

Scheme scheme_of(const char* name) {
  return *parse_scheme(name);
}

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

/// Planes of one row, as the plan fills them.
struct Row {
  QuantizedTensor tensor;

  Row(const Scheme& scheme, std::int64_t cols) : tensor(scheme, 1, cols) {}
  BlockPlan::Rows pointers() {
    BlockPlan::Rows rows{};
    rows[0] = tensor.codes.row(0).data();
    if (tensor.scale) rows[1] = tensor.scale->codes.row(0).data();
    return rows;
  }
  BlockPlan::ConstRows const_pointers() {
    const auto rows = pointers();
    return {rows[0], rows[1], rows[2], rows[3], rows[4]};
  }
  std::vector<int> codes() const {
    std::vector<int> all;
    for (std::int64_t i = 0; i < tensor.codes.n_per_row(); ++i) {
      all.push_back(static_cast<int>(tensor.codes.get(0, i)));
    }
    return all;
  }
};

TEST(BlockPlan, TheExampleOfThePage) {
  const Scheme scheme = scheme_of("ternary.g64");
  const BlockPlan plan(scheme, [](BlockMap& io) {
    io(scale, 0, 0, 16);
    for (int j = 0; j < 64; ++j) io(codes, j, 16 + 2 * j, 2);
  });
  EXPECT_EQ(plan.n_bytes(), 18);
  EXPECT_EQ(plan.plane_bytes(codes), 16);
  EXPECT_EQ(plan.plane_bytes(scale), 2);
  EXPECT_EQ(plan.plane_bytes(zero), 0);
  // d = 1.5, then 64 numbers -1, 0, 1, 0, -1, 0, 1, 0, ...
  auto block = bytes_of({0x00, 0x3e});
  block.resize(18, static_cast<std::byte>(0b01'10'01'00));
  Row row(scheme, 64);
  plan.load(block.data(), 1, row.pointers());
  const auto numbers = decode(row.tensor);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_EQ(numbers[i], i % 4 == 0 ? -1.5f : i % 4 == 2 ? 1.5f : 0.0f) << i;
  }
  std::vector<std::byte> stored(block.size());
  EXPECT_TRUE(plan.store(row.const_pointers(), 1, stored.data()));
  EXPECT_EQ(stored, block);
}

TEST(BlockPlan, FieldsThatCrossBytesAndFlip) {
  // Two numbers of 12 bits in a row of iq1 codes: the first split 5 + 7 with a flipped top bit.
  const Scheme scheme = scheme_of("iq1_s");
  const BlockPlan plan(scheme, [](BlockMap& io) {
    io(codes, 0, 3, 7, 5);
    io(codes, 0, 10, 5, 0, 0x01);
    io(codes, 1, 15, 1, 11, 0x800);
    io(codes, 1, 16, 11);
  });
  EXPECT_EQ(plan.n_bytes(), 4);
  const auto block = bytes_of({0b10101'000, 0b0'00110'11, 0xff, 0b00000'101});
  Row row(scheme, 256);
  plan.load(block.data(), 1, row.pointers());
  EXPECT_EQ(row.tensor.codes.get(0, 0), 0b1110101'00111u);
  EXPECT_EQ(row.tensor.codes.get(0, 1), 0b1'10111111111u);
  std::vector<std::byte> stored(4);
  EXPECT_TRUE(plan.store(row.const_pointers(), 1, stored.data()));
  EXPECT_EQ(stored, block);
}

TEST(BlockPlan, SharedBitsMustAgree) {
  const Scheme scheme = scheme_of("int4.g16");
  const BlockPlan plan(scheme, [](BlockMap& io) {
    for (int j = 0; j < 2; ++j) io(codes, j, 3 * j, 3), io(codes, j, 7, 1, 3);
  });
  Row row(scheme, 16);
  const auto block = bytes_of({0b1'0'101'010});
  plan.load(block.data(), 1, row.pointers());
  EXPECT_EQ(row.tensor.codes.get(0, 0), 0b1010u);
  EXPECT_EQ(row.tensor.codes.get(0, 1), 0b1101u);
  std::byte stored{};
  EXPECT_TRUE(plan.store(row.const_pointers(), 1, &stored));
  EXPECT_EQ(stored, block[0]);
  row.tensor.codes.set(0, 1, 0b0101);
  EXPECT_FALSE(plan.store(row.const_pointers(), 1, &stored));
}

TEST(BlockPlan, TritsAreTheDigitsOfAByte) {
  const Scheme scheme = scheme_of("ternary.g4");
  const BlockPlan plan(scheme, [](BlockMap& io) { io.trits(0, 4, 0, 1); });
  Row row(scheme, 4);
  for (int number = 0; number < 81; ++number) {
    // As written by ggml: the digits of number * 3, five of them, times 256 / 243, rounded up.
    const auto byte = static_cast<std::byte>((number * 3 * 256 + 242) / 243);
    plan.load(&byte, 1, row.pointers());
    EXPECT_EQ(row.codes(),
              (std::vector<int>{number / 27, number / 9 % 3, number / 3 % 3, number % 3}));
    std::byte stored{};
    EXPECT_TRUE(plan.store(row.const_pointers(), 1, &stored));
    EXPECT_EQ(stored, byte);
  }
}

TEST(BlockPlan, ParityFollowsFromTheOtherBits) {
  const Scheme scheme = scheme_of("int4.g2");
  const BlockPlan plan(scheme, [](BlockMap& io) {
    for (int j = 0; j < 2; ++j) io(codes, j, 4 * j, 3), io.parity(j, 3, {{0, 3, j}});
  });
  const auto block = bytes_of({0b0101'0001, 0b0000'0111});
  // The second block after the first: the parity bit of a cell must not survive.
  Row two(scheme, 4);
  plan.load(block.data(), 2, two.pointers());
  EXPECT_EQ(two.codes(), (std::vector<int>{0b1001, 0b0101, 0b1111, 0}));
  std::vector<std::byte> stored(2);
  EXPECT_TRUE(plan.store(two.const_pointers(), 2, stored.data()));
  EXPECT_EQ(stored, block);
  two.tensor.codes.set(0, 0, 0b0001);
  EXPECT_FALSE(plan.store(two.const_pointers(), 2, stored.data()));
}

}  // namespace
}  // namespace lowbit
