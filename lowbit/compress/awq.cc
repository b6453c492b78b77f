// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/awq.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "lowbit/backend/cpu_backend.h"
#include "lowbit/base/assert.h"
#include "lowbit/compress/smooth.h"

namespace lowbit {
namespace {

const Scheme& plain_f32() {
  static const Scheme scheme = *parse_scheme("f32");
  return scheme;
}

/// A matrix that reads the inputs of a fold.
struct Consumer {
  std::string name;
  std::int64_t rows = 0, cols = 0;
  std::vector<float> w;  // (rows, cols)
  Basis input;
  TensorRecipe recipe;
};

/// Columns of w times s.
std::vector<float> scaled(const Consumer& consumer, std::span<const float> by_column) {
  std::vector<float> result = consumer.w;
  for (std::size_t i = 0; i < result.size(); ++i) result[i] *= by_column[i % by_column.size()];
  return result;
}

std::vector<float> factors_by_column(const Fold& fold, std::span<const float> factors) {
  std::vector<float> by_column(static_cast<std::size_t>(fold.n_columns()));
  for (std::size_t c = 0; c < by_column.size(); ++c) {
    by_column[c] = factors[static_cast<std::size_t>(fold.channel_of(static_cast<std::int64_t>(c)))];
  }
  return by_column;
}

/// What the statistics of inputs are behind the division by s.
struct ScaledStats {
  ScaledStats(const TensorStats& stats, std::span<const float> by_column)
      : n_tokens(stats.n_tokens),
        mean_square(stats.mean_square),
        mean_abs(stats.mean_abs),
        max_abs(stats.max_abs) {
    for (std::size_t j = 0; j < by_column.size(); ++j) {
      mean_square[j] /= by_column[j] * by_column[j];
      mean_abs[j] /= by_column[j];
      max_abs[j] /= by_column[j];
    }
  }
  InputStats view() const {
    return {.mean_square = mean_square,
            .mean_abs = mean_abs,
            .max_abs = max_abs,
            .hessian = {},
            .n_tokens = n_tokens};
  }
  std::int64_t n_tokens;
  std::vector<float> mean_square, mean_abs, max_abs;
};

/// Products of exact weights on the CPU.
class Products {
 public:
  static Result<Products> create(ThreadPool& pool) {
    auto backend = make_cpu_backend(pool);
    if (!backend) return std::move(backend).error();
    Products products;
    products.backend_ = *std::move(backend);
    return products;
  }

  /// (x.rows, rows) of x (., cols) and w (rows, cols).
  Result<std::vector<float>> of(MatrixView x, std::span<const float> w, std::int64_t rows,
                                const Basis& input = {}) {
    QuantizedTensor tensor = encode_plain(w, plain_f32(), rows, x.cols);
    tensor.input = input;
    auto weight = backend_->pack(tensor, Activations::f32);
    if (!weight) return std::move(weight).error();
    const auto from = backend_->make_tensor(x.rows, x.cols);
    backend_->upload({x.data, static_cast<std::size_t>(x.rows * x.cols)}, *from);
    const auto to = backend_->make_tensor(x.rows, rows);
    backend_->matmul(*from, std::array{Product{weight->get(), nullptr, to.get()}});
    std::vector<float> y(static_cast<std::size_t>(x.rows * rows));
    backend_->download(*to, y);
    return y;
  }

  /// gate = silu(gate) * up.
  void silu_mul(std::vector<float>& gate, const std::vector<float>& up) {
    const auto n = static_cast<std::int64_t>(gate.size());
    const auto a = backend_->make_tensor(1, n), b = backend_->make_tensor(1, n);
    backend_->upload(gate, *a);
    backend_->upload(up, *b);
    backend_->silu_mul(*a, *b);
    backend_->download(*a, gate);
  }

 private:
  Products() = default;
  std::unique_ptr<Backend> backend_;
};

double distance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += difference * difference;
  }
  return sum;
}

double power(std::span<const float> a) {
  double sum = 0;
  for (const float number : a) sum += static_cast<double>(number) * static_cast<double>(number);
  return sum;
}

