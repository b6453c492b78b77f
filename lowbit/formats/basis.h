// SPDX-License-Identifier: Apache-2.0
// The basis of a matrix: what happens to its inputs before they are multiplied. A tensor W' with a
// basis B stands for the matrix W' B: y = W' (B x). A rotation makes the columns of W' alike, which
// rounds better; it costs a few additions per input at run time. A table of embeddings with a basis
// stands for the rows that B gives back: row i is B^T w'_i.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "lowbit/base/result.h"

namespace lowbit {

struct Basis {
  /// Numbers per block that a Walsh-Hadamard matrix (symmetric, orthonormal: its own inverse)
  /// mixes; a power of two that divides the length of x. 0: x stays as it is.
  std::int64_t hadamard = 0;

  bool is_plain() const { return hadamard == 0; }
  bool operator==(const Basis&) const = default;
};

/// An error where inputs of n_inputs numbers cannot have this basis.
Status check_basis(const Basis& basis, std::int64_t n_inputs);
/// "hadamard 512"; empty for a plain basis.
std::string to_string(const Basis& basis);

/// The largest power of two up to `most` that divides n_numbers.
std::int64_t hadamard_block_of(std::int64_t n_numbers, std::int64_t most);

/// THE order of additions, for every device: for h = 1, 2, 4 .. block / 2, a = x[i] and b = x[i +
/// h], where i has the bit h clear, become a + b and a - b; then x times hadamard_factor(block). x:
/// whole blocks.
void apply_hadamard(std::int64_t block, std::span<float> x);
/// 1 / sqrt(block), rounded to f32.
float hadamard_factor(std::int64_t block);

/// x -> B x, which is its own way back. x: (n_inputs) or rows of them one after the other.
void apply_basis(const Basis& basis, std::span<float> x);

}  // namespace lowbit
