// SPDX-License-Identifier: Apache-2.0
// The float codes against ml_dtypes (f16 against numpy, nf4 against its definition): all codes, the
// middles between neighbours, 10^6 random numbers inside the finite range.
// tests/golden/make_codes.py writes the golden file and states its format.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "lowbit/formats/code_search.h"
#include "lowbit/formats/codes.h"

namespace lowbit {
namespace {

constexpr std::uint32_t nan_bits = 0x7fc00000u;

struct Golden {
  std::string name;
  std::map<std::string, std::vector<std::uint64_t>> words;  // by kind
};

std::vector<Golden> read_golden() {
  std::ifstream file(LOWBIT_SOURCE_DIR "/tests/golden/codes.txt");
  std::vector<Golden> codes;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string kind, word;
    words >> kind;
    if (kind == "#") continue;
    if (kind == "code") {
      codes.emplace_back();
      words >> codes.back().name;
      continue;
    }
    while (words >> word) codes.back().words[kind].push_back(std::stoull(word, nullptr, 16));
  }
  return codes;
}

class Fnv {
 public:
  void add(std::uint32_t value, int n_bytes) {
    for (int i = 0; i < n_bytes; ++i) hash_ = (hash_ ^ (value >> (8 * i) & 0xffu)) * 0x100000001b3u;
  }
  std::uint64_t hash() const { return hash_; }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

struct Numbers {
  std::vector<std::uint32_t> bits;  // of every code
  std::vector<float> finite;        // without repetition, ascending
};

Numbers numbers_of(const Code& code) {
  Numbers numbers;
  for (std::uint32_t c = 0; c < 1u << code.window; ++c) {
    float value = 0;
    code.look_up(c, &value);
    numbers.bits.push_back(std::isnan(value) ? nan_bits : std::bit_cast<std::uint32_t>(value));
    if (std::isfinite(value)) numbers.finite.push_back(value);
  }
  std::ranges::stable_sort(numbers.finite);
  const auto repeated = std::ranges::unique(numbers.finite);
  numbers.finite.erase(repeated.begin(), repeated.end());
  return numbers;
}

std::vector<float> middles_of(const Numbers& numbers) {
  std::vector<float> middles;
  for (std::size_t i = 0; i + 1 < numbers.finite.size(); ++i) {
    const double sum = static_cast<double>(numbers.finite[i]) + numbers.finite[i + 1];
    middles.push_back(static_cast<float>(sum / 2));
  }
  return middles;
}

class Lcg {
 public:
  std::uint32_t draw() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::uint32_t>(state_ >> 32);
  }

 private:
  std::uint64_t state_ = 1;
};

TEST(Golden, CodesMeanWhatOthersMeanByThem) {
  const std::vector<Golden> golden = read_golden();
  ASSERT_EQ(golden.size(), 10u);
  for (const auto& [name, words] : golden) {
    const Code* code = codes::find(name);
    ASSERT_NE(code, nullptr) << name;
    const Numbers numbers = numbers_of(*code);
    if (words.contains("values")) {
      EXPECT_TRUE(std::ranges::equal(numbers.bits, words.at("values"))) << name;
    } else {
      Fnv fnv;
      for (const std::uint32_t bits : numbers.bits) fnv.add(bits, sizeof(float));
      EXPECT_EQ(fnv.hash(), words.at("values_hash").front()) << name;
    }
  }
}

TEST(Golden, MiddlesRoundAsOthersRoundThem) {
  for (const auto& [name, words] : read_golden()) {
    if (name == "nf4") continue;  // no rounding rule of its own
    const Code& code = *codes::find(name);
    const CodeSearch search(code);
    const std::vector<float> middles = middles_of(numbers_of(code));
    if (words.contains("middles")) {
      ASSERT_EQ(middles.size(), words.at("middles").size()) << name;
      for (std::size_t i = 0; i < middles.size(); ++i) {
        EXPECT_EQ(nearest_code(code, middles[i]), words.at("middles")[i])
            << name << " " << middles[i];
        EXPECT_EQ(search.nearest(middles[i]), words.at("middles")[i]) << name << " " << middles[i];
      }
    } else {
      Fnv fnv;
      for (const float middle : middles) fnv.add(search.nearest(middle), sizeof(std::uint16_t));
      EXPECT_EQ(fnv.hash(), words.at("middles_hash").front()) << name;
    }
  }
}

TEST(Golden, RandomNumbersRoundAsOthersRoundThem) {
  constexpr int n_numbers = 1'000'000;
  constexpr std::uint32_t sign_and_mantissa = 0x807fffffu;
  for (const auto& [name, words] : read_golden()) {
    if (name == "nf4") continue;
    const Code& code = *codes::find(name);
    const CodeSearch search(code);
    const Numbers numbers = numbers_of(code);
    const auto low = static_cast<std::uint32_t>(words.at("random")[0]);
    const auto high = static_cast<std::uint32_t>(words.at("random")[1]);
    const int code_bytes = code.window > 8 ? 2 : 1;
    Lcg lcg;
    Fnv fnv;
    for (int i = 0; i < n_numbers; ++i) {
      const std::uint32_t rest = lcg.draw() & sign_and_mantissa;
      const std::uint32_t exponent = low + lcg.draw() % (high - low + 1);
      const float number = std::bit_cast<float>(rest | exponent << 23);
      fnv.add(search.nearest(std::clamp(number, numbers.finite.front(), numbers.finite.back())),
              code_bytes);
    }
    EXPECT_EQ(fnv.hash(), words.at("random")[2]) << name;
  }
}

}  // namespace
}  // namespace lowbit