/// The search for one fold of one block.
class Search {
 public:
  Search(const AwqOptions& options, const Fold& fold, const BlockInputs::Stage& inputs,
         std::vector<Consumer> consumers, Products& products, ThreadPool& pool)
      : options_(options),
        fold_(fold),
        inputs_(inputs),
        consumers_(std::move(consumers)),
        products_(products),
        pool_(pool) {
    // Rows evenly from the sample.
    const std::int64_t n_cols = fold.n_columns();
    n_rows_ = std::min(options.n_rows, inputs.n_samples);
    for (std::int64_t i = 0; i < n_rows_; ++i) {
      const std::int64_t row = (2 * i + 1) * inputs.n_samples / (2 * n_rows_);
      const auto first = inputs.sample.begin() + static_cast<std::ptrdiff_t>(row * n_cols);
      x_.insert(x_.end(), first, first + static_cast<std::ptrdiff_t>(n_cols));
    }
  }

  /// The matrix behind a gate, so that gate and up are judged by what it makes of them.
  void judge_by(const Consumer& down) { down_ = &down; }

  Result<std::vector<float>> best_factors() {
    if (Status status = set_target(); !status) return std::move(status).error();
    std::vector<float> best(static_cast<std::size_t>(fold_.n_channels), 1.0f);
    auto least = loss(best);
    if (!least) return std::move(least).error();
    const std::vector<float> mean_x = mean_by_channel(fold_, inputs_.stats.mean_abs);
    const std::vector<float> mean_w = mean_by_channel(fold_, mean_weights());
    for (const bool is_duo : {true, false}) {
      for (int k = 1; k <= options_.n_ratios; ++k) {
        const double ratio = static_cast<double>(k) / options_.n_ratios;
        const std::vector<float> factors = candidate(mean_x, mean_w, ratio, is_duo);
        const auto error = loss(factors);
        if (!error) return Error(error.error());
        if (*error < *least) {
          least = *error;
          best = factors;
        }
      }
    }
    return best;
  }

 private:
  MatrixView x() const { return {x_.data(), n_rows_, fold_.n_columns()}; }

  std::vector<float> candidate(std::span<const float> mean_x, std::span<const float> mean_w,
                               double ratio, bool is_duo) const {
    constexpr double least = 1e-4;
    std::vector<double> s(mean_x.size());
    double largest = 0, smallest = std::numeric_limits<double>::infinity();
    for (std::size_t j = 0; j < s.size(); ++j) {
      s[j] = std::pow(static_cast<double>(mean_x[j]), ratio);
      if (is_duo) s[j] /= std::pow(static_cast<double>(mean_w[j]), 1 - ratio) + least;
      s[j] = std::max(s[j], least);
      largest = std::max(largest, s[j]);
      smallest = std::min(smallest, s[j]);
    }
    const double middle = std::sqrt(largest * smallest);
    std::vector<float> factors;
    for (const double number : s) factors.push_back(static_cast<float>(number / middle));
    return factors;
  }

  /// (columns): the mean over all rows of |w| over the largest of its group.
  std::vector<float> mean_weights() const {
    const auto n_cols = static_cast<std::size_t>(fold_.n_columns());
    std::vector<double> sums(n_cols);
    std::int64_t n_rows = 0;
    for (const Consumer& consumer : consumers_) {
      const auto asked = static_cast<std::size_t>(consumer.recipe.scheme.group.cols);
      const std::size_t group = asked == 0 ? n_cols : std::min(asked, n_cols);
      n_rows += consumer.rows;
      for (std::size_t row = 0; row < consumer.w.size(); row += n_cols) {
        for (std::size_t first = 0; first < n_cols; first += group) {
          const std::size_t last = std::min(first + group, n_cols);
          float largest = 0;
          for (std::size_t c = first; c < last; ++c) {
            largest = std::max(largest, std::fabs(consumer.w[row + c]));
          }
          if (!(largest > 0)) continue;
          for (std::size_t c = first; c < last; ++c) {
            sums[c] += static_cast<double>(std::fabs(consumer.w[row + c]) / largest);
          }
        }
      }
    }
    std::vector<float> mean;
    for (const double sum : sums)
      mean.push_back(static_cast<float>(sum / static_cast<double>(n_rows)));
    return mean;
  }

  /// What the consumers put out unrounded.
  Status set_target() {
    target_.clear();
    for (const Consumer& consumer : consumers_) {
      auto y = products_.of(x(), consumer.w, consumer.rows);
      if (!y) return std::move(y).error().in(consumer.name);
      target_.push_back(*std::move(y));
    }
    if (down_ == nullptr) return ok();
    auto y = behind_gate(target_);
    if (!y) return std::move(y).error();
    target_ = {*std::move(y)};
    return ok();
  }

