// SPDX-License-Identifier: Apache-2.0
// A rounder turns one matrix W (out, in) into a quantized tensor of a scheme. It knows what
// calibration says about the inputs of that matrix, and neither models nor files. Which codes are
// stored is the rounder's choice; what they mean is the scheme's alone.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "lowbit/base/matrix_view.h"
#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/quantized_tensor.h"

namespace lowbit {

/// What a rounder must be told about the inputs of the matrix.
enum class Needs : std::uint8_t { weights, activations, hessian };

/// What calibration knows about the inputs x of a matrix; empty where there was no calibration.
struct InputStats {
  std::span<const float> mean_square =
      {};                                // (in): E[x_j^2], the weight of column j's squared error
  std::span<const float> mean_abs = {};  // (in): E[|x_j|]
  std::span<const float> max_abs = {};   // (in): max |x_j|
  MatrixView hessian = {};               // (in, in): E[x x^T], symmetric
  std::int64_t n_tokens = 0;             // that the above were taken over
  /// Scales are chosen as if the error of a number w counted sqrt(1 + w^2 / E[w^2]), E over its
  /// group: what stands in for missing statistics, because large numbers do more for an output.
  bool favours_large = false;
};

/// A rounded matrix, and what people should know about how it came to be: that a method gave up
/// and which one took its place. Empty where all went as asked.
struct Rounded {
  QuantizedTensor tensor;
  std::string note;
};

struct Rounder {
  std::string_view name;
  Needs needs;
  /// w: (rows, cols) row-major f32. Errors: numbers that are not finite, a scheme without an
  /// encoder, statistics that the method needs and was not given.
  Result<Rounded> (*round)(MatrixView w, const InputStats& stats, const Scheme& scheme,
                           ThreadPool& pool);
};

/// THE list of rounders: rtn, rtn-absmax, hqq, gptq.
std::span<const Rounder> rounder_list();
/// Error: the name is not in the list; the sentence says which are.
Result<const Rounder*> rounder_named(std::string_view name);

/// Scales that minimise the weighted squared error, searched and refitted; the default.
Result<QuantizedTensor> round_to_nearest(MatrixView w, const InputStats& stats,
                                         const Scheme& scheme, ThreadPool& pool);
/// Scales that make the largest number of a group fit, as most quantizers do.
Result<QuantizedTensor> round_absmax(MatrixView w, const InputStats& stats, const Scheme& scheme,
                                     ThreadPool& pool);

/// sum_j E[x_j^2] (w - decode)^2 over all rows; E[x_j^2] = 1 without stats.
double weighted_error(MatrixView w, const InputStats& stats, const QuantizedTensor& tensor);

// What rounders share.

/// Errors: rows that do not lie one after the other, a number that is not finite.
Status check_numbers(MatrixView w);
/// Every number takes its nearest code under the scales (and zeros) that the tensor has already.
void encode_under_scales(MatrixView w, QuantizedTensor& tensor, ThreadPool& pool);

}  // namespace lowbit
