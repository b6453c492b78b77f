// SPDX-License-Identifier: Apache-2.0
// Which tensors of a model may be scaled or rotated against each other, found out by running the
// forward pass once on a backend that computes nothing and writes down what it is asked for. No
// name of a tensor means anything here, so a new architecture needs no table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

/// A tensor whose numbers are the channels of x, and the matrices that multiply x and nothing else
/// reads it: dividing channel j of the producer by s and multiplying column j of every consumer by
/// s changes no product.
struct Fold {
  enum class Path : std::uint8_t {
    norm,       // the producer is the weight of a norm
    gate,       // rows of a matrix whose product is multiplied by activated gates
    attention,  // rows of a matrix whose product is mixed by attention, head by head
  };
  Path path = Path::norm;
  std::string producer, bias;  // bias of the producer's product; "" where there is none
  std::vector<std::string> consumers;
  std::int64_t n_channels = 0;  // numbers or rows of the producer
  /// Attention: column c of a consumer reads channel (c / (head_dim * n_repeats)) * head_dim + c %
  /// head_dim. Elsewhere column c reads channel c.
  std::int64_t head_dim = 0, n_repeats = 1;

  std::int64_t n_columns() const { return n_channels * n_repeats; }
  std::int64_t channel_of(std::int64_t column) const;
  bool operator==(const Fold&) const = default;
};

/// Values that are added to each other, so that all of them stand in one basis: who writes them and
/// which norms read them (nothing else does). An orthogonal matrix R may turn the whole stream once
/// the norms' weights have moved into the consumers: R on the rows of the writers' matrices and
/// their biases, on every row of the tables, on every row of the consumers (W R^T).
struct Stream {
  std::int64_t width = 0;
  std::vector<std::string> tables;   // (n, width), read by rows
  std::vector<std::string> writers;  // (width, n)
  std::vector<std::string> biases;   // (1, width)
  std::vector<Fold> norms;
  bool operator==(const Stream&) const = default;
};

struct ModelGraph {
  std::vector<Fold> folds;  // in the order of the forward pass
  std::vector<Stream> streams;
  /// Matrices that stand in the pass more than once (a tied head): no fold has them.
  std::vector<std::string> shared;
};

/// Loads no numbers. Errors: tensors that the architecture asks for and that are not there.
Result<ModelGraph> trace_model(const TensorSource& source);

}  // namespace lowbit
