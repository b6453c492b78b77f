// SPDX-License-Identifier: Apache-2.0
#include "lowbit/kernels/kv_block.h"

namespace lowbit {
namespace {

constexpr std::int64_t lanes = 16;  // of the widest register
constexpr std::int64_t int4_group = 64;

constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

constexpr std::int64_t number_bits(KvKind kind) {
  switch (kind) {
    case KvKind::f32:
      return 32;
    case KvKind::f16:
      return 16;
    case KvKind::int8_token:
    case KvKind::e4m3_token:
      return 8;
    case KvKind::int4_g64:
      return 4;
  }
  return 0;
}

/// Of n numbers of every key: a multiple of 64, like every multiple of 16 nibbles x 64 keys.
constexpr std::int64_t part_bytes(KvKind kind, std::int64_t n) {
  constexpr std::int64_t bits_per_byte = 8;
  return n * kv_block_positions * number_bits(kind) / bits_per_byte;
}

constexpr std::int64_t scales_bytes = kv_block_positions * sizeof(std::uint16_t);

}  // namespace

std::string_view name_of(KvKind kind) {
  return kv_kind_names[static_cast<std::size_t>(kind)];
}

std::optional<KvKind> kv_kind_named(std::string_view name) {
  for (std::size_t i = 0; i < kv_kind_names.size(); ++i) {
    if (kv_kind_names[i] == name) return static_cast<KvKind>(i);
  }
  return std::nullopt;
}

std::int64_t KvLayout::padded_dim() const {
  return round_up(head_dim, kind == KvKind::int4_g64 ? 2 * lanes : lanes);
}

std::int64_t KvLayout::n_groups() const {
  switch (kind) {
    case KvKind::f32:
    case KvKind::f16:
      return 0;
    case KvKind::int8_token:
    case KvKind::e4m3_token:
      return 1;
    case KvKind::int4_g64:
      return round_up(head_dim, int4_group) / int4_group;
  }
  return 0;
}

std::int64_t KvLayout::group_dim() const {
  return kind == KvKind::int4_g64 ? int4_group : head_dim;
}

std::int64_t KvLayout::v_offset() const {
  const bool has_quads = kind == KvKind::int8_token || kind == KvKind::int4_g64;
  return part_bytes(kind, has_quads ? padded_dim() : head_dim);
}

std::int64_t KvLayout::k_scales_offset() const {
  return v_offset() + part_bytes(kind, padded_dim());
}

std::int64_t KvLayout::v_scales_offset() const {
  return k_scales_offset() + n_groups() * scales_bytes;
}

std::int64_t KvLayout::block_bytes() const {
  return v_scales_offset() + n_groups() * scales_bytes;
}

}  // namespace lowbit
