// SPDX-License-Identifier: Apache-2.0
// AMX-INT8 without the hardware: amx_body.h on an emulation of the tile registers, which
// kernels_under_test() adds to what every test of products compares with the reference; and the
// emulation against a second model, written from the pseudo-code of the instruction's manual page.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cstring>
#include <random>
#include <string>

#include "lowbit/base/half.h"
#include "lowbit/base/math.h"
#include "lowbit/kernels/isa_tables.h"
#include "lowbit/kernels/kernels_under_test.h"
#include "lowbit/kernels/target_region.h"

#if defined(__x86_64__)
// g++ 12 takes the undefined lanes inside its own headers for uninitialized variables.
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#endif

namespace lowbit {
namespace {

/// Eight tiles and their configuration. What the hardware would refuse is a fault: the operation
/// does nothing and the test fails, unless it counts faults itself.
class EmulatedTileRegisters {
 public:
  static constexpr int n_tiles = 8, max_rows = 16, max_row_bytes = 64;
  using Tile = std::array<std::array<std::uint8_t, max_row_bytes>, max_rows>;

  bool counts_faults = false;
  int n_faults = 0;
  std::int64_t n_products = 0;

  /// config: the 64 bytes that LDTILECFG reads.
  void configure(const void* config) {
    struct {
      std::uint8_t palette, start_row, reserved[14];
      std::uint16_t row_bytes[16];
      std::uint8_t rows[16];
    } c;
    static_assert(sizeof c == 64);
    std::memcpy(&c, config, sizeof c);
    is_configured_ = false;
    if (c.palette != 1) return fault("palette");
    if (c.start_row != 0) return fault("start row");
    for (const std::uint8_t byte : c.reserved) {
      if (byte != 0) return fault("reserved byte");
    }
    for (int i = 0; i < 16; ++i) {
      const bool is_used = c.rows[i] != 0 || c.row_bytes[i] != 0;
      if (is_used && i >= n_tiles) return fault("a tile that is not there");
      if (c.rows[i] > max_rows || c.row_bytes[i] > max_row_bytes) return fault("tile too large");
      if (is_used && (c.rows[i] == 0 || c.row_bytes[i] == 0)) return fault("half a tile");
    }
    for (int i = 0; i < n_tiles; ++i) {
      rows_[i] = c.rows[i];
      row_bytes_[i] = c.row_bytes[i];
    }
    tiles_ = {};
    is_configured_ = true;
  }
  void release() {
    tiles_ = {};
    is_configured_ = false;
  }
  void zero(int tile) {
    if (is_usable(tile)) tiles_[tile] = {};
  }
  void load(int tile, const void* p, std::int64_t stride) {
    if (!is_usable(tile)) return;
    tiles_[tile] = {};
    for (int row = 0; row < rows_[tile]; ++row) {
      std::memcpy(tiles_[tile][row].data(), static_cast<const char*>(p) + row * stride,
                  row_bytes_[tile]);
    }
  }
  void store(int tile, void* p, std::int64_t stride) {
    if (!is_usable(tile)) return;
    for (int row = 0; row < rows_[tile]; ++row) {
      std::memcpy(static_cast<char*>(p) + row * stride, tiles_[tile][row].data(), row_bytes_[tile]);
    }
  }
  /// TDPBSUD: column by column, every sum in 64 bits and cut to 32 at the end.
  void dot_signed_unsigned(int sums, int a, int b) {
    if (!is_usable(sums) || !is_usable(a) || !is_usable(b)) return;
    if (sums == a || sums == b || a == b) return fault("a tile named twice");
    if (row_bytes_[sums] % 4 != 0 || row_bytes_[a] % 4 != 0) return fault("part of a dword");
    if (rows_[a] != rows_[sums]) return fault("rows of a");
    if (row_bytes_[b] != row_bytes_[sums]) return fault("columns of b");
    if (rows_[b] != row_bytes_[a] / 4) return fault("inner size");
    ++n_products;
    for (int column = 0; column < row_bytes_[sums] / 4; ++column) {
      for (int row = 0; row < rows_[sums]; ++row) {
        std::uint8_t* at = tiles_[sums][row].data() + 4 * column;
        std::uint32_t word;
        std::memcpy(&word, at, sizeof word);
        std::int64_t sum = std::bit_cast<std::int32_t>(word);
        for (int k = 0; k < row_bytes_[a]; ++k) {
          sum += static_cast<std::int8_t>(tiles_[a][row][k]) *
                 std::int64_t{tiles_[b][k / 4][4 * column + k % 4]};
        }
        word = static_cast<std::uint32_t>(sum);
        std::memcpy(at, &word, sizeof word);
      }
    }
  }
  const Tile& tile(int i) const { return tiles_[i]; }

