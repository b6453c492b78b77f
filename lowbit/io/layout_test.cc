// SPDX-License-Identifier: Apache-2.0
// Layouts against the numbers that the `gguf` package reads from the same random blocks
// (tests/golden/make_gguf_blocks.py), and against themselves in the other direction.
#include "lowbit/io/layout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <random>

#include "lowbit/formats/quantized_tensor.h"

namespace lowbit {
namespace {

struct Golden {
  std::uint32_t type = 0;
  std::vector<std::byte> bytes;
  std::vector<float> numbers;
};

std::vector<Golden> read_golden() {
  std::ifstream in(LOWBIT_SOURCE_DIR "/tests/golden/gguf_blocks.bin", std::ios::binary);
  std::vector<Golden> all;
  std::uint32_t head[3];
  while (in.read(reinterpret_cast<char*>(head), sizeof head)) {
    Golden golden{head[0], std::vector<std::byte>(head[1]), std::vector<float>(head[2])};
    in.read(reinterpret_cast<char*>(golden.bytes.data()), head[1]);
    in.read(reinterpret_cast<char*>(golden.numbers.data()),
            static_cast<std::streamsize>(head[2] * sizeof(float)));
    all.push_back(std::move(golden));
  }
  return all;
}

class EveryLayout : public ::testing::TestWithParam<std::string> {
 protected:
  const BlockLayout& layout = *layout_named(GetParam());

