// SPDX-License-Identifier: Apache-2.0
// Which arithmetic a scheme gets in a product: decided here once, for the reference, the packer and
// the eligibility checks alike, from the structure of the scheme and never from its name.
#pragma once

#include <cstdint>

#include "lowbit/formats/scheme.h"
#include "lowbit/kernels/activations.h"
#include "lowbit/kernels/matmul_kernels.h"

namespace lowbit {

struct ProductScheme {
  /// Codes are unit * k, k in [least, most] with most - least <= 255: products with int8 exist.
  bool is_integer = false;
  float unit = 1;
  int least = 0, most = 0;

  /// Inputs under one scale and zero; 0: they are constant along the row.
  std::int64_t group_k = 0;

  /// Scales are coarse * (sub_unit * sub): int32 sums reach over super_k inputs. Zeros are none or
  /// of the same form.
  bool is_two_level = false;
  std::int64_t super_k = 0;
  float sub_unit = 1, zero_sub_unit = 1;

  ZeroKind zero = ZeroKind::none;
  int zero_least = 0, zero_most = 0;  // integer zeros, in units of the code
};

ProductScheme product_scheme(const Scheme& scheme);

/// Inputs per step of an int8 product; 0: one step, the row.
std::int64_t int8_step(const ProductScheme& product, Activations activations);

}  // namespace lowbit
