// SPDX-License-Identifier: Apache-2.0
// Bytes are little-endian throughout, in files and in registers: lowbit runs on no other machines.
#include "lowbit/io/block_plan.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>

#include "lowbit/base/assert.h"
#include "lowbit/base/spread.h"

namespace lowbit {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr int lanes = 8;  // bytes of one 64-bit word
constexpr std::uint64_t in_every_byte = 0x0101010101010101;

std::uint64_t load_word(const std::uint8_t* bytes) {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}
void store_word(std::uint8_t* bytes, std::uint64_t word) {
  std::memcpy(bytes, &word, sizeof word);
}

/// Eight bytes of kWidth bits each -> 8 * kWidth bits, neighbours joined in three steps.
template <int kWidth>
std::uint64_t join(std::uint64_t x) {
  constexpr std::uint64_t bytes = 0x00ff00ff00ff00ff, halves = 0x0000ffff0000ffff;
  x = (x & bytes) | (x >> 8 & bytes) << kWidth;
  x = (x & halves) | (x >> 16 & halves) << 2 * kWidth;
  return (x & 0xffffffff) | x >> 32 << 4 * kWidth;
}

template <int kWidth>
void pack_narrow(const std::uint8_t* cells, int n_numbers, std::uint8_t* out) {
  for (int i = 0; i < n_numbers; i += lanes, out += kWidth) {
    const std::uint64_t joined = join<kWidth>(load_word(cells + i));
    std::memcpy(out, &joined, kWidth);
  }
}
template <int kWidth>
void unpack_narrow(const std::uint8_t* in, int n_numbers, std::uint8_t* cells) {
  for (int i = 0; i < n_numbers; i += lanes, in += kWidth) {
    std::uint64_t joined = 0;
    std::memcpy(&joined, in, kWidth);
    store_word(cells + i, spread<kWidth>(joined));
  }
}

/// The bits of a byte, one per byte of the word, and back.
std::uint64_t spread_bits(std::uint8_t bits) {
  constexpr std::uint64_t own_bit = 0x8040201008040201, carry = 0x7f * in_every_byte;
  return ((bits * in_every_byte & own_bit) + carry) >> 7 & in_every_byte;
}
std::uint8_t gather_bits(std::uint64_t bytes) {
  constexpr std::uint64_t to_top_byte = 0x0102040810204080;  // byte i moves to bit 56 + i
  return static_cast<std::uint8_t>(bytes * to_top_byte >> 56);
}

template <class Cell>
Cell get(const std::uint8_t* cells, int index) {
  Cell cell;
  std::memcpy(&cell, cells + static_cast<std::size_t>(index) * sizeof cell, sizeof cell);
  return cell;
}
template <class Cell>
void set(std::uint8_t* cells, int index, std::uint32_t number) {
  const auto cell = static_cast<Cell>(number);
  std::memcpy(cells + static_cast<std::size_t>(index) * sizeof cell, &cell, sizeof cell);
}
std::uint32_t get_cell(const std::uint8_t* cells, int cell_bytes, int index) {
  if (cell_bytes == 1) return get<std::uint8_t>(cells, index);
  return cell_bytes == 2 ? get<std::uint16_t>(cells, index) : get<std::uint32_t>(cells, index);
}
void set_cell(std::uint8_t* cells, int cell_bytes, int index, std::uint32_t number) {
  if (cell_bytes == 1) return set<std::uint8_t>(cells, index, number);
  if (cell_bytes == 2) return set<std::uint16_t>(cells, index, number);
  set<std::uint32_t>(cells, index, number);
}

/// Any width: a window of bits moves over the cells. For the grids of the iq types.
void pack_wide(const std::uint8_t* cells, int cell_bytes, int width, int n_numbers,
               std::uint8_t* out) {
  std::uint64_t window = 0;
  int n_bits = 0;
  for (int i = 0; i < n_numbers; ++i) {
    window |= static_cast<std::uint64_t>(get_cell(cells, cell_bytes, i)) << n_bits;
    for (n_bits += width; n_bits >= 8; n_bits -= 8, window >>= 8) {
      *out++ = static_cast<std::uint8_t>(window);
    }
  }
  LOWBIT_ASSERT(n_bits == 0);
}
void unpack_wide(const std::uint8_t* in, int cell_bytes, int width, int n_numbers,
                 std::uint8_t* cells) {
  std::uint64_t window = 0;
  int n_bits = 0;
  for (int i = 0; i < n_numbers; ++i) {
    for (; n_bits < width; n_bits += 8) window |= static_cast<std::uint64_t>(*in++) << n_bits;
    const auto mask = (std::uint64_t{1} << width) - 1;
    set_cell(cells, cell_bytes, i, static_cast<std::uint32_t>(window & mask));
    window >>= width, n_bits -= width;
  }
}

void pack(const std::uint8_t* cells, int cell_bytes, int width, int n_numbers, std::uint8_t* out) {
  if (cell_bytes != 1 || n_numbers % lanes != 0) {
    return pack_wide(cells, cell_bytes, width, n_numbers, out);
  }
  switch (width) {
    case 1:
      return pack_narrow<1>(cells, n_numbers, out);
    case 2:
      return pack_narrow<2>(cells, n_numbers, out);
    case 3:
      return pack_narrow<3>(cells, n_numbers, out);
    case 4:
      return pack_narrow<4>(cells, n_numbers, out);
    case 5:
      return pack_narrow<5>(cells, n_numbers, out);
    case 6:
      return pack_narrow<6>(cells, n_numbers, out);
    case 7:
      return pack_narrow<7>(cells, n_numbers, out);
    default:
      return pack_wide(cells, cell_bytes, width, n_numbers, out);
  }
}
void unpack(const std::uint8_t* in, int cell_bytes, int width, int n_numbers, std::uint8_t* cells) {
  if (cell_bytes != 1 || n_numbers % lanes != 0) {
    return unpack_wide(in, cell_bytes, width, n_numbers, cells);
  }
  switch (width) {
    case 1:
      return unpack_narrow<1>(in, n_numbers, cells);
    case 2:
      return unpack_narrow<2>(in, n_numbers, cells);
    case 3:
      return unpack_narrow<3>(in, n_numbers, cells);
    case 4:
      return unpack_narrow<4>(in, n_numbers, cells);
    case 5:
      return unpack_narrow<5>(in, n_numbers, cells);
    case 6:
      return unpack_narrow<6>(in, n_numbers, cells);
    case 7:
      return unpack_narrow<7>(in, n_numbers, cells);
    default:
      return unpack_wide(in, cell_bytes, width, n_numbers, cells);
  }
}

constexpr int trit_values = 3;
constexpr std::uint32_t five_trits = 243;  // 3^5 values stretched over the 256 of a byte

std::uint32_t parity_of(const std::vector<BlockMap::Part>& parts, const std::uint8_t* cells,
                        int cell_bytes) {
  int n_ones = 0;
  for (const BlockMap::Part& part : parts) {
    const std::uint32_t mask = (1u << part.n_bits) - 1;
    n_ones += std::popcount(get_cell(cells, cell_bytes, part.code) >> part.first_bit & mask);
  }
  return static_cast<std::uint32_t>(n_ones & 1);
}

const Scheme* scheme_of(const Scheme& scheme, Plane plane) {
  switch (plane) {
    case Plane::codes:
      return &scheme;
    case Plane::scale:
      return scheme.scale;
    case Plane::zero:
      return scheme.zero;
    case Plane::scale_scale:
      return scheme.scale != nullptr ? scheme.scale->scale : nullptr;
    case Plane::zero_scale:
      return scheme.zero != nullptr ? scheme.zero->scale : nullptr;
  }
  return nullptr;
}

}  // namespace

