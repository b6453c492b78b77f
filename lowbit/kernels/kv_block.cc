// SPDX-License-Identifier: Apache-2.0
#include "lowbit/kernels/kv_block.h"

namespace lowbit {
namespace {

constexpr std::int64_t block_alignment = 64;  // a cache line, a zmm register
constexpr std::int64_t row_multiple = 16;     // lanes of the widest register

constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

constexpr std::int64_t number_bytes(KvKind kind) {
  switch (kind) {
    case KvKind::f32:
      return sizeof(float);
    case KvKind::f16:
      return sizeof(std::uint16_t);
    case KvKind::int8_token:
      return sizeof(std::int8_t);
  }
  return 0;
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
  return round_up(head_dim, row_multiple);
}

std::int64_t KvLayout::v_offset() const {
  const std::int64_t k_dim = kind == KvKind::int8_token ? padded_dim() : head_dim;
  return round_up(k_dim * kv_block_positions * number_bytes(kind), block_alignment);
}

std::int64_t KvLayout::k_scales_offset() const {
  return v_offset() +
         round_up(padded_dim() * kv_block_positions * number_bytes(kind), block_alignment);
}

std::int64_t KvLayout::v_scales_offset() const {
  return k_scales_offset() + scales_bytes;
}

std::int64_t KvLayout::block_bytes() const {
  return kind == KvKind::int8_token ? v_scales_offset() + scales_bytes : k_scales_offset();
}

}  // namespace lowbit
