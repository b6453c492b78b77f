// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/rotate.h"

#include <algorithm>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "lowbit/base/assert.h"
#include "lowbit/quant/hadamard.h"

namespace lowbit {
namespace {

constexpr std::uint64_t stream_seed = 0x10b17;  // of the signs, so that no constant lands on one
constexpr std::int64_t vectors_per_chunk = 16;

/// Every row of the matrix, in segments as long as the rotation, is turned.
void rotate_rows(const Rotation& rotation, EditedMatrix w, ThreadPool& pool) {
  const auto n = static_cast<std::size_t>(rotation.n_numbers());
  pool.parallel_for(w.rows, vectors_per_chunk, [&](std::int64_t first, std::int64_t last, int) {
    std::vector<double> x(n);
    for (std::int64_t r = first; r < last; ++r) {
      const std::span<float> row = w.row(r);
      for (std::size_t at = 0; at < row.size(); at += n) {
        std::copy_n(row.begin() + static_cast<std::ptrdiff_t>(at), n, x.begin());
        rotation.apply(x);
        for (std::size_t i = 0; i < n; ++i) row[at + i] = static_cast<float>(x[i]);
      }
    }
  });
}

/// Every column likewise: what the matrix gives is turned.
void rotate_outputs(const Rotation& rotation, EditedMatrix w, ThreadPool& pool) {
  const std::int64_t n = rotation.n_numbers();
  pool.parallel_for(w.cols, vectors_per_chunk, [&](std::int64_t first, std::int64_t last, int) {
    std::vector<double> x(static_cast<std::size_t>(n));
    for (std::int64_t c = first; c < last; ++c) {
      for (std::int64_t at = 0; at < w.rows; at += n) {
        for (std::int64_t i = 0; i < n; ++i) {
          x[static_cast<std::size_t>(i)] =
              w.numbers[static_cast<std::size_t>((at + i) * w.cols + c)];
        }
        rotation.apply(x);
        for (std::int64_t i = 0; i < n; ++i) {
          w.numbers[static_cast<std::size_t>((at + i) * w.cols + c)] =
              static_cast<float>(x[static_cast<std::size_t>(i)]);
        }
      }
    }
  });
}

class Rotating {
 public:
  Rotating(const RotateOptions& options, FoldedModel& model, ThreadPool& pool)
      : options_(options), model_(model), pool_(pool) {}

  void turn_heads(const Fold& fold) {
    const auto rotation = std::make_shared<const Rotation>(Rotation::of_size(fold.head_dim, 0));
    turn_outputs(rotation, fold.producer);
    // A bias is a row, so its segments are turned as those of rows.
    if (!fold.bias.empty()) turn_rows(rotation, fold.bias);
    for (const std::string& consumer : fold.consumers) turn_rows(rotation, consumer);
  }

  Status turn_stream(const Stream& stream) {
    const auto rotation =
        std::make_shared<const Rotation>(Rotation::of_size(stream.width, stream_seed));
    for (const Fold& norm : stream.norms) {
      if (Status status = move_norm(norm); !status) return status;
      for (const std::string& consumer : norm.consumers) turn_rows(rotation, consumer);
    }
    for (const std::string& table : stream.tables) turn_rows(rotation, table);
    for (const std::string& writer : stream.writers) turn_outputs(rotation, writer);
    for (const std::string& bias : stream.biases) turn_rows(rotation, bias);
    return ok();
  }

  /// Consumers of one x get one basis, so that x is prepared once.
  void give_basis(const std::vector<std::string>& consumers) {
    for (const std::string& name : consumers) {
      const Basis basis{hadamard_block_of(model_.shape(name)->cols, options_.largest_block)};
      if (basis.hadamard <= 1 || !model_.input(name).is_plain()) continue;
      model_.set_input(name, basis);
      model_.edit(name, [basis, &pool = pool_](EditedMatrix w) {
        pool.parallel_for(w.rows, vectors_per_chunk,
                          [&](std::int64_t first, std::int64_t last, int) {
                            for (std::int64_t r = first; r < last; ++r)
                              apply_basis(basis, w.row(r));
                          });
      });
    }
  }

 private:
  using Shared = std::shared_ptr<const Rotation>;

  void turn_rows(const Shared& rotation, const std::string& name) {
    model_.edit(name,
                [rotation, &pool = pool_](EditedMatrix w) { rotate_rows(*rotation, w, pool); });
  }
  void turn_outputs(const Shared& rotation, const std::string& name) {
    model_.edit(name,
                [rotation, &pool = pool_](EditedMatrix w) { rotate_outputs(*rotation, w, pool); });
  }

  /// The norm's weight becomes ones. A 0 in it cannot be divided away; it is set, not divided.
  Status move_norm(const Fold& norm) {
    auto weight = model_.numbers(norm.producer);
    if (!weight) return std::move(weight).error().in(norm.producer);
    const auto factors = std::make_shared<const std::vector<float>>(*std::move(weight));
    model_.edit(norm.producer, [](EditedMatrix w) { std::ranges::fill(w.numbers, 1.0f); });
    for (const std::string& consumer : norm.consumers) {
      model_.edit(consumer,
                  [norm, factors](EditedMatrix w) { multiply_columns(norm, *factors, w); });
    }
    return ok();
  }

  const RotateOptions& options_;
  FoldedModel& model_;
  ThreadPool& pool_;
};

/// A second rotation would have to undo the first.
Status check_straight(const ModelGraph& graph, const FoldedModel& model) {
  std::vector<Fold> folds = graph.folds;
  for (const Stream& stream : graph.streams) {
    folds.insert(folds.end(), stream.norms.begin(), stream.norms.end());
  }
  for (const Fold& fold : folds) {
    for (const std::string& name : fold.consumers) {
      if (model.input(name).is_plain()) continue;
      return Error(fmt::format("{} already has a basis ({}); rotate the model it was made from",
                               name, to_string(model.input(name))));
    }
  }
  return ok();
}

bool is_tied(const ModelGraph& graph, const Stream& stream) {
  return std::ranges::any_of(stream.tables, [&](const std::string& table) {
    return std::ranges::count(graph.shared, table) != 0;
  });
}

}  // namespace

Status rotate(const ModelGraph& graph, const RotateOptions& options, FoldedModel& model,
              ThreadPool& pool) {
  if (Status status = check_straight(graph, model); !status) return status;
  Rotating rotating(options, model, pool);
  for (const Fold& fold : graph.folds) {
    if (fold.path == Fold::Path::attention) rotating.turn_heads(fold);
    if (fold.path == Fold::Path::gate && options.with_bases) rotating.give_basis(fold.consumers);
  }
  for (const Stream& stream : graph.streams) {
    if (!is_tied(graph, stream) && options.fold_streams) {
      if (Status status = rotating.turn_stream(stream); !status) return status;
    } else if (options.with_bases) {
      for (const Fold& norm : stream.norms) rotating.give_basis(norm.consumers);
    }
  }
  return ok();
}

}  // namespace lowbit
