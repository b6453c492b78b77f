// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/gptq.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lowbit/quant/codebook.h"
#include "lowbit/quant/gptq_pass.h"
#include "lowbit/quant/gptq_vectors.h"
#include "lowbit/quant/grid_round.h"
#include "lowbit/quant/sparse_ternary.h"

namespace lowbit {
namespace {

std::size_t index(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

bool is_finite(MatrixView m) {
  for (std::int64_t r = 0; r < m.rows; ++r) {
    if (!std::ranges::all_of(m.row_span(r), [](float x) { return std::isfinite(x); })) return false;
  }
  return true;
}

/// H with its columns in order and its diagonal raised.
std::vector<float> ordered_hessian(MatrixView h, const ColumnOrder& order, float raise,
                                   ThreadPool& pool) {
  std::vector<float> ordered(index(h.rows * h.cols));
  constexpr std::int64_t rows_per_chunk = 16;
  pool.parallel_for(h.rows, rows_per_chunk, [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t r = first; r < last; ++r) {
      const float* from = h.row(order.column[index(r)]);
      float* to = ordered.data() + r * h.cols;
      for (std::int64_t c = 0; c < h.cols; ++c) to[c] = from[order.column[index(c)]];
      to[r] += raise;
    }
  });
  return ordered;
}

Result<Rounded> fall_back(MatrixView w, InputStats stats, const Scheme& scheme,
                          std::string_view reason, ThreadPool& pool) {
  const auto is_usable = [](float x) { return std::isfinite(x) && x >= 0; };
  if (!std::ranges::all_of(stats.mean_square, is_usable)) stats.mean_square = {};
  auto tensor = round_to_nearest(w, stats, scheme, pool);
  if (!tensor) return std::move(tensor).error();
  return Rounded{*std::move(tensor), fmt::format("rounded to nearest: {}", reason)};
}

Status check_scheme(const Scheme& scheme, std::int64_t n_cols) {
  const Code& code = *scheme.code;
  const std::string name = to_string(scheme);
  if (scheme.scale == nullptr) return Error(fmt::format("scheme {} has no scale to choose", name));
  if (n_cols % code.dim != 0) {
    return Error(
        fmt::format("rows of {} numbers do not divide into codes of {}", n_cols, code.dim));
  }
  if (code.dim == 1) return ok();
  const std::int64_t group = QuantizedTensor(scheme, 1, n_cols).group_cols();
  if (is_grid(code) && !scheme.one_top_bit && !is_sparse_ternary(code) && scheme.zero == nullptr &&
      scheme.group.rows == 1 && group % atom_cols(code) == 0) {
    return ok();
  }
  return Error(
      fmt::format("gptq has no way to choose the codes of {}; rtn:{} rounds it", name, name));
}

}  // namespace

Result<Rounded> round_gptq(MatrixView w, const InputStats& stats, const Scheme& scheme,
                           const GptqOptions& options, ThreadPool& pool) {
  if (is_plain_float(scheme)) {
    auto tensor = round_to_nearest(w, stats, scheme, pool);
    if (!tensor) return std::move(tensor).error();
    return Rounded{*std::move(tensor), {}};
  }
  if (Status status = check_scheme(scheme, w.cols); !status) return std::move(status).error();
  if (stats.hessian.data == nullptr) {
    return Error(
        fmt::format("gptq needs the Hessian of the inputs, which calibration collects; "
                    "rtn:{} needs none",
                    to_string(scheme)));
  }
  const MatrixView h = stats.hessian;
  if (h.rows != w.cols || h.cols != w.cols) {
    return Error(
        fmt::format("the Hessian is {} x {}, the matrix has {} columns", h.rows, h.cols, w.cols));
  }
  if (Status status = check_numbers(w); !status) return std::move(status).error();
  float amax = 0;
  for (std::int64_t r = 0; r < w.rows; ++r) {
    for (const float x : w.row_span(r)) amax = std::max(amax, std::abs(x));
  }
  constexpr float largest = 0x1p60f;  // beyond, squares leave the range of f32
  if (amax > largest) return fall_back(w, stats, scheme, "numbers beyond 2^60", pool);
  if (!is_finite(h)) return fall_back(w, stats, scheme, "the Hessian is not finite", pool);
  std::vector<float> diagonal(index(w.cols));
  double sum = 0;
  for (std::int64_t k = 0; k < w.cols; ++k) {
    diagonal[index(k)] = h.row(k)[k];
    sum += static_cast<double>(h.row(k)[k]);
  }
  const double mean = sum / static_cast<double>(w.cols);
  if (!(mean > 0)) return fall_back(w, stats, scheme, "the Hessian has no positive diagonal", pool);

  const auto learned = with_learned_table(w, InputStats{.mean_square = diagonal}, scheme, pool);
  if (!learned) return Error(learned.error());
  const QuantizedTensor shape(*learned, 1, w.cols);
  const std::int64_t group_cols = shape.group_cols();
  const bool has_units = scheme.scale->scale != nullptr && scheme.scale->group != Group{0, 0};
  const std::int64_t unit_cols =
      group_cols * (has_units ? std::max(shape.scale->group_cols(), std::int64_t{1}) : 1);
  const std::int64_t n_atom = is_grid(*scheme.code) ? atom_cols(*scheme.code) : 1;
  const ColumnOrder order =
      order_columns(diagonal, {n_atom, group_cols, unit_cols}, options.is_ordered);
  FloatProducts products(pool);
  TriangularFactor factor;
  constexpr double most_damping = 1, growth = 3;
  for (double damping = options.damping;; damping *= growth) {
    if (damping > most_damping) {
      return fall_back(w, stats, scheme, "the Hessian is not positive definite", pool);
    }
    const std::vector<float> ordered =
        ordered_hessian(h, order, static_cast<float>(damping * mean), pool);
    const MatrixView view(ordered.data(), w.cols, w.cols);
    if (!factor_symmetric(view, products, pool, factor)) continue;
    auto tensor = round_with_feedback(w, *learned, options, view, factor, order, products, pool);
    if (!tensor) return std::move(tensor).error();
    std::string note;
    if (damping > options.damping) {
      note = fmt::format("the Hessian needed a damping of {:.0f} % of its mean", 100 * damping);
    }
    return Rounded{*std::move(tensor), std::move(note)};
  }
}

Result<Rounded> round_gptq(MatrixView w, const InputStats& stats, const Scheme& scheme,
                           ThreadPool& pool) {
  return round_gptq(w, stats, scheme, GptqOptions{}, pool);
}

double output_error(MatrixView w, MatrixView hessian, const QuantizedTensor& tensor,
                    ThreadPool& pool) {
  std::vector<float> e = decode(tensor), product(e.size());
  for (std::int64_t r = 0; r < w.rows; ++r) {
    for (std::int64_t c = 0; c < w.cols; ++c) {
      float& x = e[index(r * w.cols + c)];
      x = w.row(r)[c] - x;
    }
  }
  FloatProducts products(pool);
  products.multiply({e.data(), w.rows, w.cols}, hessian, {product.data(), w.rows, w.cols});
  double error = 0;
  for (std::size_t i = 0; i < e.size(); ++i) {
    error += static_cast<double>(e[i]) * static_cast<double>(product[i]);
  }
  return error;
}

}  // namespace lowbit
