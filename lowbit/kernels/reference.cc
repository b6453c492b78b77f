// SPDX-License-Identifier: Apache-2.0
#include "lowbit/kernels/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lowbit/kernels/packed_matrix.h"
#include "lowbit/kernels/product_scheme.h"

namespace lowbit::reference {
namespace {

constexpr std::int64_t sum_block = 16;  // inputs of one partial sum of x

/// One factor per group of one output row; index by input / group.
struct RowFactors {
  std::int64_t group = 0;  // 0: one factor for the row
  std::vector<float> numbers;
  float at(std::int64_t k) const {
    return numbers[static_cast<std::size_t>(group == 0 ? 0 : k / group)];
  }
};

RowFactors factors_of_row(const QuantizedTensor& w, const QuantizedTensor* plane,
                          std::int64_t row) {
  RowFactors factors{.group = w.scheme.group.cols, .numbers = {}};
  if (plane == nullptr) return factors;
  factors.numbers.resize(static_cast<std::size_t>(plane->cols));
  decode_rows(*plane, row / w.group_rows(), 1, factors.numbers);
  return factors;
}

/// The codes' own numbers of one row, without scale and zero.
std::vector<float> values_of_row(const QuantizedTensor& w, std::int64_t row) {
  const Code& code = *w.scheme.code;
  std::vector<float> values(static_cast<std::size_t>(w.cols));
  for (std::int64_t i = 0; i < w.cols / code.dim; ++i) {
    code.look_up(w.codes.get(row, i), &values[static_cast<std::size_t>(i * code.dim)]);
  }
  return values;
}

float sum_of(std::span<const float> x) {
  float total = 0;
  for (std::size_t first = 0; first < x.size(); first += sum_block) {
    float part = 0;
    for (const float number :
         x.subspan(first, std::min<std::size_t>(sum_block, x.size() - first))) {
      part = part + number;
    }
    total = total + part;
  }
  return total;
}

/// One output row, everything that does not depend on the token.
struct WeightRow {
  ProductScheme product;
  std::vector<float> values;
  RowFactors scale, zero;
  RowFactors sub, zero_sub;        // two-level: integers
  RowFactors coarse, zero_coarse;  // two-level: per super-block
  bool has_scale = false;
};

WeightRow weight_row(const QuantizedTensor& w, std::int64_t row) {
  WeightRow r;
  r.product = product_scheme(w.scheme);
  r.values = values_of_row(w, row);
  r.has_scale = w.scale != nullptr;
  r.scale = factors_of_row(w, w.scale.get(), row);
  r.zero = factors_of_row(w, w.zero.get(), row);
  if (r.product.zero == ZeroKind::product) {
    for (std::size_t g = 0; g < r.zero.numbers.size(); ++g) {
      const float scale = r.has_scale ? r.scale.numbers[g] : 1.0f;
      r.zero.numbers[g] = -(scale * r.zero.numbers[g]);
    }
  }
  if (r.product.is_two_level) {
    const auto split = [&](const QuantizedTensor& plane, float unit, RowFactors& sub,
                           RowFactors& coarse) {
      coarse = factors_of_row(plane, plane.scale.get(), row);
      sub = {.group = w.scheme.group.cols, .numbers = values_of_row(plane, row)};
      for (float& number : sub.numbers) number = number / unit;  // exact: unit * integer
    };
    split(*w.scale, r.product.sub_unit, r.sub, r.coarse);
    if (w.zero) split(*w.zero, r.product.zero_sub_unit, r.zero_sub, r.zero_coarse);
  }
  return r;
}

float product_f32(const WeightRow& w, std::span<const float> x) {
  const bool has_zero = w.product.zero == ZeroKind::real || w.product.zero == ZeroKind::product;
  const std::size_t cols = x.size();
  const std::size_t step =
      w.product.group_k == 0 ? cols : static_cast<std::size_t>(w.product.group_k);
  float f = 0;
  for (std::size_t first = 0; first < cols; first += step) {
    const std::size_t last = std::min(first + step, cols);
    const std::int64_t k0 = static_cast<std::int64_t>(first);
    float acc = 0;
    for (std::size_t k = first; k < last; ++k) {
      const float zero = w.product.zero == ZeroKind::integer ? w.zero.at(k0) : 0.0f;
      const float value = w.product.zero == ZeroKind::integer ? w.values[k] - zero : w.values[k];
      acc = std::fma(x[k], value, acc);
    }
    const float scale = w.has_scale ? w.scale.at(k0) : 1.0f;
    f = w.product.group_k == 0 ? (w.has_scale ? acc * scale : acc) : std::fma(acc, scale, f);
    if (has_zero) f = std::fma(sum_of(x.subspan(first, last - first)), w.zero.at(k0), f);
  }
  return f;
}

struct Sums {
  std::int32_t acc = 0, codes = 0;
};

/// acc and asum over inputs [first, last).
Sums sums_of(const WeightRow& w, const QuantizedRow& x, std::size_t first, std::size_t last) {
  Sums sums;
  for (std::size_t k = first; k < last; ++k) {
    float integer = w.values[k] / w.product.unit;
    if (w.product.zero == ZeroKind::integer) {
      integer = integer - w.zero.at(static_cast<std::int64_t>(k)) / w.product.unit;
    }
    sums.acc += static_cast<std::int32_t>(integer) * x.codes[k];
    sums.codes += x.codes[k];
  }
  return sums;
}

float product_two_level(const WeightRow& w, const QuantizedRow& x, std::int64_t group) {
  const std::size_t cols = x.codes.size();
  const std::size_t step = static_cast<std::size_t>(w.product.super_k);
  const std::size_t sub_step = static_cast<std::size_t>(w.product.group_k);
  float f = 0;
  for (std::size_t first = 0; first < cols; first += step) {
    const std::size_t last = std::min(first + step, cols);
    std::int32_t acc = 0, zeros = 0;
    for (std::size_t sub = first; sub < last; sub += sub_step) {
      const std::int64_t k = static_cast<std::int64_t>(sub);
      const Sums sums = sums_of(w, x, sub, std::min(sub + sub_step, last));
      acc += static_cast<std::int32_t>(w.sub.at(k)) * sums.acc;
      if (w.product.zero == ZeroKind::real) {
        zeros += static_cast<std::int32_t>(w.zero_sub.at(k)) * sums.codes;
      }
    }
    const std::size_t super = first / step;
    const float as = group == 0 ? 1.0f : x.scales[first / static_cast<std::size_t>(group)];
    const float scale = w.coarse.numbers[super] * (w.product.sub_unit * w.product.unit);
    f = std::fma(static_cast<float>(acc), scale * as, f);
    if (w.product.zero == ZeroKind::real) {
      const float zero = w.zero_coarse.numbers[super] * w.product.zero_sub_unit;
      f = std::fma(static_cast<float>(zeros), zero * as, f);
    }
  }
  return group == 0 ? f * x.scales[0] : f;
}

float product_int8(const WeightRow& w, const QuantizedRow& x, Activations activations) {
  const std::int64_t group = group_of(activations);
  if (w.product.is_two_level) return product_two_level(w, x, group);
  const bool has_zero = w.product.zero == ZeroKind::real || w.product.zero == ZeroKind::product;
  const bool varies = w.product.group_k != 0;
  const std::size_t cols = x.codes.size();
  const std::int64_t step_k = int8_step(w.product, activations);
  const std::size_t step = step_k == 0 ? cols : static_cast<std::size_t>(step_k);
  float f = 0, row_sum = 0;
  for (std::size_t first = 0; first < cols; first += step) {
    const std::int64_t k = static_cast<std::int64_t>(first);
    const Sums sums = sums_of(w, x, first, std::min(first + step, cols));
    const float as = group == 0 ? 1.0f : x.scales[first / static_cast<std::size_t>(group)];
    // A factor that does not vary is 1 here: multiplying by 1 is exact.
    const float scale = varies ? (w.has_scale ? w.scale.at(k) : 1.0f) * w.product.unit : 1.0f;
    f = std::fma(static_cast<float>(sums.acc), scale * as, f);
    if (has_zero && varies) f = std::fma(static_cast<float>(sums.codes), w.zero.at(k) * as, f);
    row_sum = std::fma(static_cast<float>(sums.codes), as, row_sum);
  }
  if (!varies) {
    f = f * ((w.has_scale ? w.scale.at(0) : 1.0f) * w.product.unit);
    if (has_zero) f = std::fma(row_sum, w.zero.at(0), f);
  }
  return group == 0 ? f * x.scales[0] : f;
}

}  // namespace

QuantizedRow quantize_row(std::span<const float> x, std::int64_t group) {
  constexpr float max_code = 127, smallest = 0x1p-100f;
  const std::size_t step = group == 0 ? x.size() : static_cast<std::size_t>(group);
  QuantizedRow row;
  for (std::size_t first = 0; first < x.size(); first += step) {
    const std::span<const float> part = x.subspan(first, std::min(step, x.size() - first));
    float most = 0;
    bool is_finite = true;
    for (const float number : part) {
      is_finite = is_finite && std::isfinite(number);
      most = std::max(most, std::fabs(number));
    }
    const bool is_zero = most < smallest;
    row.scales.push_back(!is_finite ? std::numeric_limits<float>::quiet_NaN()
                         : is_zero  ? 0.0f
                                    : most / max_code);
    for (const float number : part) {
      float code = 0;
      if (is_finite && !is_zero) {
        code = std::nearbyint(std::clamp(number * (max_code / most), -max_code, max_code));
      }
      row.codes.push_back(static_cast<std::int32_t>(code));
    }
  }
  return row;
}

void matmul(const QuantizedTensor& w, MatrixView x, Activations activations, MutableMatrixView y) {
  std::vector<QuantizedRow> codes;
  if (activations != Activations::f32) {
    for (std::int64_t token = 0; token < x.rows; ++token) {
      codes.push_back(quantize_row(x.row_span(token), group_of(activations)));
    }
  }
  for (std::int64_t row = 0; row < w.rows; ++row) {
    const WeightRow weights = weight_row(w, row);
    for (std::int64_t token = 0; token < x.rows; ++token) {
      y.row(token)[row] =
          activations == Activations::f32
              ? product_f32(weights, x.row_span(token))
              : product_int8(weights, codes[static_cast<std::size_t>(token)], activations);
    }
  }
}

}  // namespace lowbit::reference