void BlockMap::operator()(Plane plane, int index, int bit, int width, int shift,
                          std::uint32_t flip) {
  fields_.push_back({plane, index, bit, width, shift, flip});
}

void BlockMap::parity(int code, int bit, std::initializer_list<Part> parts) {
  parities_.push_back({code, bit, parts});
}

void BlockMap::trits(int bit, int n_digits, int first, int stride) {
  trits_.push_back({bit / 8, n_digits, first, stride});
}

BlockPlan::BlockPlan(const Scheme& scheme, void (*layout)(BlockMap& io)) {
  BlockMap map;
  layout(map);
  const auto grow = [this](Plane plane, int index) {
    PlaneShape& grown = planes_[static_cast<std::size_t>(plane)];
    grown.n_numbers = std::max(grown.n_numbers, index + 1);
  };
  int n_bits = 0;
  for (const auto& field : map.fields_) {
    grow(field.plane, field.index);
    n_bits = std::max(n_bits, field.bit + field.width);
  }
  for (const auto& trits : map.trits_) {
    grow(Plane::codes, trits.first + (trits.n_digits - 1) * trits.stride);
    n_bits = std::max(n_bits, 8 * (trits.byte + 1));
  }
  n_bytes_ = (n_bits + 7) / 8;

  for (std::size_t p = 0; p < n_planes; ++p) {
    PlaneShape& plane = planes_[p];
    if (plane.n_numbers == 0) continue;
    plane.width = scheme_of(scheme, static_cast<Plane>(p))->code->step;
    plane.cell_bytes = plane.width <= 8 ? 1 : plane.width <= 16 ? 2 : 4;
    LOWBIT_ASSERT(plane.n_numbers * plane.width % 8 == 0);
    plane.n_bytes = plane.n_numbers * plane.width / 8;
    plane.scratch = n_scratch_;
    if (!plane.is_direct()) n_scratch_ += plane.n_numbers * plane.cell_bytes;
  }
  LOWBIT_ASSERT(n_scratch_ <= scratch_bytes);
  batch_ = std::clamp(scratch_bytes / std::max(n_scratch_, 1), 1, max_batch);
  find_runs(map);
  parities_ = std::move(map.parities_);
  trits_ = std::move(map.trits_);
  is_copy_ = parities_.empty() && trits_.empty() && runs_.size() == 1 && runs_[0].mask == 0xff &&
             runs_[0].flip == 0 && runs_[0].cell_stride == 1 && runs_[0].byte_stride == 1 &&
             shape(runs_[0].plane).is_direct();
}

