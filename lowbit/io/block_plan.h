// SPDX-License-Identifier: Apache-2.0
// How a block of container bytes becomes planes and back. A BlockMap is filled by one function per
// layout that names the bits of every number; BlockPlan turns those names, once, into runs of
// byte operations with constant strides, which then execute over all blocks. Both directions come
// from the same names, so load and store cannot disagree.
//
// A number of a plane lives in a cell of 1, 2 or 4 bytes while the runs work on it; the cells are
// packed to the plane's width afterwards (widths 8, 16 and 32 are cells already and need no
// packing).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "lowbit/formats/scheme.h"

namespace lowbit {

/// The planes of a tensor that a block may hold.
enum class Plane : std::uint8_t { codes, scale, zero, scale_scale, zero_scale };
inline constexpr std::size_t n_planes = 5;

class BlockMap {
 public:
  /// `width` bits of the block from `bit` on are bits [shift, shift + width) of number `index` of
  /// the plane, after an exclusive or with those bits of `flip`. Bits count from the least
  /// significant of byte 0.
  void operator()(Plane plane, int index, int bit, int width, int shift = 0,
                  std::uint32_t flip = 0);

  struct Part {
    int first_bit, n_bits, code;
  };
  /// Bit `bit` of code `code` is not stored: it makes the number of ones in the parts and itself
  /// even.
  void parity(int code, int bit, std::initializer_list<Part> parts);

  /// The byte at `bit` holds n_digits base-3 digits, the codes first, first + stride, ...; byte =
  /// ceil(digits * 256 / 243).
  void trits(int bit, int n_digits, int first, int stride);

 private:
  friend class BlockPlan;
  struct Field {
    Plane plane;
    int index, bit, width, shift;
    std::uint32_t flip;
  };
  struct Parity {
    int code, bit;
    std::vector<Part> parts;
  };
  struct Trits {
    int byte, n_digits, first, stride;
  };
  std::vector<Field> fields_;
  std::vector<Parity> parities_;
  std::vector<Trits> trits_;
};

class BlockPlan {
 public:
  BlockPlan(const Scheme& scheme, void (*layout)(BlockMap& io));

  int n_bytes() const { return n_bytes_; }
  /// Bytes of one block in a plane's rows; 0 for a plane that the block does not hold. A whole
  /// number for every layout (a plane's share of a block ends at a byte border).
  int plane_bytes(Plane plane) const { return planes_[static_cast<std::size_t>(plane)].n_bytes; }

  /// One pointer per plane, to the row of the plane or null.
  using Rows = std::array<std::byte*, n_planes>;
  using ConstRows = std::array<const std::byte*, n_planes>;

  /// n_blocks consecutive blocks of one row.
  void load(const std::byte* blocks, std::int64_t n_blocks, Rows rows) const;
  /// False when a number cannot be said in this layout; the bytes are then unspecified.
  bool store(ConstRows rows, std::int64_t n_blocks, std::byte* blocks) const;

 private:
  static constexpr int scratch_bytes = 4096;  // of the cells of a batch of blocks
  static constexpr int max_batch = 64;        // blocks that a run goes over at once

  /// cell[c0 + i * cs] |= ((block[b0 + i * bs] >> right & mask) << left) ^ flip, i < count; or,
  /// when it spreads, the 8 bits of block[b0 + i * bs] go one each to the 8 cells from c0 + i * cs
  /// on.
  struct Run {
    Plane plane;
    bool spreads;
    bool assigns;  // no earlier run touches these cells
    bool shared;   // an earlier run of store() has written these bits of the block
    std::uint8_t right, mask, left, flip;
    int first_cell, cell_stride, first_byte, byte_stride, count;
  };
  struct PlaneShape {
    int width = 0, cell_bytes = 0, n_numbers = 0, n_bytes = 0, scratch = 0;
    bool is_direct() const { return width == 8 * cell_bytes; }  // its cells are its bytes
  };

  const PlaneShape& shape(Plane plane) const { return planes_[static_cast<std::size_t>(plane)]; }
  void find_runs(const BlockMap& map);
  void join_bits(std::vector<Run>& pieces);
  void load_run(const Run& run, const std::uint8_t* blocks, int n_blocks,
                std::uint8_t* cells) const;
  void load_rest(const std::uint8_t* block, std::uint8_t* codes) const;
  bool store_block(const std::array<const std::uint8_t*, n_planes>& cells,
                   std::uint8_t* block) const;

  std::array<PlaneShape, n_planes> planes_;
  std::vector<Run> runs_;
  std::vector<BlockMap::Parity> parities_;
  std::vector<BlockMap::Trits> trits_;
  int n_bytes_ = 0, n_scratch_ = 0, batch_ = 1;
  bool has_idle_bytes_ = false;  // bytes of cells that no run writes: they must be zero
  bool is_copy_ = false;         // block and plane are the same bytes
};

}  // namespace lowbit