  Result<std::vector<float>> behind_gate(std::vector<std::vector<float>>& gate_and_up) {
    products_.silu_mul(gate_and_up[0], gate_and_up[1]);
    return products_.of({gate_and_up[0].data(), n_rows_, down_->cols}, down_->w, down_->rows,
                        down_->input);
  }

  /// The rounded matrix behind the factors, in the columns' own units again.
  Result<std::vector<float>> rounded(const Consumer& consumer, std::span<const float> by_column) {
    const std::vector<float> w = scaled(consumer, by_column);
    const ScaledStats stats(inputs_.stats, by_column);
    auto result = consumer.recipe.rounder->round({w.data(), consumer.rows, consumer.cols},
                                                 stats.view(), consumer.recipe.scheme, pool_);
    if (!result) return std::move(result).error().in(consumer.name);
    std::vector<float> numbers = decode(result->tensor);
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] /= by_column[i % by_column.size()];
    return numbers;
  }

  Result<double> loss(std::span<const float> factors) {
    const std::vector<float> by_column = factors_by_column(fold_, factors);
    std::vector<std::vector<float>> outputs;
    for (const Consumer& consumer : consumers_) {
      auto w = rounded(consumer, by_column);
      if (!w) return std::move(w).error();
      auto y = products_.of(x(), *w, consumer.rows);
      if (!y) return std::move(y).error().in(consumer.name);
      outputs.push_back(*std::move(y));
    }
    if (down_ != nullptr) {
      auto y = behind_gate(outputs);
      if (!y) return std::move(y).error();
      outputs = {*std::move(y)};
    }
    double sum = 0;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const double whole = power(target_[i]);
      const double error = distance(outputs[i], target_[i]);
      sum += whole > 0 ? error / whole : error;
    }
    return sum;
  }

  const AwqOptions& options_;
  const Fold& fold_;
  const BlockInputs::Stage& inputs_;
  std::vector<Consumer> consumers_;
  Products& products_;
  ThreadPool& pool_;
  const Consumer* down_ = nullptr;
  std::int64_t n_rows_ = 0;
  std::vector<float> x_;                    // (n_rows, columns)
  std::vector<std::vector<float>> target_;  // (n_rows, outputs) of each consumer, or of down alone
};

/// Clipping: every group of every row is limited to the share of its largest number whose rounding
/// puts out the least error on the rows x, the group alone.
class Clipping {
 public:
  /// stats: of x, as the rounder will be told them.
  Clipping(int n_levels, MatrixView x, const TensorStats& stats, ThreadPool& pool)
      : n_levels_(n_levels), x_(x), stats_(stats), pool_(pool) {}

  static bool is_possible(const Scheme& scheme) {
    constexpr int widest_group = 256;  // its products with itself are summed for every row
    return scheme.group.rows == 1 && scheme.group.cols > 0 && scheme.group.cols <= widest_group &&
           scheme.scale != nullptr && scheme.scale->scale == nullptr;
  }