void BlockPlan::find_runs(const BlockMap& map) {
  // 1. Cut the fields at the byte borders of the block and of the cells.
  std::vector<Run> pieces;
  std::vector<std::uint8_t> written(static_cast<std::size_t>(n_bytes_));
  for (const auto& field : map.fields_) {
    const int cell_bytes = shape(field.plane).cell_bytes;
    int width = 0;
    for (int done = 0; done < field.width; done += width) {
      const int bit = field.bit + done, to = field.shift + done;
      width = std::min({field.width - done, 8 - bit % 8, 8 - to % 8});
      const int mask = (1 << width) - 1;
      Run piece{};
      piece.plane = field.plane;
      piece.right = static_cast<std::uint8_t>(bit % 8);
      piece.mask = static_cast<std::uint8_t>(mask);
      piece.left = static_cast<std::uint8_t>(to % 8);
      piece.flip = static_cast<std::uint8_t>(field.flip >> to / 8 * 8 &
                                             (0xffu & static_cast<unsigned>(mask << to % 8)));
      piece.first_cell = field.index * cell_bytes + to / 8;
      piece.first_byte = bit / 8;
      piece.count = 1;
      std::uint8_t& seen = written[static_cast<std::size_t>(bit / 8)];
      piece.shared = (seen & mask << bit % 8) != 0;
      seen = static_cast<std::uint8_t>(seen | mask << bit % 8);
      pieces.push_back(piece);
    }
  }
  join_bits(pieces);
  // 2. Join pieces of one kind whose cells and bytes advance by constant strides. Shared bits are
  // checked after the bits they must equal have been written.
  const auto kind = [](const Run& r) {
    return std::tuple(r.shared, r.spreads, r.plane, r.left, r.right, r.mask, r.flip);
  };
  std::stable_sort(pieces.begin(), pieces.end(), [&](const Run& a, const Run& b) {
    return std::tuple(kind(a), a.first_cell) < std::tuple(kind(b), b.first_cell);
  });
  for (const Run& piece : pieces) {
    if (!runs_.empty() && kind(runs_.back()) == kind(piece)) {
      Run& run = runs_.back();
      const int last = run.count - 1;
      const int cell_step = piece.first_cell - (run.first_cell + last * run.cell_stride);
      const int byte_step = piece.first_byte - (run.first_byte + last * run.byte_stride);
      if (run.count == 1) run.cell_stride = cell_step, run.byte_stride = byte_step;
      if (cell_step == run.cell_stride && byte_step == run.byte_stride) {
        ++run.count;
        continue;
      }
    }
    runs_.push_back(piece);
  }
  // 3. The first run over a cell assigns, so that nothing needs clearing.
  std::array<std::vector<bool>, n_planes> touched;
  for (std::size_t p = 0; p < n_planes; ++p) {
    touched[p].resize(static_cast<std::size_t>(planes_[p].n_numbers * planes_[p].cell_bytes));
  }
  for (Run& run : runs_) {
    auto& cells = touched[static_cast<std::size_t>(run.plane)];
    run.assigns = true;
    const int n_cells = run.spreads ? lanes : 1;
    const auto cell_of = [&](int i) {
      return static_cast<std::size_t>(run.first_cell + i / n_cells * run.cell_stride + i % n_cells);
    };
    for (int i = 0; i < run.count * n_cells; ++i) run.assigns = run.assigns && !cells[cell_of(i)];
    if (!run.assigns) continue;
    for (int i = 0; i < run.count * n_cells; ++i) cells[cell_of(i)] = true;
  }
  for (const auto& cells : touched) {
    has_idle_bytes_ |= std::find(cells.begin(), cells.end(), false) != cells.end();
  }
}

