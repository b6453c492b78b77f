// SPDX-License-Identifier: Apache-2.0
// Every code of the list: round trips, nearest values, units; the golden values of other
// implementations are in golden_test.cc.
#include "lowbit/formats/code.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "lowbit/formats/code_search.h"
#include "lowbit/formats/codes.h"

namespace lowbit {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

static_assert(tables::int8_unit(codes::named("int8").values) == 1);
static_assert(tables::int8_unit(codes::named("int1").values) == 1);
static_assert(tables::int8_unit(codes::named("uint7").values) == 1);
static_assert(tables::int8_unit(codes::named("uint8").values) == 0);
static_assert(tables::int8_unit(codes::named("mxint8").values) == 0x1p-6f);
static_assert(tables::int8_unit(codes::named("e2m1").values) == 0.5f);
static_assert(tables::int8_unit(codes::named("e2m3").values) == 0.125f);
static_assert(tables::int8_unit(codes::named("e3m2").values) == 0);
static_assert(tables::int8_unit(codes::named("e4m3").values) == 0);
static_assert(tables::int8_unit(codes::named("e8m0").values) == 0);
static_assert(tables::int8_unit(codes::named("nf4").values) == 0);
static_assert(tables::int8_unit(codes::named("iq4_nl").values) == 1);
static_assert(tables::int8_unit(codes::named("ternary").values) == 1);
static_assert(tables::int8_unit(codes::named("binary").values) == 1);
static_assert(tables::int8_unit(codes::named("sparse_ternary").values) == 1);

std::uint32_t bits_of(float value) {
  return std::bit_cast<std::uint32_t>(value);
}

bool is_scalar_table(const Code& code) {
  return code.dim == 1 && code.formula == nullptr;
}

/// Numbers where rounding can go wrong: the values, the middles, their neighbours, both infinities.
std::vector<float> critical_numbers(const Code& code) {
  std::vector<float> numbers{0.0f, -0.0f, infinity, -infinity, 3e38f, -3e38f, 1e-45f, -1e-45f};
  std::vector<float> values(code.values.begin(), code.values.end());
  std::erase_if(values, [](float value) { return !std::isfinite(value); });
  std::ranges::sort(values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float next = values[std::min(i + 1, values.size() - 1)];
    const float middle = static_cast<float>((static_cast<double>(values[i]) + next) / 2);
    for (const float x : {values[i], middle}) {
      numbers.push_back(x);
      numbers.push_back(std::nextafter(x, infinity));
      numbers.push_back(std::nextafter(x, -infinity));
    }
  }
  return numbers;
}

/// Codes that are read but never written.
bool is_written(const Code& code, std::uint32_t c) {
  return !(code.name == "ternary" && c == 3) && !(code.name == "ue4m3" && c >= 0x7f);
}

TEST(Code, GridsHaveTheirUnits) {
  EXPECT_EQ(int8_unit(codes::named("iq2_xxs")), 1);
  EXPECT_EQ(int8_unit(codes::named("iq2_xs")), 1);
  EXPECT_EQ(int8_unit(codes::named("iq2_s")), 1);
  EXPECT_EQ(int8_unit(codes::named("iq3_xxs")), 2);
  EXPECT_EQ(int8_unit(codes::named("iq3_s")), 1);
  EXPECT_EQ(int8_unit(codes::named("iq1")), 0.125f);
  EXPECT_EQ(int8_unit(codes::named("f16")), 0);
}

TEST(Code, NamesAreUniqueAndMeaningsToo) {
  for (const Code& a : codes::list) {
    EXPECT_EQ(codes::find(a.name), &a);
    for (const Code& b : codes::list) {
      EXPECT_EQ(a == b, &a == &b) << a.name << " " << b.name;
    }
  }
  EXPECT_EQ(codes::find("int9"), nullptr);
}

TEST(Code, EqualityComparesBitsAndIgnoresNames) {
  Code other = codes::named("e4m3");
  other.name = "another name";
  std::vector<float> values(other.values.begin(), other.values.end());
  other.values = values;
  EXPECT_EQ(other, codes::named("e4m3"));  // NaN among the values
  values[1] = -values[1];
  EXPECT_FALSE(other == codes::named("e4m3"));
}

TEST(Code, EveryCodeRoundTrips) {
  for (const Code& code : codes::list) {
    if (!is_scalar_table(code)) continue;
    for (std::uint32_t c = 0; c < code.values.size(); ++c) {
      const float value = code.values[c];
      const std::uint32_t again = nearest_code(code, value);
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(code.values[again])) << code.name << " " << c;
      } else if (is_written(code, c)) {
        EXPECT_EQ(again, c) << code.name;
      }
    }
  }
}

