// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/codebook.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lowbit/formats/learned_code.h"
#include "lowbit/quant/lanes.h"

namespace lowbit {
namespace {

constexpr float reach = 127;  // of the stored values
constexpr std::size_t most_samples = 1 << 15;
constexpr int n_rounds = 4, n_steps = 12;  // tables; steps of k-means for each

/// Vectors under their scales, with the weights of their numbers.
struct Samples {
  std::size_t dim = 1, n = 0;
  std::vector<float> x, weights;  // (n, dim) row-major
};

/// Rows at equal distances, enough for the samples wanted; all where groups span rows.
std::vector<float> sampled_rows(MatrixView w, const Scheme& scheme) {
  const std::int64_t wanted_numbers = static_cast<std::int64_t>(most_samples) * scheme.code->dim;
  const std::int64_t n_rows =
      scheme.group.rows != 1 ? w.rows
                             : std::clamp<std::int64_t>(wanted_numbers / w.cols,
                                                        std::min<std::int64_t>(w.rows, 16), w.rows);
  std::vector<float> rows;
  rows.reserve(static_cast<std::size_t>(n_rows * w.cols));
  for (std::int64_t i = 0; i < n_rows; ++i) {
    const auto row = w.row_span(i * w.rows / n_rows);
    rows.insert(rows.end(), row.begin(), row.end());
  }
  return rows;
}

/// What the table should say: every vector divided by its scale.
Samples samples_of(MatrixView w, const InputStats& stats, const QuantizedTensor& tensor) {
  const std::vector<float> scales = decode(*tensor.scale);
  const auto dim = static_cast<std::size_t>(tensor.scheme.code->dim);
  const std::int64_t group_cols = tensor.group_cols(), group_rows = tensor.group_rows();
  float heaviest = 0;
  for (const float weight : stats.mean_square) heaviest = std::max(heaviest, weight);
  float largest_scale = 0;
  for (const float scale : scales) largest_scale = std::max(largest_scale, std::abs(scale));
  Samples samples{.dim = dim, .n = 0, .x = {}, .weights = {}};
  for (std::int64_t r = 0; r < w.rows; ++r) {
    const float* row_scales = scales.data() + r / group_rows * tensor.scale->cols;
    for (std::int64_t c = 0; c < w.cols; c += tensor.scheme.code->dim) {
      const float scale = row_scales[c / group_cols];
      if (scale == 0) continue;
      ++samples.n;
      for (std::size_t i = 0; i < dim; ++i) {
        const std::int64_t col = c + static_cast<std::int64_t>(i);
        const float share = scale / largest_scale;
        const float weight = stats.mean_square.empty() || heaviest == 0
                                 ? 1.0f
                                 : stats.mean_square[static_cast<std::size_t>(col)] / heaviest;
        samples.x.push_back(w.row(r)[col] / scale);
        samples.weights.push_back(weight * share * share);
      }
    }
  }
  return samples;
}

/// The index of the nearest of the table's vectors for every sample, and its error.
class Assignment {
 public:
  void find(const Samples& samples, std::span<const float> table, ThreadPool& pool) {
    nearest_.resize(samples.n);
    error_.resize(samples.n);
    const std::size_t dim = samples.dim, n_vectors = table.size() / dim;
    const std::size_t n_padded = (n_vectors + n_lanes - 1) / n_lanes * n_lanes;
    // Number by number; the padding is farther than anything.
    std::vector<float> columns(n_padded * dim, 0x1p40f);
    for (std::size_t v = 0; v < n_vectors; ++v) {
      for (std::size_t i = 0; i < dim; ++i) columns[i * n_padded + v] = table[v * dim + i];
    }
    constexpr std::int64_t chunk = 1024;
    auto body = [&](std::int64_t first, std::int64_t last, int) {
      for (auto s = static_cast<std::size_t>(first); s < static_cast<std::size_t>(last); ++s) {
        const float* x = samples.x.data() + s * dim;
        const float* w = samples.weights.data() + s * dim;
        Lanes least_error = all_lanes(std::numeric_limits<float>::infinity());
        LaneBits index{}, at{0, 1, 2, 3};
        for (std::size_t v = 0; v < n_padded; v += n_lanes) {
          Lanes error{};
          for (std::size_t i = 0; i < dim; ++i) {
            const Lanes difference = all_lanes(x[i]) - lanes_at(columns.data() + i * n_padded + v);
            error += all_lanes(w[i]) * (difference * difference);
          }
          const LaneBits better = error < least_error;
          index = (at & better) | (index & ~better);
          least_error = better ? error : least_error;
          at += static_cast<std::int32_t>(n_lanes);
        }
        std::size_t best = 0;
        for (std::size_t lane = 1; lane < n_lanes; ++lane) {
          if (least_error[lane] < least_error[best]) best = lane;
        }
        nearest_[s] = static_cast<std::uint32_t>(index[best]);
        error_[s] = least_error[best];
      }
    };
    pool.parallel_for(static_cast<std::int64_t>(samples.n), chunk, body);
  }
  std::uint32_t nearest(std::size_t sample) const { return nearest_[sample]; }
  /// The samples that lie farthest from the table, worst first.
  std::vector<std::size_t> worst(std::size_t n) const {
    std::vector<std::size_t> order(error_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    n = std::min(n, order.size());
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n), order.end(),
                      [&](std::size_t a, std::size_t b) {
                        return error_[a] > error_[b] || (error_[a] == error_[b] && a < b);
                      });
    order.resize(n);
    return order;
  }

