// SPDX-License-Identifier: Apache-2.0
// The block layouts of GGUF: for every type, which bits of a block hold which number of which
// plane. Adding a layout: docs/adding-a-layout.md.
//
// Byte maps, little-endian; d, m: f16; nibbles: low half first. A number that ggml stores in two's
// complement is offset binary in a plane, so its sign bit flips; the mins of the K types are
// subtracted in ggml and added here, so the sign of dmin flips.
//
//   type      bytes of a block
//   q4_0      d  q[16]: byte j = number j, j + 16
//   q4_1      d m  q[16]
//   q5_0      d  h[4]: bit j = top bit of number j  q[16]
//   q5_1      d m  h[4]  q[16]
//   q8_0      d  q[32]
//   q2_k      s[16]: scale, min  q[64]: 2 bits, 32 apart  d dmin
//   q3_k      h[32]: bit j / 32 of byte j % 32  q[64]  s[12]: 6-bit scales  d
//   q4_k      d dmin s[12]: 6-bit scales and mins  q[128]: 64 numbers in 32 bytes
//   q5_k      d dmin s[12]  h[32]  q[128]
//   q6_k      l[128]: low 4 bits  h[64]: high 2 bits  s[16]: 8-bit scales  d
//   iq4_nl    as q4_0          iq4_xs   d h[2] l[4]: 6-bit scales  q[128]
//   iq2_xxs   d  8 x {4 grid bytes, 4 x 7 signs, 4-bit scale}
//   iq2_xs    d  32 x {9-bit grid, 7 signs}  s[8]
//   iq2_s     d  g[32]  signs[32]  h[8]: grid bits 8, 9  s[8]
//   iq3_xxs   d  g[64]  8 x {4 x 7 signs for two codes, 4-bit scale}
//   iq3_s     d  g[64]  h[8]: grid bit 8  signs[32]  s[4]
//   iq1_s     d  g[32]  8 x {4 x grid bits 8..10, 3-bit scale, sign of delta}
//   iq1_m     g[32]  16 x {2 x (grid bits 8..10, sign of delta)}  4 x {4 x 3-bit scale, 4 bits of
//   d} tq1_0     q[48] of 5 trits, h[4] of 4 trits  d tq2_0     q[64]: 2 bits, 32 apart  d mxfp4
//   e8m0  q[16]      nvfp4    4 x ue4m3  4 x q[8]: byte j = number j, j + 8 of 16 q1_0      d
//   q[16]: bit j = number j stq1_0    q[32]: zero lane and flips of 4 numbers  s[8]: their first
//   sign  d
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "lowbit/io/block_plan.h"

namespace lowbit {

struct GgmlBlock {
  std::uint32_t type;
  std::string_view scheme;  // a named scheme; also the layout's name
  int n_numbers;
  void (*layout)(BlockMap& io);
};

/// THE list of GGUF's block types, by type number.
std::span<const GgmlBlock> ggml_blocks();

}  // namespace lowbit
