// SPDX-License-Identifier: Apache-2.0
// Orthogonal matrices of signs: Hadamard matrices of the sizes that models have. Sylvester's
// doubling gives the powers of two; Paley's constructions (1933) from the squares of a finite field
// give K = q + 1 for a prime power q = 3 mod 4 and K = 2 (q + 1) for q = 1 mod 4: 12, 20, 24, 28,
// 36, 44, 52, 60, 68, 72, 76 ...; Kronecker products of both give K x 2^m (576 = 36 x 16, 896 = 28
// x 32, 4864 = 76 x 64). Fields of q = p and q = p^2 are built, which leaves out 92, 116, 156 ...
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace lowbit {

/// (n, n) row-major, 1 and -1, rows orthogonal; nothing where neither of Paley's constructions
/// gives this size and it is not 1 or 2.
std::optional<std::vector<std::int8_t>> paley_matrix(std::int64_t n);

/// x -> R x with R = blocks of (P (x) S) / sqrt(block) times signs: P of Paley's, S of Sylvester's.
/// Everything in double precision, so that a folded model is as good as its f32.
class Rotation {
 public:
  /// The largest block that divides n_numbers and can be built; the signs of the inputs are all +
  /// for seed 0, else drawn.
  static Rotation of_size(std::int64_t n_numbers, std::uint64_t seed);

  std::int64_t n_numbers() const { return n_numbers_; }
  std::int64_t block() const { return n_paley_ * n_sylvester_; }
  /// x: (n_numbers)
  void apply(std::span<double> x) const;

 private:
  std::int64_t n_numbers_ = 0, n_paley_ = 1, n_sylvester_ = 1;
  std::vector<std::int8_t> paley_, signs_;  // (n_paley, n_paley), (n_numbers)
};

}  // namespace lowbit
