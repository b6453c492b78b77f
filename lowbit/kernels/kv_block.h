// SPDX-License-Identifier: Apache-2.0
// How keys and values lie in memory. A block holds 64 positions of one layer and one KV head, the
// unit of attention (docs/design.md, idea C), laid out for the kernels: a key per lane, so that
// scores need no horizontal sums, and a value's numbers side by side; where products are of
// integers, four bytes that are multiplied together lie in one lane.
//
//   f32, f16, e4m3.token  K (head_dim, 64)              one number of all 64 keys side by side
//                         V (64, padded_dim)
//   int8.token            K (padded_dim/4, 64, 4) u8    code + 128; four numbers of a key in a lane
//                         V (64/4, padded_dim, 4) s8    four keys' codes of a number in a lane
//   int4.g64              K (padded_dim/8, 64, 4) u8    code + 8 in a nibble: numbers 8r .. 8r+3 of
//                                                       a key in the low ones, the next four in
//                                                       the high ones
//                         V (64/4, padded_dim/32, 16, 4) u8  code + 8 of four keys in a lane:
//                                                       number 32h + n in the low nibbles,
//                                                       32h + 16 + n in the high ones: a byte
//                                                       belongs to one position, because
//                                                       positions are stored by several
//                                                       threads at once
//
// Then the f16 scales of the keys (n_groups, 64) and those of the values. padded_dim is head_dim
// rounded up to whole vectors: 16 numbers, with int4.g64 32.
//
// Blocks are 64-byte aligned and must be zero when they are allocated (0 x NaN is NaN). Padding is
// never read as a number that counts: in K its products are with zeros, results of V's are dropped.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace lowbit {

/// .token: one absmax scale for each token's vector of one head; .g64: one for every 64 numbers of
/// it, fewer in a last short group.
enum class KvKind : std::uint8_t { f32, f16, int8_token, int4_g64, e4m3_token };
inline constexpr std::array all_kv_kinds{KvKind::f32, KvKind::f16, KvKind::int8_token,
                                         KvKind::int4_g64, KvKind::e4m3_token};
inline constexpr std::array<std::string_view, all_kv_kinds.size()> kv_kind_names{
    "f32", "f16", "int8.token", "int4.g64", "e4m3.token"};
std::string_view name_of(KvKind kind);
std::optional<KvKind> kv_kind_named(std::string_view name);

inline constexpr int kv_block_positions = 64;

struct KvLayout {
  KvKind kind = KvKind::f16;
  std::int64_t head_dim = 0;

  std::int64_t padded_dim() const;
  /// Scales of one vector: 0 where numbers are stored as they are.
  std::int64_t n_groups() const;
  /// Numbers that share a scale; the last group may be shorter.
  std::int64_t group_dim() const;
  // Bytes from the start of a block; multiples of 64.
  std::int64_t v_offset() const;
  std::int64_t k_scales_offset() const;
  std::int64_t v_scales_offset() const;
  std::int64_t block_bytes() const;
};

}  // namespace lowbit
