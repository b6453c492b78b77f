// SPDX-License-Identifier: Apache-2.0
// f16 and bf16 over all codes and around every border; lowbit/formats/golden_test.cc compares the
// same conversions with numpy and ml_dtypes.
#include "lowbit/base/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace lowbit {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

static_assert(float_to_half(1.0f) == 0x3c00);
static_assert(half_to_float(0x3c00) == 1.0f);
static_assert(float_to_bfloat(1.0f) == 0x3f80);

/// The truth: sign * significand * 2^exponent, in double.
double number_of_half(std::uint32_t code) {
  const int exponent = static_cast<int>(code >> 10 & 0x1fu),
            mantissa = static_cast<int>(code & 0x3ffu);
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25);
  return (code & 0x8000u) != 0 ? -magnitude : magnitude;
}

TEST(Half, EveryCodeRoundTrips) {
  for (std::uint32_t code = 0; code <= 0xffffu; ++code) {
    const auto half = static_cast<std::uint16_t>(code);
    const float value = half_to_float(half);
    const bool special = (code & 0x7c00u) == 0x7c00u;
    if (!special) {
      EXPECT_EQ(value, number_of_half(code)) << code;
    }
    if (special && (code & 0x3ffu) != 0) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_TRUE(std::isnan(half_to_float(float_to_half(value))));
    } else {
      EXPECT_EQ(float_to_half(value), half) << code;
    }
  }
  EXPECT_EQ(half_to_float(0x7c00), infinity);
  EXPECT_EQ(half_to_float(0xfc00), -infinity);
}

TEST(Half, RoundsToNearestTiesToEven) {
  constexpr std::uint16_t last_finite = 0x7bff;
  for (std::uint16_t code = 0; code < last_finite; ++code) {
    const auto next = static_cast<std::uint16_t>(code + 1);
    const auto middle = static_cast<float>((number_of_half(code) + number_of_half(next)) / 2);
    const std::uint16_t even = (code & 1u) == 0 ? code : next;
    EXPECT_EQ(float_to_half(middle), even) << code;
    EXPECT_EQ(float_to_half(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(float_to_half(std::nextafter(middle, infinity)), next);
    EXPECT_EQ(float_to_half(-middle), even | 0x8000u);
  }
}

TEST(Half, OverflowsToInfinityAndUnderflowsToZero) {
  EXPECT_EQ(float_to_half(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_half(-1e9f), 0xfc00);
  EXPECT_EQ(float_to_half(infinity), 0x7c00);
  EXPECT_EQ(float_to_half(0x1p-25f), 0);  // a tie between 0 and the smallest subnormal
  EXPECT_EQ(float_to_half(std::nextafter(0x1p-25f, 1.0f)), 1);
  EXPECT_EQ(float_to_half(-1e-30f), 0x8000);
  EXPECT_EQ(float_to_half(-0.0f), 0x8000);
}

TEST(Bfloat, EveryCodeRoundTrips) {
  for (std::uint32_t code = 0; code <= 0xffffu; ++code) {
    const auto bfloat = static_cast<std::uint16_t>(code);
    const float value = bfloat_to_float(bfloat);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(bfloat_to_float(float_to_bfloat(value))));
    } else {
      EXPECT_EQ(float_to_bfloat(value), bfloat);
    }
  }
}

TEST(Bfloat, RoundsToNearestTiesToEven) {
  constexpr std::uint16_t last_finite = 0x7f7f;
  for (std::uint16_t code = 0; code < last_finite; ++code) {
    const float middle = std::bit_cast<float>(static_cast<std::uint32_t>(code) << 16 | 0x8000u);
    const auto next = static_cast<std::uint16_t>(code + 1);
    const std::uint16_t even = (code & 1u) == 0 ? code : next;
    EXPECT_EQ(float_to_bfloat(middle), even);
    EXPECT_EQ(float_to_bfloat(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(float_to_bfloat(std::nextafter(middle, infinity)), next);
    EXPECT_EQ(float_to_bfloat(-middle), even | 0x8000u);
  }
}

TEST(Bfloat, NanStaysNan) {
  // A payload that lies only in the bits that are cut off.
  EXPECT_TRUE(std::isnan(bfloat_to_float(float_to_bfloat(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_EQ(float_to_bfloat(std::numeric_limits<float>::max()), 0x7f80);
}

}  // namespace
}  // namespace lowbit
