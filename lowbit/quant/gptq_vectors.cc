// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/gptq_vectors.h"

#include <algorithm>
#include <array>

#include "lowbit/base/assert.h"

namespace lowbit {
namespace {

constexpr std::int64_t most_atom_cols = 16;
using AtomNumbers = std::array<float, most_atom_cols>;

std::size_t index(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

}  // namespace

std::int64_t atom_cols(const Code& code) {
  const std::int64_t n = std::max(code.dim, code.even_signs);
  LOWBIT_ASSERT(n <= most_atom_cols);
  return n;
}

void AtomRounder::round(std::span<const float> x, const float* weights, float scale, float* v,
                        std::uint32_t* codes) {
  const Code& code = grid_.code();
  const std::size_t n_codes = x.size() / grid_.dim();
  if (scale > 0) {
    group_.reset(grid_, x, weights, scale);
    group_.codes_at(scale, {codes, n_codes});
  } else {
    std::fill_n(codes, n_codes, 0u);
  }
  for (std::size_t i = 0; i < n_codes; ++i) code.look_up(codes[i], v + i * grid_.dim());
}

std::vector<float> atom_weights(const BlockMatrix& feedback, const float* pivots,
                                std::int64_t n_atom) {
  std::vector<float> weights(index(feedback.n));
  for (std::int64_t first = 0; first < feedback.n; first += n_atom) {
    const std::int64_t last = std::min(first + n_atom, feedback.n);
    float largest = 0;
    for (std::int64_t j = first; j < last; ++j) {
      float sum = pivots[j];
      for (std::int64_t k = j + 1; k < last; ++k) {
        const float m = feedback.row(j)[k];
        sum += m * m * pivots[k];
      }
      weights[index(j)] = sum;
      largest = std::max(largest, sum);
    }
    for (std::int64_t j = first; j < last; ++j) weights[index(j)] /= largest;
  }
  return weights;
}

void round_atoms(AtomRounder& rounder, const TileGrid& grid, const BlockMatrix& feedback,
                 const std::vector<float>& weights, std::int64_t n_atom, std::int64_t n_rows,
                 std::int64_t first, std::int64_t last, const TileColumn* w, TileColumn* target,
                 TileColumn* v, TileColumn* e, const TileCodes& codes) {
  for (std::int64_t begin = first; begin < last; begin += n_atom) {
    const std::int64_t n = std::min(n_atom, last - begin);
    for (std::int64_t r = 0; r < n_rows; ++r) {
      AtomNumbers handed{}, x{}, values{};
      for (std::int64_t k = 0; k < n; ++k) {
        // What came from before the atom reached its columns through M; M_bb is taken out again.
        float y = target[begin + k].get(r) - w[begin + k].get(r);
        for (std::int64_t j = 0; j < k; ++j) {
          y -= handed[index(j)] * feedback.row(begin + j)[begin + k];
        }
        handed[index(k)] = y;
        x[index(k)] = w[begin + k].get(r) + y;
      }
      const float scale = grid.scale.get(r);
      rounder.round({x.data(), index(n)}, weights.data() + begin, scale, values.data(),
                    codes.at(r, begin));
      for (std::int64_t k = 0; k < n; ++k) {
        v[begin + k].set(r, values[index(k)]);
        e[begin + k].set(r, w[begin + k].get(r) - scale * values[index(k)]);
      }
    }
    for (std::int64_t k = begin; k < begin + n; ++k) {
      const float* row = feedback.row(k);
      const TileColumn handed_on = e[k];
      for (std::int64_t j = begin + n; j < feedback.n; ++j) target[j].add(handed_on, row[j]);
    }
  }
}

void improve_atoms(AtomRounder& rounder, const TileGrid& grid, const BlockMatrix& h,
                   std::int64_t n_atom, std::int64_t n_rows, std::int64_t first, std::int64_t last,
                   const TileColumn* w, TileColumn* v, TileColumn* e, TileColumn* gradient,
                   const TileCodes& codes) {
  for (std::int64_t begin = first; begin < last; begin += n_atom) {
    const std::int64_t n = std::min(n_atom, last - begin);
    AtomNumbers weights{};
    float largest = 0;
    for (std::int64_t k = 0; k < n; ++k) largest = std::max(largest, h.row(begin + k)[begin + k]);
    for (std::int64_t k = 0; k < n; ++k) {
      weights[index(k)] = h.row(begin + k)[begin + k] / largest;
    }
    std::array<TileColumn, most_atom_cols> changes{};
    bool is_changed = false;
    for (std::int64_t r = 0; r < n_rows; ++r) {
      const float scale = grid.scale.get(r);
      if (!(scale > 0)) continue;
      AtomNumbers x{}, values{}, change{};
      for (std::int64_t k = 0; k < n; ++k) {
        x[index(k)] =
            scale * v[begin + k].get(r) + gradient[begin + k].get(r) / h.row(begin + k)[begin + k];
      }
      std::array<std::uint32_t, most_atom_cols> found{};
      rounder.round({x.data(), index(n)}, weights.data(), scale, values.data(), found.data());
      float gain = 0;  // 2 change g - change H change
      for (std::int64_t k = 0; k < n; ++k) {
        change[index(k)] = scale * values[index(k)] - scale * v[begin + k].get(r);
        gain += 2 * change[index(k)] * gradient[begin + k].get(r);
      }
      for (std::int64_t k = 0; k < n; ++k) {
        for (std::int64_t j = 0; j < n; ++j) {
          gain -= change[index(k)] * change[index(j)] * h.row(begin + k)[begin + j];
        }
      }
      if (!(gain > 0)) continue;
      is_changed = true;
      const std::size_t n_codes = index(n) / rounder.dim();
      std::copy_n(found.begin(), n_codes, codes.at(r, begin));
      for (std::int64_t k = 0; k < n; ++k) {
        changes[index(k)].set(r, change[index(k)]);
        v[begin + k].set(r, values[index(k)]);
        e[begin + k].set(r, w[begin + k].get(r) - scale * values[index(k)]);
      }
    }
    if (!is_changed) continue;
    for (std::int64_t k = 0; k < n; ++k) {
      const float* row = h.row(begin + k);
      for (std::int64_t j = 0; j < h.n; ++j) gradient[j].add(changes[index(k)], -row[j]);
    }
  }
}

}  // namespace lowbit