TEST(Code, PlainFloatsRoundTrip) {
  for (const std::string_view name : {"f16", "bf16"}) {
    const Code& code = *codes::find(name);
    for (std::uint32_t c = 0; c < 1u << code.window; ++c) {
      float value = 0;
      code.look_up(c, &value);
      if (!std::isnan(value)) {
        EXPECT_EQ(nearest_code(code, value), c) << name;
      }
    }
  }
  EXPECT_EQ(nearest_code(codes::named("f32"), -0x1.8p-140f), bits_of(-0x1.8p-140f));
}

TEST(Code, NearestBeatsEveryOtherCode) {
  for (const Code& code : codes::list) {
    if (!is_scalar_table(code)) continue;
    for (const float x : critical_numbers(code)) {
      if (!std::isfinite(x)) continue;
      const std::uint32_t best = nearest_code(code, x);
      const double distance = std::abs(static_cast<double>(code.values[best]) - x);
      for (std::uint32_t c = 0; c < code.values.size(); ++c) {
        if (!is_written(code, c) || !std::isfinite(code.values[c])) continue;
        ASSERT_LE(distance, std::abs(static_cast<double>(code.values[c]) - x))
            << code.name << " " << x << " " << c;
      }
    }
  }
}

TEST(CodeSearch, EqualsTheReference) {
  std::mt19937 random(20);
  for (const Code& code : codes::list) {
    if (code.dim != 1) continue;
    const CodeSearch search(code);
    std::vector<float> numbers = critical_numbers(code);
    for (int i = 0; i < 4000; ++i) {
      numbers.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
      numbers.push_back(std::normal_distribution<float>(0, 4)(random));
    }
    std::vector<std::uint32_t> found(numbers.size());
    search.nearest(numbers, found.data());
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      ASSERT_EQ(found[i], nearest_code(code, numbers[i])) << code.name << " " << numbers[i];
      ASSERT_EQ(search.nearest(numbers[i]), found[i]) << code.name << " " << numbers[i];
    }
  }
}

TEST(Code, TiesGoToTheEvenCode) {
  const auto nearest = [](std::string_view name, float x) {
    float value = 0;
    const Code& code = *codes::find(name);
    code.look_up(nearest_code(code, x), &value);
    return value;
  };
  EXPECT_EQ(nearest("int4", 2.5f), 2);
  EXPECT_EQ(nearest("int4", 3.5f), 4);
  EXPECT_EQ(nearest("int4", -0.5f), 0);
  EXPECT_EQ(nearest("uint3", 6.5f), 6);
  // Thresholds of e2m1 as its specification lists them.
  const float thresholds[] = {.25f, .75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const float rounded[] = {0, 1, 1, 2, 2, 4, 4};
  for (std::size_t i = 0; i < std::size(thresholds); ++i) {
    EXPECT_EQ(nearest("e2m1", thresholds[i]), rounded[i]);
    EXPECT_EQ(nearest("e2m1", -thresholds[i]), -rounded[i]);
  }
  EXPECT_EQ(nearest("e8m0", 1.5f), 2);  // up: no mantissa
  EXPECT_EQ(nearest("e8m0", 3.0f), 4);
  EXPECT_EQ(nearest("e8m0", 0x1.7p-127f), 0x1p-127f);  // subnormal floats
  EXPECT_EQ(nearest("e8m0", 0x1.8p-127f), 0x1p-126f);
  EXPECT_EQ(nearest("ternary", 0.5f), 1);
  EXPECT_EQ(nearest("ternary", -0.5f), -1);
}

TEST(Code, ScalesOfNvfp4RoundAsE4m3) {
  const Code& e4m3 = codes::named("e4m3");
  for (const float x : critical_numbers(e4m3)) {
    if (x > 0) {
      EXPECT_EQ(nearest_code(codes::named("ue4m3"), x), nearest_code(e4m3, x)) << x;
    }
  }
}

TEST(Code, SaturatesAtTheLargestFiniteValue) {
  const auto nearest = [](std::string_view name, float x) {
    float value = 0;
    const Code& code = *codes::find(name);
    code.look_up(nearest_code(code, x), &value);
    return value;
  };
  struct Largest {
    std::string_view name;
    float value;
  };
  for (const auto& [name, value] :
       {Largest{"e4m3", 448}, Largest{"e4m3fnuz", 240}, Largest{"e5m2", 57344}, Largest{"e3m2", 28},
        Largest{"e2m3", 7.5f}, Largest{"e2m1", 6}, Largest{"f16", 65504},
        Largest{"bf16", 0x1.fep127f}}) {
    const float largest = std::numeric_limits<float>::max();
    EXPECT_EQ(nearest(name, largest), value) << name;
    EXPECT_EQ(nearest(name, -largest), -value) << name;
    const bool has_infinity = name == "e5m2" || name == "f16" || name == "bf16";
    EXPECT_EQ(nearest(name, infinity), has_infinity ? infinity : value) << name;
    EXPECT_EQ(nearest(name, -infinity), has_infinity ? -infinity : -value) << name;
  }
  EXPECT_EQ(nearest("e8m0", std::numeric_limits<float>::max()), 0x1p127f);
  EXPECT_EQ(nearest("e8m0", infinity), 0x1p127f);
  EXPECT_EQ(nearest("e8m0", 0), 0x1p-127f);
  EXPECT_EQ(nearest("e8m0", -3), 0x1p-127f);
  EXPECT_EQ(nearest("ue4m3", 1e9f), 448);
  EXPECT_EQ(nearest("ue4m3", infinity), 448);
  EXPECT_EQ(nearest("ue4m3", -1), 0);
  EXPECT_EQ(nearest("int8", 1e9f), 127);
  EXPECT_EQ(nearest("int8", -infinity), -128);
}

TEST(Code, NanBecomesNanOrZero) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::string_view name : {"e4m3", "e4m3fnuz", "e5m2", "e8m0", "f16", "bf16", "f32"}) {
    float value = 0;
    codes::find(name)->look_up(nearest_code(*codes::find(name), nan), &value);
    EXPECT_TRUE(std::isnan(value)) << name;
  }
  for (const std::string_view name : {"int8", "uint4", "e2m1", "e3m2", "nf4", "ternary"}) {
    float value = 1;
    codes::find(name)->look_up(nearest_code(*codes::find(name), nan), &value);
    EXPECT_EQ(value, 0) << name;
  }
}

