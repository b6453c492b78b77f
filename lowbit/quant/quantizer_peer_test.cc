// SPDX-License-Identifier: Apache-2.0
// Our searched rounding against the peer's own quantizer (llama.cpp) on the same matrices: a
// Gaussian one, one with heavy tails and rows of a real model, with and without weights. The peer's
// errors are golden values; tests/golden/make_quantizer_errors.py says what they are and makes the
// matrices by the same arithmetic.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>

#include "lowbit/base/half.h"
#include "lowbit/base/test_files.h"
#include "lowbit/quant/rounder.h"

namespace lowbit {
namespace {

constexpr std::int64_t rows = 16, cols = 1536;
constexpr std::size_t n_numbers = rows * cols;
const std::string folder = std::string(LOWBIT_SOURCE_DIR) + "/tests/golden/quantizer/";

/// splitmix64 of a counter as a number in [0, 1).
double uniform(std::uint64_t counter) {
  std::uint64_t z = (counter + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

double normal(std::uint64_t seed, std::uint64_t i) {
  constexpr std::uint64_t n_uniforms = 12;
  double sum = 0;
  for (std::uint64_t k = 0; k < n_uniforms; ++k) sum += uniform(seed + n_uniforms * i + k);
  return sum - 6.0;
}

std::vector<float> gaussian() {
  std::vector<float> w(n_numbers);
  for (std::size_t i = 0; i < w.size(); ++i)
    w[i] = static_cast<float>(normal(std::uint64_t{1} << 32, i) * 0.02);
  return w;
}

std::vector<float> heavy() {
  constexpr std::uint64_t seed = std::uint64_t{2} << 32, freedom = 4;
  std::vector<float> w(n_numbers);
  for (std::size_t i = 0; i < w.size(); ++i) {
    const std::uint64_t first = i * (freedom + 1);
    double square = 0;
    for (std::uint64_t k = 1; k <= freedom; ++k) {
      const double z = normal(seed, first + k);
      square += z * z;
    }
    w[i] = static_cast<float>(normal(seed, first) / std::sqrt(square / 4.0) * 0.02);
  }
  return w;
}

std::vector<float> real() {
  const std::string bytes = read_bytes(folder + "real.f16");
  std::vector<float> w(bytes.size() / 2);
  for (std::size_t i = 0; i < w.size(); ++i) {
    const auto low = static_cast<std::uint8_t>(bytes[2 * i]);
    const auto high = static_cast<std::uint8_t>(bytes[2 * i + 1]);
    w[i] = half_to_float(static_cast<std::uint16_t>(high << 8 | low));
  }
  return w;
}

std::vector<float> importance() {
  std::vector<float> weights(cols);
  for (std::size_t i = 0; i < weights.size(); ++i)
    weights[i] = static_cast<float>(1.0 / (uniform((std::uint64_t{3} << 32) + i) + 0.02));
  return weights;
}

TEST(QuantizerPeer, OurErrorIsNeverAboveThePeers) {
  // Binary has nothing to search: the same scale, up to its rounding.
  constexpr double most_ratio = 1.0005;
  const std::map<std::string, std::vector<float>> matrices{
      {"gaussian", gaussian()}, {"heavy", heavy()}, {"real", real()}};
  const std::vector<float> weights = importance();
  ThreadPool pool(2);
  std::ifstream golden(folder + "errors.txt");
  std::string matrix, weighting, type;
  double peer_error = 0;
  int n_checked = 0;
  while (golden >> matrix >> weighting >> type >> peer_error) {
    const std::vector<float>& w = matrices.at(matrix);
    ASSERT_EQ(w.size(), n_numbers) << matrix;
    const MatrixView view(w.data(), rows, cols);
    InputStats stats;
    if (weighting == "weighted") stats.mean_square = weights;
    const auto tensor = round_to_nearest(view, stats, *parse_scheme(type), pool);
    ASSERT_TRUE(tensor) << type << ": " << tensor.error().message();
    const double ratio = weighted_error(view, stats, *tensor) / peer_error;
    EXPECT_LE(ratio, most_ratio) << matrix << " " << weighting << " " << type;
    RecordProperty(matrix + "_" + weighting + "_" + type, std::to_string(ratio));
    ++n_checked;
  }
  EXPECT_EQ(n_checked, 3 * 2 * 24);
}

}  // namespace
}  // namespace lowbit