  Status clip(Consumer& consumer) {
    const std::int64_t group = consumer.recipe.scheme.group.cols;
    const std::int64_t n_groups = (consumer.cols + group - 1) / group;
    const std::vector<std::vector<float>> grams = group_grams(group, n_groups);
    const auto n_limits = static_cast<std::size_t>(consumer.rows * n_groups);
    std::vector<double> least(n_limits, std::numeric_limits<double>::infinity());
    std::vector<float> best(n_limits, 1.0f);
    for (int level = 0; level < n_levels_; ++level) {
      const float share = 1.0f - 0.5f * static_cast<float>(level) / static_cast<float>(n_levels_);
      const std::vector<float> shares(n_limits, share);
      const std::vector<float> w = limited(consumer, group, n_groups, shares);
      auto result = consumer.recipe.rounder->round({w.data(), consumer.rows, consumer.cols},
                                                   stats_.view(), consumer.recipe.scheme, pool_);
      if (!result) return std::move(result).error().in(consumer.name);
      const std::vector<float> numbers = decode(result->tensor);
      pool_.parallel_for(consumer.rows, 4, [&](std::int64_t first, std::int64_t last, int) {
        std::vector<float> error(static_cast<std::size_t>(group));
        for (std::int64_t row = first; row < last; ++row) {
          for (std::int64_t g = 0; g < n_groups; ++g) {
            const std::int64_t n = std::min(group, consumer.cols - g * group);
            const auto from = static_cast<std::size_t>(row * consumer.cols + g * group);
            for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
              error[i] = numbers[from + i] - consumer.w[from + i];
            }
            const double loss = weighted_power({error.data(), static_cast<std::size_t>(n)},
                                               grams[static_cast<std::size_t>(g)]);
            const auto at = static_cast<std::size_t>(row * n_groups + g);
            if (loss < least[at]) {
              least[at] = loss;
              best[at] = share;
            }
          }
        }
      });
    }
    consumer.w = limited(consumer, group, n_groups, best);
    return ok();
  }

 private:
  /// x^T x of each group's inputs, (n, n).
  std::vector<std::vector<float>> group_grams(std::int64_t group, std::int64_t n_groups) const {
    std::vector<std::vector<float>> grams(static_cast<std::size_t>(n_groups));
    pool_.parallel_for(n_groups, 1, [&](std::int64_t first, std::int64_t last, int) {
      for (std::int64_t g = first; g < last; ++g) {
        const auto n = static_cast<std::size_t>(std::min(group, x_.cols - g * group));
        std::vector<float>& gram = grams[static_cast<std::size_t>(g)];
        gram.resize(n * n);
        for (std::int64_t row = 0; row < x_.rows; ++row) {
          const float* const x = x_.row(row) + g * group;
          for (std::size_t i = 0; i < n; ++i) {
            for (std::size_t j = 0; j < n; ++j) gram[i * n + j] += x[i] * x[j];
          }
        }
      }
    });
    return grams;
  }

  /// e^T G e
  static double weighted_power(std::span<const float> e, std::span<const float> gram) {
    const std::size_t n = e.size();
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) {
      float row = 0;
      for (std::size_t j = 0; j < n; ++j) row += gram[i * n + j] * e[j];
      sum += static_cast<double>(row) * static_cast<double>(e[i]);
    }
    return sum;
  }

  static std::vector<float> limited(const Consumer& consumer, std::int64_t group,
                                    std::int64_t n_groups, std::span<const float> shares) {
    std::vector<float> w = consumer.w;
    for (std::int64_t row = 0; row < consumer.rows; ++row) {
      for (std::int64_t g = 0; g < n_groups; ++g) {
        const std::int64_t n = std::min(group, consumer.cols - g * group);
        const std::span<float> numbers(w.data() + row * consumer.cols + g * group,
                                       static_cast<std::size_t>(n));
        float largest = 0;
        for (const float number : numbers) largest = std::max(largest, std::fabs(number));
        const float limit = largest * shares[static_cast<std::size_t>(row * n_groups + g)];
        for (float& number : numbers) number = std::clamp(number, -limit, limit);
      }
    }
    return w;
  }

  int n_levels_;
  MatrixView x_;
  const TensorStats& stats_;
  ThreadPool& pool_;
};

/// The transform of one block.
class Awq {
 public:
  Awq(const ModelGraph& graph,
      const std::function<std::optional<TensorRecipe>(std::string_view name)>& recipe_of,
      const AwqOptions& options, std::int64_t layer, QuantizedModel& block,
      const BlockInputs& inputs, Products products, ThreadPool& pool)
      : graph_(graph),
        recipe_of_(recipe_of),
        options_(options),
        layer_(layer),
        block_(block),
        inputs_(inputs),
        products_(std::move(products)),
        pool_(pool) {}

  Status run() {
    for (const LayerFold& fold : folds_of_layer(graph_, layer_)) {
      if (Status done = scale(fold); !done) return done;
    }
    if (options_.n_clip_levels == 0) return ok();
    for (const LayerFold& fold : folds_of_layer(graph_, layer_)) {
      if (Status done = clip(fold); !done) return done;
    }
    return ok();
  }

 private:
  Result<Consumer> load(const std::string& name) {
    auto tensor = block_.load(name);
    if (!tensor) return std::move(tensor).error().in(name);
    Consumer consumer{name, tensor->rows, tensor->cols, decode(*tensor), tensor->input, {}};
    if (auto recipe = recipe_of_(name)) {
      consumer.recipe = *std::move(recipe);
      if (consumer.recipe.rounder->needs == Needs::hessian) {
        consumer.recipe.rounder = *rounder_named("rtn");
      }
    }
    return consumer;
  }

