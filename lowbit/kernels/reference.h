// SPDX-License-Identifier: Apache-2.0
// What a matrix product means, to the bit: obvious loops over the planar tensor, never optimised.
// Every kernel is compared with it by memcmp. Floats round to nearest even; fma is std::fma.
//
// Activations a=int8, per group of a token (32 or 256 inputs, or all; the last may be short):
//   most  = the largest |x|; a group with most < 2^-100 counts as zeros: scale 0, codes 0; a group
//           with an infinity or a NaN has scale NaN, codes 0
//   scale = most / 127
//   code  = x * (127 / most), clamped to -127..127, to the nearest integer, ties to even
//
// Weights. v = unit * k with integers k (int8_unit; uint8 counts as unit 1 too).
//   ws = the decoded scale of the group (1 if the scheme has none)
//   wz = the decoded zero if it is in weight units; -(ws * zero) if it is a real number in units of
//        the code; an integer zero (its values are multiples of `unit`) stays an integer z
//
// a=int8, scales of one level. A step is the finer of the weight and the activation group, counting
// a group that spans the row as infinite; per step, from k = 0 up:
//   acc  = sum of (k - z) * code     int32, exact
//   asum = sum of code               int32
//   f    = fma(float(acc), s, f)     s = (ws * unit) * as if both vary along the row, else the one
//                                    that varies, 1 if none does
//   f    = fma(float(asum), wz * as, f)   only with real zeros that vary; wz alone if as does not
// then, in this order, what is constant along the row:
//   f    = f * (ws * unit);  f = fma(h, wz, f);  f = f * as
//          h = the chain fma(float(asum), as, h) over the steps if as varies, else float(asum)
// An absent scale or zero is no operation at all.
//
// a=int8, two-level scales: ws = coarse * (sub_unit * sub), sub small integers. A step is what one
// coarse scale covers (256 inputs); per step
//   acc = sum over its groups of sub * (sum of k * code)      int32, exact
//   f   = fma(float(acc), (coarse * (sub_unit * unit)) * as, f)
//   f   = fma(float(sum of zero_sub * asum), (zero_coarse * zero_unit) * as, f)   for two-level
//   zeros
//
// a=f32. A step is the weight group; value = v - z for integer zeros (exact), else v:
//   acc = fma(x, value, acc)         over the inputs of the step in order, from 0
//   f   = fma(acc, ws, f);  f = fma(h, wz, f)   h = sum of x
// with factors that are constant along the row one step is the row, and f = acc * ws, fma(h, wz,
// f). h adds blocks of 16 inputs in order, each block's inputs in order.
#pragma once

#include <cstdint>
#include <vector>

#include "lowbit/base/matrix_view.h"
#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/kernels/activations.h"

namespace lowbit::reference {

struct QuantizedRow {
  std::vector<std::int32_t> codes;  // (cols)
  std::vector<float> scales;        // (ceil(cols / group)) or one
};
/// group 0: one scale for the row.
QuantizedRow quantize_row(std::span<const float> x, std::int64_t group);

/// y = x W^T. check_activations() must have passed. x: (n_tokens, K), y: (n_tokens, N).
void matmul(const QuantizedTensor& w, MatrixView x, Activations activations, MutableMatrixView y);

}  // namespace lowbit::reference
