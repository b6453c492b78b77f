// SPDX-License-Identifier: Apache-2.0
// The planar form against decoders written out number by number.
#include "lowbit/formats/quantized_tensor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "lowbit/formats/codes.h"

namespace lowbit {
namespace {

Scheme parsed(std::string_view text) {
  return *parse_scheme(text);
}

void fill_randomly(QuantizedTensor& tensor, std::mt19937& random) {
  for (std::int64_t r = 0; r < tensor.rows; ++r) {
    for (std::int64_t i = 0; i < tensor.codes.n_per_row(); ++i) {
      const int width = tensor.codes.width();
      std::uint32_t code = static_cast<std::uint32_t>(random()) >> (32 - width);
      if (*tensor.scheme.code == codes::named("f16")) code &= 0xbbffu;  // finite
      if (*tensor.scheme.code == codes::named("f32")) code = 0x3f9d70a4u;
      tensor.codes.set(r, i, code);
    }
  }
  if (tensor.scale != nullptr) fill_randomly(*tensor.scale, random);
  if (tensor.zero != nullptr) fill_randomly(*tensor.zero, random);
}

/// The truth: one number, by the formula of the header.
float number_at(const QuantizedTensor& t, std::int64_t row, std::int64_t col) {
  float vector[8];
  const Code& code = *t.scheme.code;
  code.look_up(t.codes.get(row, col / code.dim), vector);
  const volatile float v = vector[col % code.dim];
  const std::int64_t g_row = row / t.group_rows(), g_col = col / t.group_cols();
  if (t.scale == nullptr) return v;
  const volatile float scale = number_at(*t.scale, g_row, g_col);
  if (t.zero == nullptr) return scale * v;
  const volatile float zero = number_at(*t.zero, g_row, g_col);
  if (t.scheme.zero_unit == ZeroUnit::code) {
    const volatile float centered = v - zero;
    return scale * centered;
  }
  const volatile float product = scale * v;
  return product + zero;
}

bool same_number(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

TEST(CodeArray, KeepsCodesOfEveryWidth) {
  std::mt19937 random(1);
  for (int width = 1; width <= 32; ++width) {
    for (const std::int64_t n : {1, 2, 7, 8, 9, 31, 64, 131}) {
      CodeArray array(width, 3, n);
      const std::uint32_t mask = static_cast<std::uint32_t>((std::uint64_t{1} << width) - 1);
      std::vector<std::vector<std::uint32_t>> rows(3);
      for (std::int64_t r = 0; r < 3; ++r) {
        for (std::int64_t i = 0; i < n; ++i) {
          rows[static_cast<std::size_t>(r)].push_back(static_cast<std::uint32_t>(random()) & mask);
        }
      }
      array.pack(0, 0, rows[0]);
      const auto cut = static_cast<std::size_t>(n / 3);  // in two parts, at any bit
      array.pack(2, 0, std::span(rows[2]).first(cut));
      array.pack(2, static_cast<std::int64_t>(cut), std::span(rows[2]).subspan(cut));
      for (std::int64_t i = n - 1; i >= 0; --i)
        array.set(1, i, rows[1][static_cast<std::size_t>(i)]);
      for (std::int64_t r = 0; r < 3; ++r) {
        const auto& row = rows[static_cast<std::size_t>(r)];
        for (std::int64_t first = 0; first < n; first += 1 + n / 9) {
          std::vector<std::uint32_t> codes(static_cast<std::size_t>(n - first));
          array.unpack(r, first, codes);
          for (std::size_t i = 0; i < codes.size(); ++i) {
            ASSERT_EQ(codes[i], row[static_cast<std::size_t>(first) + i]) << width << " " << n;
            ASSERT_EQ(array.get(r, first + static_cast<std::int64_t>(i)), codes[i]);
          }
          if (width > 8) continue;
          std::vector<std::uint8_t> bytes(codes.size());
          array.unpack(r, first, bytes);
          EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), codes.begin())) << width << " " << n;
          CodeArray copy(width, 3, n);
          copy.pack(r, first, bytes);
          EXPECT_EQ(copy.get(r, n - 1), row.back());
          EXPECT_EQ(copy.get(r, first), codes.front());
        }
      }
    }
  }
}

TEST(CodeArray, LeastSignificantBitFirstAndZeroTail) {
  CodeArray array(3, 1, 3);
  for (std::int64_t i = 0; i < 3; ++i) array.set(0, i, 7);
  EXPECT_EQ(array.row_bytes(), 2);
  EXPECT_EQ(array.row(0)[0], std::byte{0xff});
  EXPECT_EQ(array.row(0)[1], std::byte{0x01});
  array.set(0, 0, 1);
  EXPECT_EQ(array.row(0)[0], std::byte{0xf9});
}

TEST(QuantizedTensor, DecodesEveryNamedScheme) {
  std::mt19937 random(2);
  for (const Scheme& scheme : named_schemes()) {
    QuantizedTensor tensor(scheme, 3, 512);
    fill_randomly(tensor, random);
    const std::vector<float> w = decode(tensor);
    for (std::int64_t r = 0; r < 3; ++r) {
      for (std::int64_t c = 0; c < 512; ++c) {
        const float got = w[static_cast<std::size_t>(r * 512 + c)];
        const float expected = number_at(tensor, r, c);
        ASSERT_TRUE(same_number(got, expected)) << scheme.name << " " << r << " " << c;
      }
    }
    std::vector<float> row(512);  // any part, and a copy that shares nothing
    decode_rows(tensor.clone(), 1, 1, row);
    EXPECT_EQ(std::memcmp(row.data(), w.data() + 512, sizeof(float) * 512), 0) << scheme.name;
  }
}