 private:
  std::vector<std::uint32_t> nearest_;
  std::vector<float> error_;
};

/// One step of k-means: every vector to the weighted mean of its samples; a vector without any to
/// a sample that has none near.
void improve(const Samples& samples, Assignment& assignment, std::vector<float>& table,
             ThreadPool& pool) {
  assignment.find(samples, table, pool);
  const std::size_t dim = samples.dim;
  std::vector<double> sum(table.size(), 0.0), weight(table.size(), 0.0);
  std::vector<std::size_t> n_samples(table.size() / dim, 0);
  for (std::size_t s = 0; s < samples.n; ++s) {
    const std::size_t first = assignment.nearest(s) * dim;
    ++n_samples[assignment.nearest(s)];
    for (std::size_t i = 0; i < dim; ++i) {
      const double w = static_cast<double>(samples.weights[s * dim + i]);
      weight[first + i] += w;
      sum[first + i] += w * static_cast<double>(samples.x[s * dim + i]);
    }
  }
  const auto n_unused = static_cast<std::size_t>(std::ranges::count(n_samples, std::size_t{0}));
  const std::vector<std::size_t> far = assignment.worst(n_unused);
  std::size_t next = 0;
  for (std::size_t v = 0; v < n_samples.size(); ++v) {
    for (std::size_t i = 0; i < dim; ++i) {
      float& value = table[v * dim + i];
      if (n_samples[v] == 0 && next < far.size()) {
        value = samples.x[far[next] * dim + i];
      } else if (weight[v * dim + i] > 0) {
        value = static_cast<float>(sum[v * dim + i] / weight[v * dim + i]);
      }
    }
    if (n_samples[v] == 0 && next < far.size()) ++next;
  }
}

/// Integers up to the reach. The scales take the factor.
std::vector<float> as_stored(std::vector<float> table) {
  float largest = 0;
  for (const float value : table) largest = std::max(largest, std::abs(value));
  if (largest == 0) return table;
  for (float& value : table) value = std::nearbyint(value * (reach / largest));
  return table;
}

}  // namespace

Result<Scheme> with_learned_table(MatrixView w, const InputStats& stats, const Scheme& scheme,
                                  ThreadPool& pool) {
  if (!scheme.code->is_learned || scheme.code->owner != nullptr || w.rows == 0) return scheme;
  const Code& family = *scheme.code;
  const std::vector<float> numbers = sampled_rows(w, scheme);
  const MatrixView rows(numbers.data(), static_cast<std::int64_t>(numbers.size()) / w.cols, w.cols);
  Scheme learned = scheme;
  std::vector<float> table(family.values.begin(), family.values.end());
  learned.code = LearnedCode::make(family, table);
  Assignment assignment;
  std::vector<float> best_table = table;
  double least = std::numeric_limits<double>::infinity();
  for (int round = 0; round <= n_rounds; ++round) {
    const auto fitted = round_to_nearest(rows, stats, learned, pool);
    if (!fitted) return Error(fitted.error());
    const double error = weighted_error(rows, stats, *fitted);
    if (error < least) least = error, best_table = table;
    if (round == n_rounds) break;
    const Samples samples = samples_of(rows, stats, *fitted);
    if (samples.n == 0) break;
    for (int i = 0; i < n_steps; ++i) improve(samples, assignment, table, pool);
    table = as_stored(std::move(table));
    learned.code = LearnedCode::make(family, table);
  }
  learned.code = LearnedCode::make(family, best_table);
  return learned;
}

}  // namespace lowbit
