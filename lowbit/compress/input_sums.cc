// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/input_sums.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "lowbit/base/assert.h"

namespace lowbit {
namespace {

constexpr std::int64_t block_tokens = gram_block_tokens;
constexpr std::int64_t strip_cols = 64;  // sums of a strip stay in the first-level cache

/// Sums of some columns over one block of tokens.
struct Strip {
  std::array<float, strip_cols> squares{}, magnitudes{}, largest{};
  std::array<std::int32_t, strip_cols> outliers{};

  void add(const float* x, std::int64_t n_cols) {
    for (std::int64_t j = 0; j < n_cols; ++j) {
      const auto at = static_cast<std::size_t>(j);
      const float magnitude = std::fabs(x[j]);
      squares[at] += x[j] * x[j];
      magnitudes[at] += magnitude;
      largest[at] = magnitude > largest[at] ? magnitude : largest[at];
      outliers[at] += magnitude >= outlier_threshold ? 1 : 0;
    }
  }
};

}  // namespace

InputSums::InputSums(std::int64_t n_inputs, Needs needs, const KernelTable& kernels,
                     ThreadPool& pool)
    : n_inputs_(n_inputs), needs_(needs), kernels_(kernels), pool_(pool) {
  if (needs == Needs::weights) return;
  const auto n = static_cast<std::size_t>(n_inputs);
  squares_.resize(n);
  magnitudes_.resize(n);
  largest_.resize(n);
  outliers_.resize(n);
  if (needs == Needs::hessian) hessian_.resize(n * n);
}

void InputSums::add(MatrixView x) {
  LOWBIT_ASSERT(x.cols == n_inputs_);
  n_tokens_ += x.rows;
  if (needs_ == Needs::weights) return;
  const std::int64_t n_strips = (n_inputs_ + strip_cols - 1) / strip_cols;
  pool_.parallel_for(n_strips, /*chunk=*/1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t strip_index = begin; strip_index < end; ++strip_index) {
      const std::int64_t col = strip_index * strip_cols;
      const std::int64_t n_cols = std::min(strip_cols, n_inputs_ - col);
      for (std::int64_t first = 0; first < x.rows; first += block_tokens) {
        Strip strip;
        for (std::int64_t t = first; t < std::min(first + block_tokens, x.rows); ++t) {
          strip.add(x.row(t) + col, n_cols);
        }
        for (std::int64_t j = 0; j < n_cols; ++j) {
          const auto from = static_cast<std::size_t>(j), to = static_cast<std::size_t>(col + j);
          squares_[to] += static_cast<double>(strip.squares[from]);
          magnitudes_[to] += static_cast<double>(strip.magnitudes[from]);
          largest_[to] = std::max(largest_[to], strip.largest[from]);
          outliers_[to] += strip.outliers[from];
        }
      }
    }
  });
  if (needs_ == Needs::hessian) {
    add_gram(kernels_, x, {hessian_.data(), n_inputs_, n_inputs_}, workspace_, pool_);
  }
}

Result<TensorStats> InputSums::take() {
  TensorStats stats;
  stats.n_tokens = n_tokens_;
  if (needs_ == Needs::weights) return stats;
  const auto bad = std::ranges::find_if(squares_, [](double sum) { return !std::isfinite(sum); });
  if (bad != squares_.end()) {
    return Error(fmt::format("input {} is not finite on the calibration text; the model overflows",
                             bad - squares_.begin()));
  }
  const auto n_tokens = static_cast<double>(n_tokens_);
  const auto means = [&](const std::vector<double>& sums) {
    std::vector<float> result(sums.size());
    std::ranges::transform(sums, result.begin(),
                           [&](double sum) { return static_cast<float>(sum / n_tokens); });
    return result;
  };
  stats.mean_square = means(squares_);
  stats.mean_abs = means(magnitudes_);
  stats.max_abs = std::move(largest_);
  stats.n_outliers = std::accumulate(outliers_.begin(), outliers_.end(), std::int64_t{0});
  if (needs_ == Needs::hessian) {
    mirror_gram({hessian_.data(), n_inputs_, n_inputs_}, pool_);
    const auto divisor = static_cast<float>(n_tokens_);
    pool_.parallel_for(n_inputs_, /*chunk=*/16, [&](std::int64_t first, std::int64_t last, int) {
      for (std::int64_t i = first * n_inputs_; i < last * n_inputs_; ++i) {
        hessian_[static_cast<std::size_t>(i)] /= divisor;
      }
    });
    stats.hessian = std::move(hessian_);
  }
  return stats;
}

}  // namespace lowbit
