// SPDX-License-Identifier: Apache-2.0
#include "lowbit/formats/basis.h"

#include <bit>
#include <cmath>

#include <fmt/format.h>

#include "lowbit/base/assert.h"
#include "lowbit/formats/butterflies.h"

namespace lowbit {

Status check_basis(const Basis& basis, std::int64_t n_inputs) {
  if (basis.hadamard == 0) return ok();
  if (basis.hadamard < 0 || !std::has_single_bit(static_cast<std::uint64_t>(basis.hadamard))) {
    return Error(fmt::format("a Hadamard rotation mixes blocks of a power of two, not of {}",
                             basis.hadamard));
  }
  if (n_inputs % basis.hadamard != 0) {
    return Error(fmt::format("{} inputs are not whole blocks of {} for a Hadamard rotation",
                             n_inputs, basis.hadamard));
  }
  return ok();
}

std::string to_string(const Basis& basis) {
  return basis.is_plain() ? std::string() : fmt::format("hadamard {}", basis.hadamard);
}

std::int64_t hadamard_block_of(std::int64_t n_numbers, std::int64_t most) {
  LOWBIT_ASSERT(n_numbers > 0 && most > 0);
  std::int64_t block = 1;
  while (block * 2 <= most && n_numbers % (block * 2) == 0) block *= 2;
  return block;
}

float hadamard_factor(std::int64_t block) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
}

void apply_hadamard(std::int64_t block, std::span<float> x) {
  const auto n_block = static_cast<std::size_t>(block);
  LOWBIT_ASSERT(block > 0 && x.size() % n_block == 0);
  add_and_subtract(n_block, x);
  const float factor = hadamard_factor(block);
  for (float& number : x) number *= factor;
}

void apply_basis(const Basis& basis, std::span<float> x) {
  if (!basis.is_plain()) apply_hadamard(basis.hadamard, x);
}

}  // namespace lowbit