/// Eight pieces of one bit each that go from one byte to eight neighbouring cells become one that
/// spreads (the top bits of q5_0, the numbers of q1_0).
void BlockPlan::join_bits(std::vector<Run>& pieces) {
  for (std::size_t i = 0; i + lanes <= pieces.size(); ++i) {
    Run& first = pieces[i];
    if (first.mask != 1 || first.right != 0 || first.shared) continue;
    if (shape(first.plane).cell_bytes != 1) continue;
    std::array<std::size_t, lanes> found{i};
    std::size_t n_found = 1;
    for (std::size_t k = i + 1; k < pieces.size() && n_found < lanes; ++k) {
      const Run& piece = pieces[k];
      const auto n = static_cast<int>(n_found);
      if (piece.plane == first.plane && piece.first_cell == first.first_cell + n &&
          piece.first_byte == first.first_byte && piece.right == n && piece.mask == 1 &&
          piece.left == first.left && piece.flip == first.flip && !piece.shared) {
        found[n_found++] = k;
      }
    }
    if (n_found != lanes) continue;
    first.spreads = true;
    for (std::size_t k = n_found - 1; k > 0; --k) {
      pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(found[k]));
    }
  }
}

/// One run over a batch of blocks: the blocks are the inner loop, so that its set-up costs little
/// however short the run is.
void BlockPlan::load_run(const Run& run, const std::uint8_t* blocks, int n_blocks,
                         std::uint8_t* cells) const {
  const PlaneShape& plane = shape(run.plane);
  const std::ptrdiff_t next_block = n_bytes_, next_cells = plane.n_numbers * plane.cell_bytes;
  const std::uint64_t mask = run.mask * in_every_byte, flip = run.flip * in_every_byte;
  const bool is_contiguous = run.cell_stride == 1 && run.byte_stride == 1;
  int i = 0;
  if (run.spreads) {
    for (; i < run.count; ++i) {
      const std::uint8_t* in = blocks + run.first_byte + i * run.byte_stride;
      std::uint8_t* out = cells + run.first_cell + i * run.cell_stride;
      for (int b = 0; b < n_blocks; ++b, in += next_block, out += next_cells) {
        const std::uint64_t bits = (spread_bits(*in) << run.left) ^ flip;
        store_word(out, run.assigns ? bits : load_word(out) | bits);
      }
    }
    return;
  }
  for (; is_contiguous && i + lanes <= run.count; i += lanes) {
    const std::uint8_t* in = blocks + run.first_byte + i;
    std::uint8_t* out = cells + run.first_cell + i;
    for (int b = 0; b < n_blocks; ++b, in += next_block, out += next_cells) {
      const std::uint64_t bits = ((load_word(in) >> run.right & mask) << run.left) ^ flip;
      store_word(out, run.assigns ? bits : load_word(out) | bits);
    }
  }
  for (; i < run.count; ++i) {
    const std::uint8_t* in = blocks + run.first_byte + i * run.byte_stride;
    std::uint8_t* out = cells + run.first_cell + i * run.cell_stride;
    for (int b = 0; b < n_blocks; ++b, in += next_block, out += next_cells) {
      const int bits = ((*in >> run.right & run.mask) << run.left) ^ run.flip;
      *out = static_cast<std::uint8_t>(run.assigns ? bits : *out | bits);
    }
  }
}

