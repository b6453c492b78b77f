# SPDX-License-Identifier: Apache-2.0
"""Writes lowbit/formats/grids.cc from the grids inside the gguf package.

    python tests/golden/make_grids.py > lowbit/formats/grids.cc    # gguf 0.19.0
"""

from gguf import quants

HEAD = '''// SPDX-License-Identifier: Apache-2.0
// The grids of the iq types: the lattice points that their codes index. Facts of the GGUF format;
// source: the tables of llama.cpp's ggml-common.h as the `gguf` Python package 0.19.0 carries them
// (gguf/quants.py, grid_hex), a few bits per number, two hex digits a byte, first number in the low
// bits. tests/golden/make_grids.py writes this file.

#include <array>
#include <cstdint>
#include <string_view>

#include "lowbit/formats/codes.h"

namespace lowbit::tables {
namespace {

constexpr unsigned hex_digit(char digit) {
  return static_cast<unsigned>(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

/// kBits per number in the text, which index the levels.
template <int kBits, std::size_t kNumbers, std::size_t kLevels>
constexpr auto unpack(std::string_view text, const std::array<float, kLevels>& levels) {
  constexpr std::size_t per_byte = 8 / kBits;
  std::array<float, kNumbers> grid{};
  for (std::size_t i = 0; i < kNumbers; ++i) {
    const std::size_t at = i / per_byte * 2;
    const unsigned byte = hex_digit(text[at]) << 4 | hex_digit(text[at + 1]);
    grid[i] = levels[byte >> (i % per_byte * kBits) & ((1u << kBits) - 1)];
  }
  return grid;
}

/// The grid plus delta, then the grid minus delta.
template <std::size_t kNumbers>
constexpr auto shifted_both_ways(const std::array<float, kNumbers>& grid, float delta) {
  std::array<float, 2 * kNumbers> both{};
  for (std::size_t i = 0; i < kNumbers; ++i) {
    both[i] = grid[i] + delta;
    both[kNumbers + i] = grid[i] - delta;
  }
  return both;
}

'''
CHARS_PER_LINE = 94

print(HEAD + "// clang-format off")
for kind in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"):
    text = getattr(quants, kind).grid_hex.decode().lower()
    print(f"constexpr std::string_view {kind.lower()}_text =")
    starts = range(0, len(text), CHARS_PER_LINE)
    print("\n".join(f'    "{text[i:i + CHARS_PER_LINE]}"' for i in starts) + ";")
print("// clang-format on")
print('''
constexpr std::array<float, 4> three_levels{8, 25, 43};
constexpr std::array<float, 4> trits{-1, 0, 1};
constexpr std::array<float, 8> eight_levels{4, 12, 20, 28, 36, 44, 52, 62};
constexpr std::array<float, 8> odd_levels{1, 3, 5, 7, 9, 11, 13, 15};

}  // namespace

constinit const std::array<float, 256 * 8> iq2_xxs_grid =
    unpack<2, 256 * 8>(iq2_xxs_text, three_levels);
constinit const std::array<float, 512 * 8> iq2_xs_grid =
    unpack<2, 512 * 8>(iq2_xs_text, three_levels);
constinit const std::array<float, 1024 * 8> iq2_s_grid =
    unpack<2, 1024 * 8>(iq2_s_text, three_levels);
constinit const std::array<float, 256 * 4> iq3_xxs_grid =
    unpack<4, 256 * 4>(iq3_xxs_text, eight_levels);
constinit const std::array<float, 512 * 4> iq3_s_grid =
    unpack<4, 512 * 4>(iq3_s_text, odd_levels);
constinit const std::array<float, 2 * 2048 * 8> iq1_grid =
    shifted_both_ways(unpack<2, 2048 * 8>(iq1_s_text, trits), 0.125f);

}  // namespace lowbit::tables''')
