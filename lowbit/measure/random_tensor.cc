// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/random_tensor.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

namespace lowbit {
namespace {

/// splitmix64: a few cycles for 8 bytes, and any number is a good seed.
struct Random {
  std::uint64_t state;
  std::uint64_t operator()() {
    std::uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
};

/// Every row has a stream of its own, so that threads may share a tensor.
Random stream_of(std::uint64_t seed, std::int64_t row) {
  Random mixed{seed + static_cast<std::uint64_t>(row) * 0xd1342543de82ef95u};
  return Random{mixed()};
}

constexpr std::int64_t rows_per_chunk = 16;

/// Codes that any bits may stand for: every one is a finite number.
bool takes_any_bits(const Code& code) {
  return code.formula == nullptr && code.encoder == nullptr &&
         std::ranges::all_of(code.values, [](float value) { return std::isfinite(value); });
}

void fill_with_bits(CodeArray& codes, std::uint64_t seed, ThreadPool& pool) {
  constexpr std::int64_t byte_bits = 8;
  const std::int64_t n_bits = codes.n_per_row() * codes.width();
  pool.parallel_for(
      codes.n_rows(), rows_per_chunk, [&](std::int64_t first, std::int64_t last, int) {
        for (std::int64_t row = first; row < last; ++row) {
          Random random = stream_of(seed, row);
          std::span<std::byte> bytes = codes.row(row);
          for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint64_t)) {
            const std::uint64_t bits = random();
            std::memcpy(bytes.data() + at, &bits, std::min(sizeof bits, bytes.size() - at));
          }
          if (const std::int64_t used = n_bits % byte_bits; used != 0) {
            bytes.back() &= static_cast<std::byte>((1u << used) - 1);
          }
        }
      });
}

constexpr std::size_t n_choices = 1024;
using Choices = std::array<std::uint32_t, n_choices>;

void fill_with_choices(CodeArray& codes, const Choices& choices, std::uint64_t seed,
                       ThreadPool& pool) {
  pool.parallel_for(
      codes.n_rows(), rows_per_chunk, [&](std::int64_t first, std::int64_t last, int) {
        std::vector<std::uint32_t> row_codes(static_cast<std::size_t>(codes.n_per_row()));
        for (std::int64_t row = first; row < last; ++row) {
          Random random = stream_of(seed, row);
          for (std::uint32_t& code : row_codes) {
            code = choices[random() % n_choices];
          }
          codes.pack(row, 0, std::span<const std::uint32_t>(row_codes));
        }
      });
}

/// About normal: twelve uniform numbers.
float normal(Random& random) {
  constexpr int n_terms = 12;
  double sum = -n_terms / 2.0;
  for (int i = 0; i < n_terms; ++i) sum += static_cast<double>(random() >> 11) * 0x1p-53;
  return static_cast<float>(sum);
}

/// Root mean square of a code's numbers around `middle`.
float reach_of(const Code& code, float middle) {
  double squares = 0;
  std::int64_t n = 0;
  for (const float value : code.values) {
    if (!std::isfinite(value)) continue;
    squares += static_cast<double>(value - middle) * static_cast<double>(value - middle);
    ++n;
  }
  return n == 0 || squares == 0 ? 1.0f
                                : static_cast<float>(std::sqrt(squares / static_cast<double>(n)));
}

float middle_of(const Code& code) {
  double sum = 0;
  std::int64_t n = 0;
  for (const float value : code.values) {
    if (!std::isfinite(value)) continue;
    sum += static_cast<double>(value);
    ++n;
  }
  return n == 0 ? 0.0f : static_cast<float>(sum / static_cast<double>(n));
}

/// Numbers within a quarter of `value`, through every level of scales.
void fill_factors(QuantizedTensor& plane, float value, std::uint64_t seed, ThreadPool& pool) {
  float unit = 1;
  if (plane.scale) {
    // Steps of the inner scale, within what its code reaches.
    constexpr float most_steps = 24, share_of_range = 0.75f;
    float largest = 0;
    for (const float number : plane.scheme.code->values) {
      if (std::isfinite(number)) largest = std::max(largest, number);
    }
    const float steps = std::min(most_steps, largest * share_of_range);
    fill_factors(*plane.scale, value / steps, seed + 1, pool);
    unit = value / steps;
  }
  Random random{seed};
  Choices choices;
  for (std::uint32_t& choice : choices) {
    const float factor = 0.75f + static_cast<float>(random() % n_choices) * (0.5f / n_choices);
    choice = nearest_code(*plane.scheme.code, value * factor / unit);
  }
  fill_with_choices(plane.codes, choices, seed + 2, pool);
}

}  // namespace

QuantizedTensor random_tensor(const Scheme& scheme, std::int64_t rows, std::int64_t cols,
                              std::uint64_t seed, ThreadPool& pool) {
  constexpr std::uint64_t scale_seed = 0x5ca1e, zero_seed = 0x2e70;
  QuantizedTensor tensor(scheme, rows, cols);
  const float deviation = 1.0f / std::sqrt(static_cast<float>(cols));
  const Code& code = *scheme.code;
  const float middle = tensor.zero ? middle_of(code) : 0.0f;
  float reach = reach_of(code, middle);
  if (takes_any_bits(code)) {
    fill_with_bits(tensor.codes, seed, pool);
  } else {
    Random random{seed};
    Choices choices;
    // A plain float holds the weight itself, other codes numbers that a scale makes small.
    const float spread = tensor.scale ? reach / 2 : deviation;
    double squares = 0;
    for (std::uint32_t& choice : choices) {
      choice = nearest_code(code, spread * normal(random));
      float number = 0;
      code.look_up(choice, &number);
      squares += static_cast<double>(number) * static_cast<double>(number);
    }
    reach = static_cast<float>(std::sqrt(squares / n_choices));
    fill_with_choices(tensor.codes, choices, seed + 1, pool);
  }
  const float scale = deviation / reach;
  if (tensor.scale) fill_factors(*tensor.scale, scale, seed ^ scale_seed, pool);
  if (tensor.zero) {
    const float zero = scheme.zero_unit == ZeroUnit::code ? middle : -scale * middle;
    fill_factors(*tensor.zero, zero, seed ^ zero_seed, pool);
  }
  return tensor;
}

}  // namespace lowbit