 private:
  void fault(const char* what) {
    ++n_faults;
    if (!counts_faults) ADD_FAILURE() << "tile fault: " << what;
  }
  bool is_usable(int tile) {
    if (is_configured_ && rows_[tile] != 0) return true;
    fault("a tile that is not configured");
    return false;
  }

  bool is_configured_ = false;
  int rows_[n_tiles] = {}, row_bytes_[n_tiles] = {};
  std::array<Tile, n_tiles> tiles_{};
};

thread_local EmulatedTileRegisters registers;

/// The policy of amx_body.h on the emulation. Template: every instance has a TileConfig of its own.
template <class TileConfig>
struct EmulatedTiles {
  static void configure(const TileConfig& config) { registers.configure(&config); }
  static void release() { registers.release(); }
  template <int tile>
  static void zero() {
    registers.zero(tile);
  }
  template <int tile>
  static void load(const void* p, std::int64_t stride) {
    registers.load(tile, p, stride);
  }
  template <int tile>
  static void store(void* p, std::int64_t stride) {
    registers.store(tile, p, stride);
  }
  template <int sums, int a, int b>
  static void dot_signed_unsigned() {
    registers.dot_signed_unsigned(sums, a, b);
  }
};

namespace on_scalar {

#include "lowbit/kernels/primitives_scalar.h"

#include "lowbit/kernels/matmul_body.h"

#include "lowbit/kernels/amx_body.h"

const KernelTable* emulated_table() {
  static const KernelTable table = amx_table<EmulatedTiles<TileConfig>, scalar_table>();
  return &table;
}

}  // namespace on_scalar

#if defined(__x86_64__)
LOWBIT_TARGET_REGION_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
namespace on_avx512_vnni {

#include "lowbit/kernels/primitives_zmm.h"

#include "lowbit/kernels/dot_avx512_vnni.h"

#include "lowbit/kernels/matmul_body.h"

#include "lowbit/kernels/amx_body.h"

const KernelTable* emulated_table() {
  static const KernelTable table = amx_table<EmulatedTiles<TileConfig>, avx512_vnni_table>();
  return &table;
}

}  // namespace on_avx512_vnni
LOWBIT_TARGET_REGION_END
#endif

/// A tile as the manual sees it: dwords of bytes, rows beyond `rows` and bytes beyond `row_bytes`
/// zero.
struct ManualTile {
  int rows = 0, row_bytes = 0;
  std::uint32_t dword[16][16] = {};
};

std::uint32_t byte_of(std::uint32_t dword, int i) {
  return dword >> 8 * i & 0xff;
}
std::uint32_t sign_extend(std::uint32_t byte) {
  return byte < 0x80 ? byte : byte | 0xffffff00u;
}

/// The Operation section of TDPBSUD, statement by statement: rows, then dwords of the row, then
/// columns; DPBD extends bytes to 32 bits and adds modulo 2^32.
void manual_tdpbsud(ManualTile& c, const ManualTile& a, const ManualTile& b) {
  ManualTile result;
  result.rows = c.rows;
  result.row_bytes = c.row_bytes;
  for (int m = 0; m < c.rows; ++m) {
    std::uint32_t tmp[16];
    for (int n = 0; n < 16; ++n) tmp[n] = c.dword[m][n];
    for (int k = 0; k < a.row_bytes / 4; ++k) {
      for (int n = 0; n < c.row_bytes / 4; ++n) {
        const std::uint32_t x = a.dword[m][k], y = b.dword[k][n];
        const std::uint32_t p0 = sign_extend(byte_of(x, 0)) * byte_of(y, 0);
        const std::uint32_t p1 = sign_extend(byte_of(x, 1)) * byte_of(y, 1);
        const std::uint32_t p2 = sign_extend(byte_of(x, 2)) * byte_of(y, 2);
        const std::uint32_t p3 = sign_extend(byte_of(x, 3)) * byte_of(y, 3);
        tmp[n] = tmp[n] + p0 + p1 + p2 + p3;
      }
    }
    for (int n = 0; n < c.row_bytes / 4; ++n) result.dword[m][n] = tmp[n];  // write_row_and_zero
  }
  c = result;  // zero_upper_rows
}

struct Shape {
  int rows, columns, inner;  // of sums in rows x dwords; inner: dwords of a's rows
};

std::array<std::uint8_t, 64> config_of(const Shape& s) {
  std::array<std::uint8_t, 64> config{};
  config[0] = 1;
  const auto set = [&](int tile, int rows, int dwords) {
    config[static_cast<std::size_t>(16 + 2 * tile)] = static_cast<std::uint8_t>(4 * dwords);
    config[static_cast<std::size_t>(48 + tile)] = static_cast<std::uint8_t>(rows);
  };
  set(0, s.rows, s.columns);
  set(1, s.rows, s.inner);
  set(2, s.inner, s.columns);
  return config;
}

TEST(AmxEmulation, HasTheBitsOfTheManualsModel) {
  std::mt19937 random(1);
  EmulatedTileRegisters tiles;
  for (int round = 0; round < 500; ++round) {
    const auto size = [&] { return static_cast<int>(1 + random() % 16); };
    const Shape s{size(), size(), size()};
    tiles.configure(config_of(s).data());
    ManualTile c{s.rows, 4 * s.columns}, a{s.rows, 4 * s.inner}, b{s.inner, 4 * s.columns};
    // Every third round the bytes are the extremes and the sums are about to wrap.
    const bool is_extreme = round % 3 == 0;
    for (ManualTile* tile : {&c, &a, &b}) {
      for (int row = 0; row < tile->rows; ++row) {
        for (int i = 0; i < tile->row_bytes / 4; ++i) {
          std::uint32_t dword = static_cast<std::uint32_t>(random());
          if (is_extreme) {
            constexpr std::array extremes{0x80808080u, 0x7f7f7f7fu, 0xffffffffu, 0x7fffff80u};
            dword = extremes[random() % extremes.size()];
            if (tile == &c) dword = random() % 2 == 0 ? 0x7fffffffu : 0x80000000u;
          }
          tile->dword[row][i] = dword;
        }
      }
    }
    tiles.load(0, c.dword, sizeof c.dword[0]);
    tiles.load(1, a.dword, sizeof a.dword[0]);
    tiles.load(2, b.dword, sizeof b.dword[0]);
    tiles.dot_signed_unsigned(0, 1, 2);
    manual_tdpbsud(c, a, b);
    ASSERT_EQ(0, std::memcmp(tiles.tile(0).data(), c.dword, sizeof c.dword))
        << "round " << round << ": " << s.rows << " x " << s.columns << " x " << s.inner;
  }
  EXPECT_EQ(tiles.n_products, 500);
}

TEST(AmxEmulation, RefusesWhatTheHardwareRefuses) {
  EmulatedTileRegisters tiles;
  tiles.counts_faults = true;
  const auto faults_of = [&](const auto& body) {
    const int before = tiles.n_faults;
    body();
    return tiles.n_faults - before;
  };
  EXPECT_EQ(faults_of([&] { tiles.zero(0); }), 1) << "before a configuration";
  const auto good = config_of({16, 16, 16});
  EXPECT_EQ(faults_of([&] { tiles.configure(good.data()); }), 0);
  EXPECT_EQ(faults_of([&] { tiles.zero(3); }), 1) << "a tile without rows";
  EXPECT_EQ(faults_of([&] { tiles.dot_signed_unsigned(0, 1, 1); }), 1);
  const auto with = [&](std::size_t byte, std::uint8_t value) {
    auto config = good;
    config[byte] = value;
    return config;
  };
  for (const auto& bad :
       {with(0, 2), with(1, 1), with(5, 1), with(48, 17), with(16, 65), with(50, 0), with(58, 1)}) {
    EXPECT_EQ(faults_of([&] { tiles.configure(bad.data()); }), 1);
    EXPECT_EQ(faults_of([&] { tiles.zero(0); }), 1) << "after a refused configuration";
  }
  // Sizes that do not fit each other: rows of a, columns of b, inner size.
  for (const auto& bad : {with(49, 15), with(20, 60), with(18, 60)}) {
    tiles.configure(bad.data());
    EXPECT_EQ(faults_of([&] { tiles.dot_signed_unsigned(0, 1, 2); }), 1);
  }
}

TEST(AmxEmulation, ConfiguringZeroesTheTiles) {
  EmulatedTileRegisters tiles;
  const auto config = config_of({16, 16, 16});
  EmulatedTileRegisters::Tile full;
  for (auto& row : full) row.fill(7);
  tiles.configure(config.data());
  tiles.load(0, full.data(), sizeof full[0]);
  ASSERT_EQ(tiles.tile(0), full);
  tiles.configure(config.data());
  EXPECT_EQ(tiles.tile(0), EmulatedTileRegisters::Tile{});
}

}  // namespace

std::vector<const KernelTable*> kernels_under_test() {
  std::vector<const KernelTable*> tables(available_kernels().begin(), available_kernels().end());
  tables.push_back(on_scalar::emulated_table());
#if defined(__x86_64__)
  if (is_available(Isa::avx512_vnni)) tables.push_back(on_avx512_vnni::emulated_table());
#endif
  return tables;
}

}  // namespace lowbit