  /// All consumers, or none where one is not rounded or reads its inputs in a basis.
  Result<std::vector<Consumer>> consumers_of(const Fold& fold) {
    std::vector<Consumer> consumers;
    if (!is_straight(fold, block_)) return consumers;
    for (const std::string& name : fold.consumers) {
      auto consumer = load(name);
      if (!consumer) return std::move(consumer).error();
      if (consumer->recipe.rounder == nullptr) return std::vector<Consumer>();
      consumers.push_back(*std::move(consumer));
    }
    return consumers;
  }

  Status scale(const LayerFold& place) {
    auto consumers = consumers_of(*place.fold);
    if (!consumers) return std::move(consumers).error();
    if (consumers->empty()) return ok();
    const BlockInputs::Stage& inputs = inputs_.stages.at(place.stage);
    Search search(options_, *place.fold, inputs, *std::move(consumers), products_, pool_);
    Consumer down;
    if (place.stage == LayerStage::gate_up) {
      auto loaded = load(stage_matrices(layer_, LayerStage::down).front());
      if (!loaded) return std::move(loaded).error();
      down = *std::move(loaded);
      search.judge_by(down);
    }
    const auto factors = search.best_factors();
    if (!factors) return Error(factors.error());
    factors_[place.fold] = factors_by_column(*place.fold, *factors);
    return scale_block(*place.fold, *factors, block_);
  }

  /// q and k are not clipped: attention is sensitive to their largest numbers.
  bool is_clipped(const LayerFold& place, const std::string& consumer) const {
    if (place.stage != LayerStage::qkv) return true;
    return std::ranges::any_of(graph_.folds, [&](const Fold& fold) {
      return fold.path == Fold::Path::attention && fold.producer == consumer;
    });
  }

  Status clip(const LayerFold& place) {
    const auto at = factors_.find(place.fold);
    if (at == factors_.end()) return ok();
    const std::vector<float>& by_column = at->second;
    const BlockInputs::Stage& inputs = inputs_.stages.at(place.stage);
    TensorStats stats = inputs.stats;
    for (std::size_t j = 0; j < by_column.size(); ++j) {
      stats.mean_square[j] /= by_column[j] * by_column[j];
      stats.mean_abs[j] /= by_column[j];
      stats.max_abs[j] /= by_column[j];
    }
    std::vector<float> x = inputs.sample;
    for (std::size_t i = 0; i < x.size(); ++i) x[i] /= by_column[i % by_column.size()];
    Clipping clipping(options_.n_clip_levels,
                      {x.data(), inputs.n_samples, static_cast<std::int64_t>(by_column.size())},
                      stats, pool_);
    auto consumers = consumers_of(*place.fold);
    if (!consumers) return std::move(consumers).error();
    for (Consumer& consumer : *consumers) {
      if (!is_clipped(place, consumer.name) || !Clipping::is_possible(consumer.recipe.scheme))
        continue;
      if (Status done = clipping.clip(consumer); !done) return done;
      block_.replace(consumer.name,
                     encode_plain(consumer.w, plain_f32(), consumer.rows, consumer.cols));
    }
    return ok();
  }

  const ModelGraph& graph_;
  const std::function<std::optional<TensorRecipe>(std::string_view name)>& recipe_of_;
  const AwqOptions& options_;
  std::int64_t layer_;
  QuantizedModel& block_;
  const BlockInputs& inputs_;
  Products products_;
  ThreadPool& pool_;
  std::map<const Fold*, std::vector<float>> factors_;  // by column
};

}  // namespace

BlockTransform awq(const ModelGraph& graph,
                   std::function<std::optional<TensorRecipe>(std::string_view name)> recipe_of,
                   const AwqOptions& options) {
  const auto shared = std::make_shared<const ModelGraph>(graph);
  return [shared, recipe_of = std::move(recipe_of), options](
             std::int64_t layer, QuantizedModel& block, const BlockInputs& inputs,
             ThreadPool& pool) -> Status {
    auto products = Products::create(pool);
    if (!products) return std::move(products).error();
    return Awq(*shared, recipe_of, options, layer, block, inputs, *std::move(products), pool).run();
  };
}

}  // namespace lowbit