/// What runs cannot say: digits of a byte, bits that follow from others.
void BlockPlan::load_rest(const std::uint8_t* block, std::uint8_t* codes) const {
  const int cell_bytes = shape(Plane::codes).cell_bytes;
  for (const auto& trits : trits_) {
    std::uint32_t rest = block[trits.byte];
    for (int k = 0; k < trits.n_digits; ++k) {
      rest *= trit_values;
      set_cell(codes, cell_bytes, trits.first + k * trits.stride, rest >> 8);
      rest &= 0xff;
    }
  }
  for (const auto& parity : parities_) {
    const std::uint32_t number = get_cell(codes, cell_bytes, parity.code);
    const std::uint32_t bit = parity_of(parity.parts, codes, cell_bytes) << parity.bit;
    set_cell(codes, cell_bytes, parity.code, (number & ~(1u << parity.bit)) | bit);
  }
}

void BlockPlan::load(const std::byte* blocks, std::int64_t n_blocks, Rows rows) const {
  const auto* in = reinterpret_cast<const std::uint8_t*>(blocks);
  if (is_copy_) {
    const auto n_copied = static_cast<std::size_t>(n_blocks * n_bytes_);
    std::memcpy(rows[static_cast<std::size_t>(runs_[0].plane)], blocks, n_copied);
    return;
  }
  std::array<std::uint8_t, scratch_bytes> scratch;
  if (has_idle_bytes_) scratch.fill(0);
  std::array<std::uint8_t*, n_planes> out{}, cells{};
  for (std::size_t p = 0; p < n_planes; ++p) {
    out[p] = reinterpret_cast<std::uint8_t*>(rows[p]);
    cells[p] = scratch.data() + planes_[p].scratch * batch_;
  }
  for (std::int64_t done = 0; done < n_blocks; done += batch_) {
    const int n = static_cast<int>(std::min<std::int64_t>(batch_, n_blocks - done));
    for (std::size_t p = 0; p < n_planes; ++p) {
      if (planes_[p].is_direct()) cells[p] = out[p];
    }
    for (const Run& run : runs_) load_run(run, in, n, cells[static_cast<std::size_t>(run.plane)]);
    if (!trits_.empty() || !parities_.empty()) {
      const PlaneShape& codes = shape(Plane::codes);
      for (int b = 0; b < n; ++b) {
        load_rest(in + b * n_bytes_, cells[0] + b * codes.n_numbers * codes.cell_bytes);
      }
    }
    for (std::size_t p = 0; p < n_planes; ++p) {
      const PlaneShape& plane = planes_[p];
      if (plane.n_numbers == 0) continue;
      if (!plane.is_direct()) {
        pack(cells[p], plane.cell_bytes, plane.width, n * plane.n_numbers, out[p]);
      }
      out[p] += n * plane.n_bytes;
    }
    in += n * n_bytes_;
  }
}