  /// Random blocks, rows * row_blocks of them.
  std::vector<std::byte> random_blocks(std::int64_t n_blocks, unsigned seed) const {
    std::mt19937 random(seed);
    std::vector<std::byte> bytes(static_cast<std::size_t>(n_blocks * layout.n_bytes));
    for (auto& byte : bytes) byte = static_cast<std::byte>(random() & 0xff);
    return bytes;
  }
};

std::vector<std::string> all_names() {
  std::vector<std::string> names;
  for (const BlockLayout& layout : block_layouts()) names.emplace_back(layout.name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Layouts, EveryLayout, ::testing::ValuesIn(all_names()),
                         [](const auto& info) { return info.param; });

void expect_equal_planes(const QuantizedTensor& a, const QuantizedTensor& b) {
  ASSERT_EQ(a.rows, b.rows);
  ASSERT_EQ(a.cols, b.cols);
  for (std::int64_t r = 0; r < a.codes.n_rows(); ++r) {
    const auto x = a.codes.row(r), y = b.codes.row(r);
    ASSERT_TRUE(std::equal(x.begin(), x.end(), y.begin(), y.end())) << "row " << r;
  }
  ASSERT_EQ(a.scale == nullptr, b.scale == nullptr);
  ASSERT_EQ(a.zero == nullptr, b.zero == nullptr);
  if (a.scale) expect_equal_planes(*a.scale, *b.scale);
  if (a.zero) expect_equal_planes(*a.zero, *b.zero);
}

TEST_P(EveryLayout, DecodesToTheNumbersOfTheGolden) {
  bool found = false;
  for (const Golden& golden : read_golden()) {
    if (golden.type != layout.ggml_type) continue;
    found = true;
    const auto n_blocks = static_cast<std::int64_t>(golden.bytes.size()) / layout.n_bytes;
    for (const std::int64_t rows : {std::int64_t{1}, n_blocks / 2, n_blocks}) {
      const std::int64_t cols = n_blocks / rows * layout.n_numbers;
      const auto w = decode(load_blocks(layout, golden.bytes, rows, cols, nullptr));
      ASSERT_EQ(w.size(), golden.numbers.size());
      for (std::size_t i = 0; i < w.size(); ++i) {
        const bool both_nan = std::isnan(w[i]) && std::isnan(golden.numbers[i]);
        ASSERT_TRUE(w[i] == golden.numbers[i] || both_nan)
            << i << " of " << rows << " rows: " << w[i] << " != " << golden.numbers[i];
      }
    }
  }
  EXPECT_TRUE(found) << "no golden blocks of type " << layout.ggml_type;
}

TEST_P(EveryLayout, StoreUndoesLoad) {
  constexpr std::int64_t rows = 3, row_blocks = 5;
  const std::int64_t cols = row_blocks * layout.n_numbers;
  for (unsigned seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    auto bytes = random_blocks(rows * row_blocks, seed);
    QuantizedTensor tensor = load_blocks(layout, bytes, rows, cols, nullptr);
    std::vector<std::byte> stored(bytes.size());
    auto status = store_blocks(layout, tensor, stored);
    ASSERT_TRUE(status) << status.error().message();
    // Of the 256 bytes of 5 trits 243 are canonical: only there may store give other bytes.
    if (layout.name != "tq1_0") {
      EXPECT_EQ(stored, bytes);
    }
    const QuantizedTensor again = load_blocks(layout, stored, rows, cols, nullptr);
    expect_equal_planes(tensor, again);
    std::vector<std::byte> stored_again(bytes.size());
    ASSERT_TRUE(store_blocks(layout, again, stored_again));
    EXPECT_EQ(stored_again, stored);
  }
}

TEST_P(EveryLayout, ThreadsGiveTheSamePlanes) {
  const std::int64_t rows = 301, row_blocks = (4096 + layout.n_bytes - 1) / layout.n_bytes;
  const std::int64_t cols = row_blocks * layout.n_numbers;
  const auto bytes = random_blocks(rows * row_blocks, 9);
  ThreadPool pool(3);
  expect_equal_planes(load_blocks(layout, bytes, rows, cols, nullptr),
                      load_blocks(layout, bytes, rows, cols, &pool));
}

TEST_P(EveryLayout, ChosenRowsAreRowsOfTheWhole) {
  const std::int64_t rows = 9, row_blocks = 3, cols = row_blocks * layout.n_numbers;
  const auto bytes = random_blocks(rows * row_blocks, 4);
  const auto whole = decode(load_blocks(layout, bytes, rows, cols, nullptr));
  QuantizedTensor part;
  for (const std::vector<std::int64_t>& chosen :
       {std::vector<std::int64_t>{0, 1, 2}, {8, 0, 3}, {5}, {4}}) {
    load_rows(layout, bytes, chosen, cols, part);
    ASSERT_EQ(part.rows, std::ssize(chosen));
    const auto numbers = decode(part);
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      const auto n = static_cast<std::size_t>(cols);
      EXPECT_EQ(std::memcmp(&numbers[i * n], &whole[static_cast<std::size_t>(chosen[i]) * n],
                            n * sizeof(float)),
                0)
          << chosen[i];
    }
  }
}

TEST_P(EveryLayout, IsFoundByItsTypeNameAndScheme) {
  EXPECT_EQ(layout_for_type(layout.ggml_type), &layout);
  EXPECT_EQ(layout_for_scheme(layout.scheme), &layout);
  EXPECT_EQ(to_string(layout.scheme), layout.name);
}

// Sizes as published, of all types of the file format.
TEST(Layouts, HaveThePublishedSizes) {
  const struct {
    const char* name;
    int n_numbers, n_bytes;
  } published[] = {
      {"f32", 1, 4},        {"f16", 1, 2},        {"bf16", 1, 2},      {"q4_0", 32, 18},
      {"q4_1", 32, 20},     {"q5_0", 32, 22},     {"q5_1", 32, 24},    {"q8_0", 32, 34},
      {"q2_k", 256, 84},    {"q3_k", 256, 110},   {"q4_k", 256, 144},  {"q5_k", 256, 176},
      {"q6_k", 256, 210},   {"iq2_xxs", 256, 66}, {"iq2_xs", 256, 74}, {"iq3_xxs", 256, 98},
      {"iq1_s", 256, 50},   {"iq4_nl", 32, 18},   {"iq3_s", 256, 110}, {"iq2_s", 256, 82},
      {"iq4_xs", 256, 136}, {"iq1_m", 256, 56},   {"tq1_0", 256, 54},  {"tq2_0", 256, 66},
      {"mxfp4", 32, 17},    {"nvfp4", 64, 36},    {"q1_0", 128, 18},   {"stq1_0", 256, 42},
  };
  EXPECT_EQ(block_layouts().size(), std::size(published));
  for (const auto& row : published) {
    const BlockLayout* layout = layout_named(row.name);
    ASSERT_NE(layout, nullptr) << row.name;
    EXPECT_EQ(layout->n_numbers, row.n_numbers) << row.name;
    EXPECT_EQ(layout->n_bytes, row.n_bytes) << row.name;
  }
}

TEST(Layouts, AnotherSpellingFindsTheSameLayout) {
  auto scheme = parse_scheme("int4.g32");
  ASSERT_TRUE(scheme);
  ASSERT_NE(layout_for_scheme(*scheme), nullptr);
  EXPECT_EQ(layout_for_scheme(*scheme)->name, "q4_0");
  auto none = parse_scheme("int4.g128");
  ASSERT_TRUE(none);
  EXPECT_EQ(layout_for_scheme(*none), nullptr);
  EXPECT_FALSE(gguf_bits_per_weight(*none));
  EXPECT_EQ(*gguf_bits_per_weight(*scheme), 4.5);
}

/// Changes one code of a loaded block and asks store about it.
void expect_misfit(const char* name, std::int64_t i, std::uint32_t flip) {
  const BlockLayout& layout = *layout_named(name);
  const std::vector<std::byte> bytes(static_cast<std::size_t>(layout.n_bytes));
  QuantizedTensor tensor = load_blocks(layout, bytes, 1, layout.n_numbers, nullptr);
  std::vector<std::byte> stored(bytes.size());
  ASSERT_TRUE(store_blocks(layout, tensor, stored)) << name;
  tensor.codes.set(0, i, tensor.codes.get(0, i) ^ flip);
  auto status = store_blocks(layout, tensor, stored);
  ASSERT_FALSE(status) << name;
  EXPECT_NE(status.error().message().find("does not fit the layout of " + std::string(name)),
            std::string::npos)
      << status.error().message();
}

TEST(Layouts, StoreSaysWhatDoesNotFit) {
  expect_misfit("iq2_xxs", 3, 1u << 15);  // the eighth sign follows from the other seven
  expect_misfit("iq2_xs", 3, 1u << 16);
  expect_misfit("iq3_xxs", 5, 1u << 11);
  expect_misfit("iq1_s", 6, 1u << 11);  // four codes share a delta
  expect_misfit("tq1_0", 7, 3u);        // a trit of 3
}

TEST(Layouts, AScaleThatTheBlockDoesNotHoldIsOne) {
  const BlockLayout& layout = *layout_named("nvfp4");
  const std::vector<std::byte> bytes(static_cast<std::size_t>(layout.n_bytes));
  const QuantizedTensor tensor = load_blocks(layout, bytes, 1, layout.n_numbers, nullptr);
  EXPECT_EQ(decode(*tensor.scale->scale), std::vector<float>{1.0f});
}

}  // namespace
}  // namespace lowbit