/// The codebook as the format's authors print it: 4 lanes of 2 bits, lane 0 lowest, 0 = -1, 1 = 0,
/// 2 = +1.
TEST(Code, SparseTernaryIsTheCodebookOfItsFormat) {
  constexpr std::uint8_t published[] = {0xa9, 0x89, 0x29, 0x09, 0xa6, 0x86, 0x26, 0x06,
                                        0x9a, 0x92, 0x1a, 0x12, 0x6a, 0x62, 0x4a, 0x42,
                                        0x01, 0x21, 0x81, 0xa1, 0x04, 0x24, 0x84, 0xa4,
                                        0x10, 0x18, 0x90, 0x98, 0x40, 0x48, 0x60, 0x68};
  const Code& code = codes::named("sparse_ternary");
  for (std::uint32_t c = 0; c < std::size(published); ++c) {
    float lanes[4];
    code.look_up(c, lanes);
    for (int lane = 0; lane < code.dim; ++lane) {
      EXPECT_EQ(lanes[lane], static_cast<float>(published[c] >> (2 * lane) & 3) - 1) << c;
    }
  }
}

TEST(Code, NearestVectorBeatsEveryOtherCode) {
  std::mt19937 random(21);
  std::normal_distribution<float> normal;
  const auto distance_to = [](const Code& code, std::uint32_t c, const float* x) {
    float vector[8];
    code.look_up(c, vector);
    double sum = 0;
    for (int i = 0; i < code.dim; ++i) sum += std::pow(static_cast<double>(vector[i]) - x[i], 2);
    return sum;
  };
  for (const Code& code : codes::list) {
    if (code.dim == 1) continue;
    const float spread = code.values[0] > 1 ? 20.0f : 1.0f;
    for (int trial = 0; trial < 4; ++trial) {
      float x[8];
      for (float& number : x) number = normal(random) * spread;
      const std::uint32_t best = nearest_vector(code, x);
      for (std::uint32_t c = 0; c < 1u << code.window; ++c) {
        ASSERT_LE(distance_to(code, best, x), distance_to(code, c, x)) << code.name;
      }
    }
    for (std::uint32_t c = 0; c < 1u << code.window; c += code.dim == 8 ? 97 : 1) {
      float vector[8], again[8];
      code.look_up(c, vector);
      code.look_up(nearest_vector(code, vector), again);
      for (int i = 0; i < code.dim; ++i) EXPECT_EQ(vector[i], again[i]) << code.name;
    }
  }
}

}  // namespace
}  // namespace lowbit
