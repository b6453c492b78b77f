// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/hadamard.h"

#include <cmath>
#include <random>

#include "lowbit/base/assert.h"
#include "lowbit/formats/butterflies.h"

namespace lowbit {
namespace {

constexpr std::int64_t largest_paley = 1024;  // the product with it costs its square

bool is_prime(std::int64_t n) {
  if (n < 2) return false;
  for (std::int64_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return true;
}

/// A field of q = p or p^2 elements, p odd: numbers a + b t with t^2 = r, r no square mod p;
/// element i is (i % p) + (i / p) t.
class Field {
 public:
  /// Nothing where q is neither.
  static std::optional<Field> of_size(std::int64_t q) {
    const auto root = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(q))));
    Field field;
    field.q_ = q;
    if (is_prime(q) && q > 2) {
      field.p_ = q;
    } else if (root * root == q && is_prime(root) && root > 2) {
      field.p_ = root;
    } else {
      return std::nullopt;
    }
    field.is_square_.assign(static_cast<std::size_t>(field.p_), false);
    for (std::int64_t a = 1; a < field.p_; ++a) {
      field.is_square_[static_cast<std::size_t>(a * a % field.p_)] = true;
    }
    field.r_ = 1;
    while (field.is_square_[static_cast<std::size_t>(field.r_)]) ++field.r_;
    return field;
  }

  /// 1 where the difference of two elements is a square, -1 where it is none, 0 where it is 0.
  std::int8_t character(std::int64_t i, std::int64_t j) const {
    if (i == j) return 0;
    const std::int64_t a = modulo(i % p_ - j % p_), b = modulo(i / p_ - j / p_);
    if (q_ == p_) return is_square_[static_cast<std::size_t>(a)] ? 1 : -1;
    // In the field of p^2 a number is a square exactly if its norm a^2 - r b^2 is one mod p.
    return is_square_[static_cast<std::size_t>(modulo(a * a - r_ * (b * b % p_)))] ? 1 : -1;
  }

 private:
  std::int64_t modulo(std::int64_t a) const { return (a % p_ + p_) % p_; }
  std::int64_t q_ = 0, p_ = 0, r_ = 0;
  std::vector<bool> is_square_;
};

/// Paley's matrix of signs but for its diagonal of 0: a border of ones around the characters.
std::int8_t conference(const Field& field, bool is_symmetric, std::int64_t i, std::int64_t j) {
  if (i == 0 && j == 0) return 0;
  if (i == 0) return 1;
  if (j == 0) return is_symmetric ? 1 : -1;
  return field.character(i - 1, j - 1);
}

}  // namespace

std::optional<std::vector<std::int8_t>> paley_matrix(std::int64_t n) {
  if (n == 1) return std::vector<std::int8_t>{1};
  if (n == 2) return std::vector<std::int8_t>{1, 1, 1, -1};
  if (n < 1 || n % 4 != 0 || n > largest_paley) return std::nullopt;
  std::vector<std::int8_t> matrix(static_cast<std::size_t>(n * n));
  const auto at = [&](std::int64_t i, std::int64_t j) -> std::int8_t& {
    return matrix[static_cast<std::size_t>(i * n + j)];
  };
  if (const auto field = Field::of_size(n - 1); field && (n - 1) % 4 == 3) {
    // Q is antisymmetric, so (Q + I) is orthogonal.
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        at(i, j) = i == j ? std::int8_t{1} : conference(*field, /*is_symmetric=*/false, i, j);
      }
    }
    return matrix;
  }
  const std::int64_t half = n / 2;
  if (const auto field = Field::of_size(half - 1); field && (half - 1) % 4 == 1) {
    // Q is symmetric: 0 becomes ((1, -1), (-1, -1)), +-1 becomes +-((1, 1), (1, -1)).
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        const std::int8_t c = conference(*field, /*is_symmetric=*/true, i / 2, j / 2);
        const bool is_last = i % 2 == 1 && j % 2 == 1, is_first = i % 2 == 0 && j % 2 == 0;
        if (c == 0) {
          at(i, j) = is_first ? 1 : -1;
        } else {
          at(i, j) = is_last ? static_cast<std::int8_t>(-c) : c;
        }
      }
    }
    return matrix;
  }
  return std::nullopt;
}

Rotation Rotation::of_size(std::int64_t n_numbers, std::uint64_t seed) {
  LOWBIT_ASSERT(n_numbers > 0);
  Rotation rotation;
  rotation.n_numbers_ = n_numbers;
  std::int64_t odd = n_numbers, power = 1;
  while (odd % 2 == 0) {
    odd /= 2;
    power *= 2;
  }
  // The odd part times a 4, 8, ..; where none can be built, blocks of the power of two alone.
  rotation.n_sylvester_ = power;
  rotation.paley_ = {1};
  for (std::int64_t rest = 4; odd > 1 && rest <= power; rest *= 2) {
    if (auto matrix = paley_matrix(odd * rest)) {
      rotation.n_paley_ = odd * rest;
      rotation.n_sylvester_ = power / rest;
      rotation.paley_ = *std::move(matrix);
      break;
    }
  }
  std::mt19937_64 random(seed);
  rotation.signs_.assign(static_cast<std::size_t>(n_numbers), 1);
  if (seed == 0) return rotation;
  for (std::int8_t& sign : rotation.signs_) sign = random() % 2 == 0 ? 1 : -1;
  return rotation;
}

void Rotation::apply(std::span<double> x) const {
  LOWBIT_ASSERT(static_cast<std::int64_t>(x.size()) == n_numbers_);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= signs_[i];
  const auto n_sylvester = static_cast<std::size_t>(n_sylvester_);
  add_and_subtract(n_sylvester, x);
  const double factor = 1 / std::sqrt(static_cast<double>(block()));
  if (n_paley_ == 1) {
    for (double& number : x) number *= factor;
    return;
  }
  // Number j of every Sylvester block of a block is mixed with the same number of the others.
  const auto n_paley = static_cast<std::size_t>(n_paley_);
  std::vector<double> mixed(n_paley);
  for (std::size_t first = 0; first < x.size(); first += n_paley * n_sylvester) {
    for (std::size_t j = 0; j < n_sylvester; ++j) {
      for (std::size_t row = 0; row < n_paley; ++row) {
        double sum = 0;
        for (std::size_t k = 0; k < n_paley; ++k) {
          sum += paley_[row * n_paley + k] * x[first + k * n_sylvester + j];
        }
        mixed[row] = sum * factor;
      }
      for (std::size_t k = 0; k < n_paley; ++k) x[first + k * n_sylvester + j] = mixed[k];
    }
  }
}

}  // namespace lowbit
