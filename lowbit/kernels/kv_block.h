// SPDX-License-Identifier: Apache-2.0
// How keys and values lie in memory. A block holds 64 positions of one layer and one KV head, the
// unit of attention (docs/design.md, idea C), laid out for the kernels: a key per lane, so that
// scores need no horizontal sums, and a value's numbers side by side.
//
//   f32, f16    K (head_dim, 64)              one number of all 64 keys side by side
//               V (64, padded_dim)            padded_dim = head_dim rounded up to 16
//   int8_token  K (padded_dim/4, 64, 4) u8    code + 128; four numbers of a key side by side
//               V (64, padded_dim) s8
//               f16 scales of the keys (64), then of the values (64)
//
// Blocks are 64-byte aligned and must be zero when they are allocated (0 x NaN is NaN). Padding is
// never read as a number that counts: in K its products are with zeros, in V it is not stored.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace lowbit {

/// int8_token: an absmax scale for each token's vector of one head.
enum class KvKind : std::uint8_t { f32, f16, int8_token };
inline constexpr std::array<std::string_view, 3> kv_kind_names{"f32", "f16", "int8.token"};
std::string_view name_of(KvKind kind);
std::optional<KvKind> kv_kind_named(std::string_view name);

inline constexpr int kv_block_positions = 64;

struct KvLayout {
  KvKind kind = KvKind::f16;
  std::int64_t head_dim = 0;

  std::int64_t padded_dim() const;
  // Bytes from the start of a block; multiples of 64.
  std::int64_t v_offset() const;
  std::int64_t k_scales_offset() const;  // int8_token only
  std::int64_t v_scales_offset() const;  // int8_token only
  std::int64_t block_bytes() const;
};

}  // namespace lowbit
