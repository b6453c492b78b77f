// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/sparse_ternary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "lowbit/quant/group_walk.h"
#include "lowbit/quant/stored_number.h"

namespace lowbit {
namespace {

constexpr int quad_size = 4;
constexpr std::size_t n_patterns = 32;
constexpr int n_rounds = 3;

using Quad = std::array<float, quad_size>;

std::size_t key_of(const float* v) {
  std::size_t key = 0;
  for (int lane = 0; lane < quad_size; ++lane)
    key = key * 3 + static_cast<std::size_t>(v[lane] + 1);
  return key;
}

/// Code of every pattern, by key_of.
class Patterns {
 public:
  explicit Patterns(const Code& code) {
    for (std::size_t i = 0; i < n_patterns; ++i) {
      code_[key_of(code.values.data() + i * quad_size)] = static_cast<std::uint32_t>(i);
    }
  }
  std::uint32_t code(const Quad& v) const { return code_[key_of(v.data())]; }

 private:
  std::array<std::uint32_t, 81> code_{};  // 3^4 keys
};

/// The pattern that loses least at scale d >= 0.
Quad pattern_of(const float* x, const float* w, float d) {
  Quad v;
  int zero_lane = 0;
  float least = 0;
  for (int lane = 0; lane < quad_size; ++lane) {
    const float magnitude = std::abs(x[lane]);
    const float loss = (w == nullptr ? 1.0f : w[lane]) * d * (2 * magnitude - d);
    if (lane == 0 || loss < least) zero_lane = lane, least = loss;
    v[static_cast<std::size_t>(lane)] = x[lane] < 0 ? -1.0f : 1.0f;
  }
  v[static_cast<std::size_t>(zero_lane)] = 0;
  return v;
}

/// Least squares scale for the patterns at scale d.
float refitted(const GroupData& group, float d) {
  double numerator = 0, denominator = 0;
  for (std::size_t i = 0; i + quad_size <= group.x.size(); i += quad_size) {
    const float* w = group.weights.empty() ? nullptr : group.weights.data() + i;
    const Quad v = pattern_of(group.x.data() + i, w, d);
    for (std::size_t lane = 0; lane < quad_size; ++lane) {
      const double weight = w == nullptr ? 1 : static_cast<double>(w[lane]);
      numerator += weight * static_cast<double>(v[lane] * group.x[i + lane]);
      denominator += weight * static_cast<double>(v[lane] * v[lane]);
    }
  }
  return denominator > 0 ? static_cast<float>(numerator / denominator) : 0;
}

float mean_of_largest(const GroupData& group) {
  double sum = 0;
  for (std::size_t i = 0; i + quad_size <= group.x.size(); i += quad_size) {
    float least = std::abs(group.x[i]);
    for (std::size_t lane = 0; lane < quad_size; ++lane) {
      const float magnitude = std::abs(group.x[i + lane]);
      sum += static_cast<double>(magnitude);
      least = std::min(least, magnitude);
    }
    sum -= static_cast<double>(least);
  }
  const auto n_kept = static_cast<double>(group.x.size()) * (quad_size - 1) / quad_size;
  return n_kept > 0 ? static_cast<float>(sum / n_kept) : 0;
}

}  // namespace

bool is_sparse_ternary(const Code& code) {
  if (code.dim != quad_size || code.signs != 0 || code.values.size() != n_patterns * quad_size)
    return false;
  for (std::size_t i = 0; i < n_patterns; ++i) {
    const auto quad = code.values.subspan(i * quad_size, quad_size);
    const auto is_trit = [](float v) { return v == -1 || v == 0 || v == 1; };
    if (!std::ranges::all_of(quad, is_trit) || std::ranges::count(quad, 0.0f) != 1) return false;
  }
  return true;
}

void round_sparse_ternary(MatrixView w, const InputStats& stats, QuantizedTensor& tensor,
                          bool refit, ThreadPool& pool) {
  const GroupWalk walk(w, stats, tensor);
  const Patterns patterns(*tensor.scheme.code);
  const StoredCode stored(*tensor.scale->scheme.code);
  const CodeSearch scale_codes(*tensor.scale->scheme.code);
  const std::int64_t quads_per_group = tensor.group_cols() / quad_size;
  walk.for_each(pool, [&](std::int64_t row, std::int64_t col, const GroupData& group) {
    float d = mean_of_largest(group);
    for (int i = 0; refit && i < n_rounds; ++i) d = refitted(group, d);
    d = stored.nearest(d);
    tensor.scale->codes.set(row, col, scale_codes.nearest(d));
    for (std::size_t i = 0; i + quad_size <= group.x.size(); i += quad_size) {
      const float* weights = group.weights.empty() ? nullptr : group.weights.data() + i;
      const Quad v = pattern_of(group.x.data() + i, weights, d);
      tensor.codes.set(row, col * quads_per_group + static_cast<std::int64_t>(i / quad_size),
                       patterns.code(v));
    }
  });
}

}  // namespace lowbit