bool BlockPlan::store_block(const std::array<const std::uint8_t*, n_planes>& cells,
                            std::uint8_t* block) const {
  bool fits = true;
  std::memset(block, 0, static_cast<std::size_t>(n_bytes_));
  for (const Run& run : runs_) {
    const std::uint8_t* in = cells[static_cast<std::size_t>(run.plane)] + run.first_cell;
    std::uint8_t* out = block + run.first_byte;
    const std::uint64_t mask = run.mask * in_every_byte, flip = run.flip * in_every_byte;
    if (run.spreads) {
      for (int i = 0; i < run.count; ++i, in += run.cell_stride, out += run.byte_stride) {
        *out = gather_bits((load_word(in) ^ flip) >> run.left & in_every_byte);
      }
      continue;
    }
    int i = 0;
    if (run.cell_stride == 1 && run.byte_stride == 1 && !run.shared) {
      for (; i + lanes <= run.count; i += lanes) {
        const std::uint64_t bits = ((load_word(in + i) ^ flip) >> run.left & mask) << run.right;
        store_word(out + i, load_word(out + i) | bits);
      }
    }
    for (; i < run.count; ++i) {
      const int bits = ((in[i * run.cell_stride] ^ run.flip) >> run.left & run.mask) << run.right;
      std::uint8_t& byte = out[i * run.byte_stride];
      if (run.shared) {
        fits = fits && (byte & run.mask << run.right) == bits;
      } else {
        byte = static_cast<std::uint8_t>(byte | bits);
      }
    }
  }
  const std::uint8_t* codes = cells[static_cast<std::size_t>(Plane::codes)];
  const int cell_bytes = shape(Plane::codes).cell_bytes;
  for (const auto& trits : trits_) {
    std::uint32_t number = 0;
    for (int k = 0; k < 5; ++k) {
      const std::uint32_t digit =
          k < trits.n_digits ? get_cell(codes, cell_bytes, trits.first + k * trits.stride) : 0;
      fits = fits && digit < trit_values;
      number = number * trit_values + digit;
    }
    block[trits.byte] = static_cast<std::uint8_t>((number * 256 + five_trits - 1) / five_trits);
  }
  for (const auto& parity : parities_) {
    const std::uint32_t bit = get_cell(codes, cell_bytes, parity.code) >> parity.bit & 1u;
    fits = fits && bit == parity_of(parity.parts, codes, cell_bytes);
  }
  return fits;
}

bool BlockPlan::store(ConstRows rows, std::int64_t n_blocks, std::byte* blocks) const {
  auto* out = reinterpret_cast<std::uint8_t*>(blocks);
  if (is_copy_) {
    const auto n_copied = static_cast<std::size_t>(n_blocks * n_bytes_);
    std::memcpy(blocks, rows[static_cast<std::size_t>(runs_[0].plane)], n_copied);
    return true;
  }
  std::array<std::uint8_t, scratch_bytes> scratch;
  std::array<const std::uint8_t*, n_planes> in{}, cells{};
  for (std::size_t p = 0; p < n_planes; ++p) {
    in[p] = reinterpret_cast<const std::uint8_t*>(rows[p]);
    cells[p] = planes_[p].is_direct() ? in[p] : scratch.data() + planes_[p].scratch;
  }
  bool fits = true;
  for (std::int64_t b = 0; b < n_blocks; ++b, out += n_bytes_) {
    for (std::size_t p = 0; p < n_planes; ++p) {
      const PlaneShape& plane = planes_[p];
      if (plane.n_numbers == 0 || plane.is_direct()) continue;
      unpack(in[p], plane.cell_bytes, plane.width, plane.n_numbers, scratch.data() + plane.scratch);
      in[p] += plane.n_bytes;
    }
    fits = store_block(cells, out) && fits;
    for (std::size_t p = 0; p < n_planes; ++p) {
      if (planes_[p].is_direct()) cells[p] += planes_[p].n_bytes;
    }
  }
  return fits;
}

}  // namespace lowbit
