// SPDX-License-Identifier: Apache-2.0
#include "lowbit/kernels/product_scheme.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "lowbit/kernels/packed_matrix.h"

namespace lowbit {
namespace {

constexpr int max_byte = 255, max_activation = 127;
constexpr std::int64_t block_256 = 256;  // the block of the two-level types

struct Range {
  bool exists = false;
  float unit = 1;
  int least = 0, most = 0;
};

/// The values of a code as unit * k; also unsigned bytes, which int8_unit() has no room for.
Range integers_of(const Code& code) {
  if (code.values.empty()) return {};
  Range range{.exists = true, .unit = int8_unit(code)};
  if (range.unit == 0) range.unit = 1;
  for (const float value : code.values) {
    const float k = value / range.unit;
    if (!(std::fabs(k) <= max_byte) || k != std::floor(k)) return {};
    const int integer = static_cast<int>(k);
    range.least = std::min({range.least, integer, code.signs != 0 ? -integer : integer});
    range.most = std::max({range.most, integer, code.signs != 0 ? -integer : integer});
  }
  return range.most - range.least <= max_byte ? range : Range{};
}

bool is_plain(const Scheme* scheme) {
  return scheme != nullptr && is_plain_float(*scheme);
}

/// Whether factors are int8 numbers under one plain float per group.cols of them.
bool is_two_level_factor(const Scheme* factor, Range& sub) {
  if (factor == nullptr || factor->zero != nullptr || !is_plain(factor->scale)) return false;
  if (factor->group.rows != 1 || factor->group.cols == 0 || int8_unit(*factor->code) == 0) {
    return false;
  }
  sub = integers_of(*factor->code);
  return sub.exists && factor->code->dim == 1;
}

std::int64_t magnitude(const Range& range) {
  return std::max<std::int64_t>(std::abs(range.least), std::abs(range.most));
}

}  // namespace

ProductScheme product_scheme(const Scheme& scheme) {
  ProductScheme product;
  const Range code = integers_of(*scheme.code);
  product.is_integer = code.exists;
  product.unit = code.exists ? code.unit : 1;
  product.least = code.least;
  product.most = code.most;
  product.group_k = scheme.scale == nullptr && scheme.zero == nullptr ? 0 : scheme.group.cols;

  if (scheme.zero != nullptr) {
    product.zero = scheme.zero_unit == ZeroUnit::weight ? ZeroKind::real : ZeroKind::product;
    const Range zero = integers_of(*scheme.zero->code);
    const float ratio = zero.unit / product.unit;
    if (scheme.zero_unit == ZeroUnit::code && scheme.zero->scale == nullptr && zero.exists &&
        code.exists && ratio == std::floor(ratio) &&
        static_cast<float>(zero.most - zero.least) * ratio <= static_cast<float>(max_byte)) {
      product.zero = ZeroKind::integer;
      product.zero_least = zero.least * static_cast<int>(ratio);
      product.zero_most = zero.most * static_cast<int>(ratio);
    }
  }

  Range sub, zero_sub;
  const bool zero_fits =
      product.zero == ZeroKind::none ||
      (product.zero == ZeroKind::real && is_two_level_factor(scheme.zero, zero_sub) &&
       scheme.scale != nullptr && scheme.zero->group == scheme.scale->group);
  if (code.exists && product.group_k != 0 && scheme.group.rows == 1 &&
      is_two_level_factor(scheme.scale, sub) && zero_fits) {
    const std::int64_t super_k = product.group_k * scheme.scale->group.cols;
    // The int32 sum over a super-block must be exact.
    const std::int64_t widest = super_k * magnitude(code) * max_activation * magnitude(sub);
    // Groups are multiplied in pairs.
    if (super_k == block_256 && scheme.scale->group.cols % 2 == 0 &&
        widest < (std::int64_t{1} << 31)) {
      product.is_two_level = true;
      product.super_k = super_k;
      product.sub_unit = sub.unit;
      product.zero_sub_unit = zero_sub.unit;
    }
  }
  return product;
}

std::int64_t int8_step(const ProductScheme& product, Activations activations) {
  const std::int64_t weights = product.is_two_level ? product.super_k : product.group_k;
  const std::int64_t group = group_of(activations);
  if (weights == 0 || group == 0) return std::max(weights, group);
  return std::min(weights, group);
}

std::string_view name_of(Activations activations) {
  switch (activations) {
    case Activations::f32:
      return "f32";
    case Activations::int8_g32:
      return "int8.g32";
    case Activations::int8_g256:
      return "int8.g256";
    case Activations::int8_token:
      return "int8.token";
  }
  return "";
}

std::int64_t group_of(Activations activations) {
  switch (activations) {
    case Activations::int8_g32:
      return 32;
    case Activations::int8_g256:
      return block_256;
    default:
      return 0;
  }
}

Status check_activations(const Scheme& scheme, Activations activations) {
  if (activations == Activations::f32) return ok();
  const ProductScheme product = product_scheme(scheme);
  if (!product.is_integer) {
    return Error("weights in " + to_string(scheme) + " have no int8 product (code " +
                 std::string(scheme.code->name) + " is not small integers of one unit); use a=f32");
  }
  const std::int64_t block = product.is_two_level ? product.super_k : product.group_k;
  if (activations == Activations::int8_g32 && block != 0 && block % block_256 == 0) {
    return Error("weights in " + to_string(scheme) + " have blocks of " + std::to_string(block) +
                 " and take no a=int8.g32; use a=int8.g256, a=int8.token or a=f32");
  }
  return ok();
}

Status check_activations(const PackedMatrix& w, Activations activations) {
  return check_activations(w.scheme(), activations);
}

Activations default_activations(const Scheme& scheme) {
  const ProductScheme product = product_scheme(scheme);
  if (!product.is_integer) return Activations::f32;
  const std::int64_t block = product.is_two_level ? product.super_k : product.group_k;
  return block != 0 && block % block_256 == 0 ? Activations::int8_g256 : Activations::int8_g32;
}

}  // namespace lowbit
