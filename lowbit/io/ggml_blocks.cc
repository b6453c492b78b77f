// SPDX-License-Identifier: Apache-2.0
// io(plane, index, first bit, bits [, shift into the number [, flip]]). Digits here are bit
// positions of the byte maps in ggml_blocks.h.
#include "lowbit/io/ggml_blocks.h"

#include <array>

namespace lowbit {
namespace {

using enum Plane;

constexpr std::uint32_t sign16 = 0x8000, sign8 = 0x80;

/// First bit of number j where a byte holds numbers n apart from each other, low bits first.
constexpr int nibble(int j, int n) {
  return 8 * (j / (2 * n) * n + j % n) + j / n % 2 * 4;
}
constexpr int quarter(int j) {
  return 8 * (j / 128 * 32 + j % 32) + j / 32 % 4 * 2;
}

void plain16(BlockMap& io) {
  io(codes, 0, 0, 16);
}
void plain32(BlockMap& io) {
  io(codes, 0, 0, 32);
}

void q4_0(BlockMap& io) {
  io(scale, 0, 0, 16);
  for (int j = 0; j < 32; ++j) io(codes, j, 16 + nibble(j, 16), 4);
}
void q4_1(BlockMap& io) {
  io(scale, 0, 0, 16);
  io(zero, 0, 16, 16);
  for (int j = 0; j < 32; ++j) io(codes, j, 32 + nibble(j, 16), 4);
}
void q5_0(BlockMap& io) {
  io(scale, 0, 0, 16);
  for (int j = 0; j < 32; ++j) io(codes, j, 48 + nibble(j, 16), 4), io(codes, j, 16 + j, 1, 4);
}
void q5_1(BlockMap& io) {
  io(scale, 0, 0, 16);
  io(zero, 0, 16, 16);
  for (int j = 0; j < 32; ++j) io(codes, j, 64 + nibble(j, 16), 4), io(codes, j, 32 + j, 1, 4);
}
void q8_0(BlockMap& io) {
  io(scale, 0, 0, 16);
  for (int j = 0; j < 32; ++j) io(codes, j, 16 + 8 * j, 8, 0, sign8);
}

void q2_k(BlockMap& io) {
  for (int g = 0; g < 16; ++g) io(scale, g, 8 * g, 4), io(zero, g, 8 * g + 4, 4);
  for (int j = 0; j < 256; ++j) io(codes, j, 128 + quarter(j), 2);
  io(scale_scale, 0, 640, 16);
  io(zero_scale, 0, 656, 16, 0, sign16);
}
void q3_k(BlockMap& io) {
  for (int j = 0; j < 256; ++j) {
    io(codes, j, 256 + quarter(j), 2);
    io(codes, j, 8 * (j % 32) + j / 32, 1, 2);
  }
  for (int g = 0; g < 16; ++g) {
    io(scale, g, 768 + nibble(g, 8), 4);
    io(scale, g, 832 + 8 * (g % 4) + g / 4 * 2, 2, 4);
  }
  io(scale_scale, 0, 864, 16);
}
/// d, dmin, and 8 x (6-bit scale, 6-bit min) in 12 bytes: the first four whole, with the top two
/// bits of the last four above them.
void k_scales(BlockMap& io) {
  io(scale_scale, 0, 0, 16);
  io(zero_scale, 0, 16, 16, 0, sign16);
  for (int g = 0; g < 4; ++g) {
    io(scale, g, 32 + 8 * g, 6);
    io(zero, g, 64 + 8 * g, 6);
    io(scale, g + 4, 96 + 8 * g, 4), io(scale, g + 4, 38 + 8 * g, 2, 4);
    io(zero, g + 4, 100 + 8 * g, 4), io(zero, g + 4, 70 + 8 * g, 2, 4);
  }
}
void q4_k(BlockMap& io) {
  k_scales(io);
  for (int j = 0; j < 256; ++j) io(codes, j, 128 + nibble(j, 32), 4);
}
void q5_k(BlockMap& io) {
  k_scales(io);
  for (int j = 0; j < 256; ++j) {
    io(codes, j, 384 + nibble(j, 32), 4);
    io(codes, j, 128 + 8 * (j % 32) + j / 32, 1, 4);
  }
}
void q6_k(BlockMap& io) {
  for (int j = 0; j < 256; ++j) {
    io(codes, j, nibble(j, 64), 4);
    io(codes, j, 1024 + quarter(j), 2, 4);
  }
  for (int g = 0; g < 16; ++g) io(scale, g, 1536 + 8 * g, 8, 0, sign8);
  io(scale_scale, 0, 1664, 16);
}

void iq4_xs(BlockMap& io) {
  io(scale_scale, 0, 0, 16);
  for (int g = 0; g < 8; ++g) io(scale, g, 32 + 4 * g, 4), io(scale, g, 16 + 2 * g, 2, 4);
  for (int j = 0; j < 256; ++j) io(codes, j, 64 + nibble(j, 16), 4);
}
void iq2_xxs(BlockMap& io) {
  io(scale_scale, 0, 0, 16);
  for (int j = 0; j < 32; ++j) {
    const int at = 16 + 64 * (j / 4), k = j % 4;
    io(codes, j, at + 8 * k, 8), io(codes, j, at + 32 + 7 * k, 7, 8);
    io.parity(j, 15, {{8, 7, j}});
  }
  for (int g = 0; g < 8; ++g) io(scale, g, 16 + 64 * g + 60, 4);
}
void iq2_xs(BlockMap& io) {
  io(scale_scale, 0, 0, 16);
  for (int j = 0; j < 32; ++j) {
    io(codes, j, 16 + 16 * j, 16);
    io.parity(j, 16, {{9, 7, j}});
  }
  for (int g = 0; g < 16; ++g) io(scale, g, 528 + 4 * g, 4);
}
void iq2_s(BlockMap& io) {
  io(scale_scale, 0, 0, 16);
  for (int j = 0; j < 32; ++j) {
    io(codes, j, 16 + 8 * j, 8), io(codes, j, 528 + 2 * j, 2, 8);
    io(codes, j, 272 + 8 * j, 8, 10);
  }
  for (int g = 0; g < 16; ++g) io(scale, g, 592 + 4 * g, 4);
}
void iq3_xxs(BlockMap& io) {
  io(scale_scale, 0, 0, 16);
  for (int j = 0; j < 64; j += 2) {
    const int signs = 528 + 32 * (j / 8) + 7 * (j / 2 % 4);
    io(codes, j, 16 + 8 * j, 8), io(codes, j, signs, 4, 8);
    io(codes, j + 1, 24 + 8 * j, 8), io(codes, j + 1, signs + 4, 3, 8);
    io.parity(j + 1, 11, {{8, 4, j}, {8, 3, j + 1}});
  }
  for (int g = 0; g < 8; ++g) io(scale, g, 528 + 32 * g + 28, 4);
}
void iq3_s(BlockMap& io) {
  io(scale_scale, 0, 0, 16);
  for (int j = 0; j < 64; ++j) {
    io(codes, j, 16 + 8 * j, 8), io(codes, j, 528 + j, 1, 8);
    io(codes, j, 592 + 4 * j, 4, 9);
  }
  for (int g = 0; g < 8; ++g) io(scale, g, 848 + 4 * g, 4);
}
void iq1_s(BlockMap& io) {
  io(scale_scale, 0, 0, 16);
  for (int j = 0; j < 32; ++j) {
    const int word = 272 + 16 * (j / 4);
    io(codes, j, 16 + 8 * j, 8), io(codes, j, word + 3 * (j % 4), 3, 8);
    io(codes, j, word + 15, 1, 11);  // one delta for four codes
  }
  for (int g = 0; g < 8; ++g) io(scale, g, 284 + 16 * g, 3);
}
void iq1_m(BlockMap& io) {
  for (int j = 0; j < 32; ++j) io(codes, j, 8 * j, 8), io(codes, j, 256 + 4 * j, 4, 8);
  for (int g = 0; g < 16; ++g) io(scale, g, 384 + 16 * (g / 4) + 3 * (g % 4), 3);
  for (int k = 0; k < 4; ++k) io(scale_scale, 0, 396 + 16 * k, 4, 4 * k);
}

void tq1_0(BlockMap& io) {
  for (int m = 0; m < 32; ++m) io.trits(8 * m, 5, m, 32);
  for (int m = 0; m < 16; ++m) io.trits(256 + 8 * m, 5, 160 + m, 16);
  for (int m = 0; m < 4; ++m) io.trits(384 + 8 * m, 4, 240 + m, 4);
  io(scale, 0, 416, 16);
}
void tq2_0(BlockMap& io) {
  for (int j = 0; j < 256; ++j) io(codes, j, quarter(j), 2);
  io(scale, 0, 512, 16);
}
void mxfp4(BlockMap& io) {
  io(scale, 0, 0, 8);
  for (int j = 0; j < 32; ++j) io(codes, j, 8 + nibble(j, 16), 4);
}
void nvfp4(BlockMap& io) {
  for (int g = 0; g < 4; ++g) io(scale, g, 8 * g, 8);
  for (int j = 0; j < 64; ++j) io(codes, j, 32 + nibble(j, 8), 4);
}
void q1_0(BlockMap& io) {
  io(scale, 0, 0, 16);
  for (int j = 0; j < 128; ++j) io(codes, j, 16 + j, 1);
}
void stq1_0(BlockMap& io) {
  for (int j = 0; j < 64; ++j) io(codes, j, 4 * j, 4), io(codes, j, 256 + j, 1, 4);
  io(scale, 0, 320, 16);
}

constexpr std::array list{
    GgmlBlock{0, "f32", 1, plain32},        GgmlBlock{1, "f16", 1, plain16},
    GgmlBlock{2, "q4_0", 32, q4_0},         GgmlBlock{3, "q4_1", 32, q4_1},
    GgmlBlock{6, "q5_0", 32, q5_0},         GgmlBlock{7, "q5_1", 32, q5_1},
    GgmlBlock{8, "q8_0", 32, q8_0},         GgmlBlock{10, "q2_k", 256, q2_k},
    GgmlBlock{11, "q3_k", 256, q3_k},       GgmlBlock{12, "q4_k", 256, q4_k},
    GgmlBlock{13, "q5_k", 256, q5_k},       GgmlBlock{14, "q6_k", 256, q6_k},
    GgmlBlock{16, "iq2_xxs", 256, iq2_xxs}, GgmlBlock{17, "iq2_xs", 256, iq2_xs},
    GgmlBlock{18, "iq3_xxs", 256, iq3_xxs}, GgmlBlock{19, "iq1_s", 256, iq1_s},
    GgmlBlock{20, "iq4_nl", 32, q4_0},      GgmlBlock{21, "iq3_s", 256, iq3_s},
    GgmlBlock{22, "iq2_s", 256, iq2_s},     GgmlBlock{23, "iq4_xs", 256, iq4_xs},
    GgmlBlock{29, "iq1_m", 256, iq1_m},     GgmlBlock{30, "bf16", 1, plain16},
    GgmlBlock{34, "tq1_0", 256, tq1_0},     GgmlBlock{35, "tq2_0", 256, tq2_0},
    GgmlBlock{39, "mxfp4", 32, mxfp4},      GgmlBlock{40, "nvfp4", 64, nvfp4},
    GgmlBlock{41, "q1_0", 128, q1_0},       GgmlBlock{42, "stq1_0", 256, stq1_0},
};

}  // namespace

std::span<const GgmlBlock> ggml_blocks() {
  return list;
}

}  // namespace lowbit