TEST(QuantizedTensor, GroupsMayBeShort) {
  std::mt19937 random(3);
  for (const std::string_view name : {"int4.g32", "int5.g16.asym", "uint3.g64.offset",
                                      "e4m3.block128", "nf4.g64", "int8.tensor", "q4_k"}) {
    QuantizedTensor tensor(parsed(name), 131, 33);
    fill_randomly(tensor, random);
    const std::vector<float> w = decode(tensor);
    for (std::int64_t r = 0; r < 131; ++r) {
      for (std::int64_t c = 0; c < 33; ++c) {
        ASSERT_TRUE(same_number(w[static_cast<std::size_t>(r * 33 + c)], number_at(tensor, r, c)))
            << name;
      }
    }
  }
  const QuantizedTensor block(parsed("e4m3.block128"), 131, 300);
  EXPECT_EQ(block.scale->rows, 2);
  EXPECT_EQ(block.scale->cols, 3);
}

TEST(QuantizedTensor, EncodeWithScalesFindsTheNearestCode) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  for (const std::string_view name :
       {"int4.g32", "int8.channel.asym", "q4_1", "q4_k", "q6_k", "mxfp4", "nvfp4", "nf4.g64",
        "e4m3.block128", "tq1_0", "q1_0", "stq1_0", "iq4_xs", "int2.tensor"}) {
    QuantizedTensor tensor(parsed(name), 5, 256);
    fill_randomly(tensor, random);
    std::vector<float> w(5 * 256);
    for (float& number : w) number = normal(random);
    encode_with_scales(w, tensor);
    const Code& code = *tensor.scheme.code;
    const std::vector<float> decoded = decode(tensor);
    const auto error_at = [&](std::int64_t r, std::int64_t i) {
      double sum = 0;
      for (std::int64_t k = i * code.dim; k < (i + 1) * code.dim; ++k) {
        const double number = number_at(tensor, r, k);
        sum += std::pow(number - w[static_cast<std::size_t>(r * 256 + k)], 2);
      }
      return sum;
    };
    for (std::int64_t r = 0; r < 5; ++r) {
      for (std::int64_t i = 0; i < tensor.codes.n_per_row(); i += 5) {
        const std::uint32_t chosen = tensor.codes.get(r, i);
        const double error = error_at(r, i);
        for (std::uint32_t c = 0; c < 1u << code.window; ++c) {
          if (name == "tq1_0" && c == 3) continue;  // never written
          tensor.codes.set(r, i, c);
          const double other = error_at(r, i);
          // Rounding of the decoder's own operations: a few units in the last place.
          if (!std::isnan(other)) {
            ASSERT_LE(error, other * (1 + 1e-5) + 1e-10) << name << " " << c;
          }
        }
        tensor.codes.set(r, i, chosen);
      }
    }
    QuantizedTensor rows = tensor.clone();  // the same codes, row by row
    for (std::int64_t r = 0; r < 5; ++r) {
      encode_rows_with_scales(std::span(w).subspan(static_cast<std::size_t>(r) * 256, 256), rows, r,
                              1);
    }
    const std::vector<float> again = decode(rows);
    EXPECT_TRUE(std::ranges::equal(again, decoded, same_number)) << name;
  }
}

TEST(QuantizedTensor, ScaleZeroDecodesToTheZero) {
  QuantizedTensor tensor(parsed("uint4.g32.offset"), 1, 32);
  tensor.zero->codes.set(0, 0, codes::f16_code(0.5f));
  const std::vector<float> w(32, 3.0f);
  encode_with_scales(w, tensor);
  for (const float number : decode(tensor)) EXPECT_EQ(number, 0.5f);
}

TEST(QuantizedTensor, EncodesPlainFloats) {
  const std::vector<float> w{1.0f, -2.5f, 0x1.002p0f, 1e9f, -0.0f, 0x1p-24f};
  const std::vector<float> half = decode(encode_plain(w, parsed("f16"), 2, 3));
  EXPECT_EQ(half, (std::vector<float>{1.0f, -2.5f, 0x1.0p0f, 65504, -0.0f, 0x1p-24f}));
  EXPECT_EQ(decode(encode_plain(w, parsed("f32"), 3, 2)), w);
  const std::vector<float> bfloat = decode(encode_plain(w, parsed("bf16"), 1, 6));
  EXPECT_EQ(bfloat[1], -2.5f);
  EXPECT_EQ(bfloat[2], 1.0f);
}

TEST(QuantizedTensor, FindsScalesThatAreNotFinite) {
  QuantizedTensor tensor(parsed("q4_k"), 4, 512);
  EXPECT_TRUE(has_finite_scales(tensor));
  tensor.zero->scale->codes.set(3, 1, 0x7e00);
  EXPECT_FALSE(has_finite_scales(tensor));
  QuantizedTensor mx(parsed("mxfp4"), 4, 64);
  EXPECT_TRUE(has_finite_scales(mx));
  mx.scale->codes.set(2, 1, 255);
  EXPECT_FALSE(has_finite_scales(mx));
}

TEST(QuantizedTensor, EmptyTensors) {
  const QuantizedTensor tensor(parsed("q4_k"), 0, 256);
  EXPECT_TRUE(decode(tensor).empty());
  EXPECT_TRUE(has_finite_scales(tensor));
}

}  // namespace
}  // namespace lowbit
