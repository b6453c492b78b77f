// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/rounder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "lowbit/quant/gptq.h"
#include "lowbit/quant/hqq.h"

namespace lowbit {
namespace {

using Plain = Result<QuantizedTensor> (*)(MatrixView, const InputStats&, const Scheme&,
                                          ThreadPool&);

/// A method that has nothing to tell but its result.
template <Plain kRound>
Result<Rounded> without_note(MatrixView w, const InputStats& stats, const Scheme& scheme,
                             ThreadPool& pool) {
  auto tensor = kRound(w, stats, scheme, pool);
  if (!tensor) return std::move(tensor).error();
  return Rounded{*std::move(tensor), {}};
}

/// Without data, the least squared error is not what an output loses least by (docs/methods.md).
Result<QuantizedTensor> round_well(MatrixView w, const InputStats& stats, const Scheme& scheme,
                                   ThreadPool& pool) {
  InputStats weighted = stats;
  weighted.favours_large = stats.mean_square.empty();
  return round_to_nearest(w, weighted, scheme, pool);
}

constexpr std::array rounders{
    Rounder{"rtn", Needs::weights, without_note<round_well>},
    Rounder{"rtn-absmax", Needs::weights, without_note<round_absmax>},
    Rounder{"hqq", Needs::weights, without_note<round_half_quadratic>},
    Rounder{"gptq", Needs::hessian, round_gptq},
};

}  // namespace

std::span<const Rounder> rounder_list() {
  return rounders;
}

Result<const Rounder*> rounder_named(std::string_view name) {
  std::string known;
  for (const Rounder& rounder : rounders) {
    if (rounder.name == name) return &rounder;
    known += (known.empty() ? "" : ", ") + std::string(rounder.name);
  }
  return Error(fmt::format("unknown method \"{}\"; known are {}", name, known));
}

double weighted_error(MatrixView w, const InputStats& stats, const QuantizedTensor& tensor) {
  double error = 0;
  std::vector<float> row(static_cast<std::size_t>(w.cols));
  for (std::int64_t r = 0; r < w.rows; ++r) {
    decode_rows(tensor, r, 1, row);
    for (std::int64_t c = 0; c < w.cols; ++c) {
      const auto at = static_cast<std::size_t>(c);
      const double difference = static_cast<double>(w.row(r)[c]) - static_cast<double>(row[at]);
      const double weight =
          stats.mean_square.empty() ? 1 : static_cast<double>(stats.mean_square[at]);
      error += weight * difference * difference;
    }
  }
  return error;
}

Status check_numbers(MatrixView w) {
  if (w.stride != w.cols) return Error("a matrix to be quantized must be contiguous");
  for (std::int64_t r = 0; r < w.rows; ++r) {
    if (!std::ranges::all_of(w.row_span(r), [](float value) { return std::isfinite(value); })) {
      return Error(
          fmt::format("row {} holds a number that is not finite; the source is damaged", r));
    }
  }
  return ok();
}

void encode_under_scales(MatrixView w, QuantizedTensor& tensor, ThreadPool& pool) {
  // One range a thread: each prepares the search for codes anew.
  const std::int64_t chunk = (w.rows + pool.n_threads() - 1) / pool.n_threads();
  pool.parallel_for(w.rows, chunk, [&](std::int64_t first, std::int64_t last, int) {
    encode_rows_with_scales({w.row(first), static_cast<std::size_t>((last - first) * w.cols)},
                            tensor, first, last - first);
  });
}

}  // namespace lowbit
