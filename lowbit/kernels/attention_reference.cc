// SPDX-License-Identifier: Apache-2.0
// The scalar reference of attention.h: one query at a time, never optimised.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "lowbit/base/half.h"
#include "lowbit/base/math.h"
#include "lowbit/formats/code.h"
#include "lowbit/formats/codes.h"
#include "lowbit/kernels/attention.h"
#include "lowbit/kernels/vector_ops.h"

namespace lowbit {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float largest_half = 65504, largest_query_code = 127, largest_weight = 255;

/// How the codes of a kind are chosen.
struct CodeRange {
  float divisor, lowest, highest;
  int k_bias, v_bias;  // code + bias is stored
};
CodeRange range_of(KvKind kind) {
  switch (kind) {
    case KvKind::int4_g64:
      return {7.5f, -8, 7, 8, 8};
    case KvKind::e4m3_token:
      return {448, -448, 448, 0, 0};
    default:
      return {127, -127, 127, 128, 0};
  }
}
bool is_integer(KvKind kind) {
  return kind == KvKind::int8_token || kind == KvKind::int4_g64;
}

/// A number of a block; memory is bytes, so every access copies.
template <class T>
T number_at(const std::byte* part, std::int64_t index) {
  T number;
  std::memcpy(&number, part + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return number;
}
template <class T>
void put_number(std::byte* part, std::int64_t index, T number) {
  std::memcpy(part + index * static_cast<std::int64_t>(sizeof(T)), &number, sizeof(T));
}

float absmax(const float* x, std::int64_t n) {
  float largest = 0;
  for (std::int64_t i = 0; i < n; ++i)
    largest = std::abs(x[i]) > largest ? std::abs(x[i]) : largest;
  return largest;
}

float reciprocal_of_scale(float scale) {
  return scale >= std::numeric_limits<float>::min() ? 1.0f / scale : 0.0f;
}

float clamped(float x, float reciprocal, float lowest, float highest) {
  float y = x * reciprocal;
  y = y > lowest ? y : lowest;
  return y < highest ? y : highest;
}

int nearest_integer(float y) {
  constexpr float magic = 0x1.8p+23f;  // adding it rounds to an integer, ties to even
  return static_cast<int>((y + magic) - magic);
}

const Code& e4m3() {
  static const Code& code = *codes::find("e4m3");
  return code;
}

/// Where a code lies in its part of a block: a whole byte or a nibble.
struct Place {
  std::int64_t byte;
  bool is_high = false;
};
constexpr std::int64_t quad = 4, nibbles = 2, half_step = 16;

Place k_place(const KvLayout& layout, std::int64_t i, int position) {
  if (!is_integer(layout.kind)) return {i * kv_block_positions + position};
  const std::int64_t per_row = layout.kind == KvKind::int4_g64 ? nibbles * quad : quad;
  return {(i / per_row * kv_block_positions + position) * quad + i % quad, i % per_row >= quad};
}

Place v_place(const KvLayout& layout, std::int64_t i, int position) {
  if (!is_integer(layout.kind)) return {position * layout.padded_dim() + i};
  const std::int64_t row = position / quad * layout.padded_dim();
  if (layout.kind == KvKind::int8_token) return {(row + i) * quad + position % quad};
  const std::int64_t column = i / (nibbles * half_step) * half_step + i % half_step;
  return {(row / nibbles + column) * quad + position % quad, i / half_step % nibbles == 1};
}

void put_code(const KvLayout& layout, std::byte* part, Place place, int stored) {
  auto byte = static_cast<std::uint8_t>(stored);
  if (layout.kind == KvKind::int4_g64) {
    const auto old = number_at<std::uint8_t>(part, place.byte);
    byte = static_cast<std::uint8_t>(place.is_high ? (old & 0x0f) | stored << 4
                                                   : (old & 0xf0) | stored);
  }
  put_number(part, place.byte, byte);
}

int code_at(const KvLayout& layout, const std::byte* part, Place place, int bias) {
  const int byte = number_at<std::uint8_t>(part, place.byte);
  if (layout.kind == KvKind::int4_g64) return (place.is_high ? byte >> 4 : byte & 0x0f) - bias;
  if (bias != 0) return byte - bias;
  return static_cast<std::int8_t>(byte);
}

/// Of numbers [64 g, ...) of the position's vector.
float scale_at(const std::byte* scales, std::int64_t group, int position) {
  return half_to_float(number_at<std::uint16_t>(scales, group * kv_block_positions + position));
}

/// One vector of a position. place_of: k_place or v_place.
template <class PlaceOf>
void store_vector(const KvLayout& layout, std::byte* part, std::byte* scales, int position,
                  const float* x, int bias, const PlaceOf& place_of) {
  const CodeRange range = range_of(layout.kind);
  float reciprocal = 0;
  for (std::int64_t i = 0; i < layout.head_dim; ++i) {
    const Place place = place_of(layout, i, position);
    if (layout.kind == KvKind::f32) {
      put_number(part, place.byte, x[i]);
      continue;
    }
    if (layout.kind == KvKind::f16) {
      put_number(part, place.byte, float_to_half(x[i]));
      continue;
    }
    if (i % layout.group_dim() == 0) {
      const std::int64_t n = std::min(layout.group_dim(), layout.head_dim - i);
      const float scale = absmax(x + i, n) / range.divisor;
      const std::uint16_t stored = float_to_half(scale < largest_half ? scale : largest_half);
      put_number(scales, i / layout.group_dim() * kv_block_positions + position, stored);
      reciprocal = reciprocal_of_scale(half_to_float(stored));
    }
    const float y = clamped(x[i], reciprocal, range.lowest, range.highest);
    const int code = layout.kind == KvKind::e4m3_token ? static_cast<int>(nearest_code(e4m3(), y))
                                                       : nearest_integer(y) + bias;
    put_code(layout, part, place, code);
  }
}

void kv_store(const KvLayout& layout, std::byte* block, int position, const float* k,
              const float* v) {
  const CodeRange range = range_of(layout.kind);
  store_vector(layout, block, block + layout.k_scales_offset(), position, k, range.k_bias, k_place);
  store_vector(layout, block + layout.v_offset(), block + layout.v_scales_offset(), position, v,
               range.v_bias, v_place);
}

/// Number of a part in f32, without its scale.
float decoded(const KvLayout& layout, const std::byte* part, Place place) {
  switch (layout.kind) {
    case KvKind::f32:
      return number_at<float>(part, place.byte);
    case KvKind::f16:
      return half_to_float(number_at<std::uint16_t>(part, place.byte));
    default:
      return e4m3().values[number_at<std::uint8_t>(part, place.byte)];
  }
}

struct Query {
  std::vector<float> scaled;
  std::vector<int> codes;  // int8 K
  float scale = 0;         // of the codes
};

Query prepare(const KvLayout& layout, const AttentionTask& task) {
  Query query;
  for (std::int64_t i = 0; i < layout.head_dim; ++i) query.scaled.push_back(task.q[i] * task.scale);
  query.scale = absmax(query.scaled.data(), layout.head_dim) / largest_query_code;
  const float reciprocal = reciprocal_of_scale(query.scale);
  for (const float t : query.scaled) {
    query.codes.push_back(
        nearest_integer(clamped(t, reciprocal, -largest_query_code, largest_query_code)));
  }
  return query;
}

float integer_score(const KvLayout& layout, const Query& query, const std::byte* block,
                    int position) {
  float s = 0;
  for (std::int64_t group = 0; group < layout.n_groups(); ++group) {
    const std::int64_t first = group * layout.group_dim();
    const std::int64_t last = std::min(first + layout.group_dim(), layout.head_dim);
    int dot = 0;
    for (std::int64_t i = first; i < last; ++i) {
      dot += query.codes[static_cast<std::size_t>(i)] *
             code_at(layout, block, k_place(layout, i, position), range_of(layout.kind).k_bias);
    }
    const float k_scale = scale_at(block + layout.k_scales_offset(), group, position);
    const float factor = query.scale * k_scale;
    s = group == 0 ? static_cast<float>(dot) * factor
                   : math::fma(static_cast<float>(dot), factor, s);
  }
  return s;
}

float score(const KvLayout& layout, const Query& query, const std::byte* block, int position) {
  if (is_integer(layout.kind)) return integer_score(layout, query, block, position);
  float s = 0;
  for (std::int64_t i = 0; i < layout.head_dim; ++i) {
    const float k = decoded(layout, block, k_place(layout, i, position));
    s = math::fma(query.scaled[static_cast<std::size_t>(i)], k, s);
  }
  if (layout.n_groups() == 0) return s;
  return s * scale_at(block + layout.k_scales_offset(), 0, position);
}

struct Partial {
  float m = -infinity, l = 0;
  std::vector<float> o;
};

using Weights = std::array<float, kv_block_positions>;

/// o' of the numbers [64 g, ...) by integers.
void integer_values(const KvLayout& layout, const std::byte* block, VisibleKeys keys,
                    std::int64_t group, const Weights& p, std::vector<float>& o) {
  const std::byte* v_part = block + layout.v_offset();
  Weights w{};
  float largest = 0;
  for (int j = keys.first; j < keys.last; ++j) {
    const auto at = static_cast<std::size_t>(j);
    w[at] = p[at] * scale_at(block + layout.v_scales_offset(), group, j);
    largest = w[at] > largest ? w[at] : largest;
  }
  const float unit = largest / largest_weight;
  const std::int64_t first = group * layout.group_dim();
  const std::int64_t last = std::min(first + layout.group_dim(), layout.head_dim);
  for (std::int64_t i = first; i < last; ++i) {
    int dot = 0;
    for (int j = keys.first; j < keys.last; ++j) {
      const float y =
          clamped(w[static_cast<std::size_t>(j)], reciprocal_of_scale(unit), 0, largest_weight);
      dot += nearest_integer(y) *
             code_at(layout, v_part, v_place(layout, i, j), range_of(layout.kind).v_bias);
    }
    o[static_cast<std::size_t>(i)] = static_cast<float>(dot) * unit;
  }
}

void chain_values(const KvLayout& layout, const std::byte* block, VisibleKeys keys,
                  const Weights& p, std::vector<float>& o) {
  const std::byte* v_part = block + layout.v_offset();
  for (int j = keys.first; j < keys.last; ++j) {
    float factor = p[static_cast<std::size_t>(j)];
    if (layout.n_groups() != 0) factor *= scale_at(block + layout.v_scales_offset(), 0, j);
    for (std::size_t i = 0; i < o.size(); ++i) {
      const Place place = v_place(layout, static_cast<std::int64_t>(i), j);
      o[i] = math::fma(factor, decoded(layout, v_part, place), o[i]);
    }
  }
}

Partial over_block(const KvLayout& layout, const Query& query, const std::byte* block,
                   VisibleKeys keys) {
  const auto n = static_cast<std::size_t>(layout.head_dim);
  Partial partial{-infinity, 0, std::vector<float>(n, 0.0f)};
  Weights s{}, p{};
  for (int j = keys.first; j < keys.last; ++j) {
    const auto at = static_cast<std::size_t>(j);
    s[at] = score(layout, query, block, j);
    partial.m = s[at] > partial.m ? s[at] : partial.m;
  }
  std::array<float, reduction_lanes> lanes{};
  for (int j = keys.first; j < keys.last; ++j) {
    const auto at = static_cast<std::size_t>(j);
    p[at] = math::exp(s[at] - partial.m);
    lanes[at % reduction_lanes] += p[at];
  }
  for (std::size_t width = reduction_lanes / 2; width > 0; width /= 2) {
    for (std::size_t j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  partial.l = lanes[0];
  if (!is_integer(layout.kind)) {
    chain_values(layout, block, keys, p, partial.o);
    return partial;
  }
  for (std::int64_t group = 0; group < layout.n_groups(); ++group) {
    integer_values(layout, block, keys, group, p, partial.o);
  }
  return partial;
}

void fold(Partial& all, const Partial& block) {
  const float m = all.m > block.m ? all.m : block.m;
  const float x = math::exp(all.m - m), y = math::exp(block.m - m);
  all.l = math::fma(all.l, x, block.l * y);
  for (std::size_t i = 0; i < all.o.size(); ++i) {
    all.o[i] = math::fma(all.o[i], x, block.o[i] * y);
  }
  all.m = m;
}

void write_out(const AttentionTask& task, const Partial& all) {
  const bool sees_any = task.n_visible > task.first_visible;
  for (std::size_t i = 0; i < all.o.size(); ++i) task.out[i] = sees_any ? all.o[i] / all.l : 0.0f;
}

std::int64_t n_blocks_of(const AttentionTask& task) {
  return (task.n_visible + kv_block_positions - 1) / kv_block_positions;
}

void attend(const KvLayout& layout, const AttentionTask* tasks, std::int64_t n_tasks, std::byte*) {
  for (const AttentionTask& task : std::span(tasks, static_cast<std::size_t>(n_tasks))) {
    const Query query = prepare(layout, task);
    Partial all{-infinity, 0, std::vector<float>(static_cast<std::size_t>(layout.head_dim), 0.0f)};
    for (std::int64_t b = 0; b < n_blocks_of(task); ++b) {
      const VisibleKeys keys = visible_keys(task, b);
      if (keys.first < keys.last) fold(all, over_block(layout, query, task.blocks[b], keys));
    }
    write_out(task, all);
  }
}

float* partial_at(const KvLayout& layout, const AttentionPartials& partials, std::int64_t i,
                  std::int64_t block) {
  const std::int64_t at = i * partials.n_blocks + block - partials.first_block;
  return partials.numbers + at * AttentionPartials::partial_floats(layout);
}

void attend_blocks(const KvLayout& layout, const AttentionTask* tasks, std::int64_t n_tasks,
                   std::int64_t first_block, std::int64_t last_block,
                   const AttentionPartials& partials, std::byte*) {
  for (std::int64_t i = 0; i < n_tasks; ++i) {
    const Query query = prepare(layout, tasks[i]);
    for (std::int64_t b = first_block; b < last_block; ++b) {
      const VisibleKeys keys = visible_keys(tasks[i], b);
      if (keys.first >= keys.last) continue;
      const Partial partial = over_block(layout, query, tasks[i].blocks[b], keys);
      float* to = partial_at(layout, partials, i, b);
      to[0] = partial.m;
      to[1] = partial.l;
      std::copy(partial.o.begin(), partial.o.end(), to + AttentionPartials::o_at);
    }
  }
}

void fold_partials(const KvLayout& layout, const AttentionTask& task, std::int64_t i,
                   const AttentionPartials& partials, std::byte*) {
  Partial all{-infinity, 0, std::vector<float>(static_cast<std::size_t>(layout.head_dim), 0.0f)};
  for (std::int64_t b = 0; b < n_blocks_of(task); ++b) {
    const VisibleKeys keys = visible_keys(task, b);
    if (keys.first >= keys.last) continue;
    const float* from = partial_at(layout, partials, i, b);
    const float* o = from + AttentionPartials::o_at;
    fold(all, {from[0], from[1], std::vector<float>(o, o + layout.head_dim)});
  }
  write_out(task, all);
}

}  // namespace

const AttentionKernels reference_attention_kernels{kv_store, attend, attend_blocks, fold_partials};

}  // namespace lowbit
