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
#include "lowbit/kernels/attention.h"
#include "lowbit/kernels/vector_ops.h"

namespace lowbit {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float largest_code = 127, largest_half = 65504;
constexpr int k_bias = 128;  // key codes are stored as unsigned bytes

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

int code_of(float x, float reciprocal) {
  float y = x * reciprocal;
  y = y > -largest_code ? y : -largest_code;
  y = y < largest_code ? y : largest_code;
  constexpr float magic = 0x1.8p+23f;  // adding it rounds to an integer, ties to even
  return static_cast<int>((y + magic) - magic);
}

/// Index of number i of key `position` in the K part.
std::int64_t k_index(const KvLayout& layout, std::int64_t i, int position) {
  constexpr std::int64_t quad = 4;
  if (layout.kind != KvKind::int8_token) return i * kv_block_positions + position;
  return (i / quad * kv_block_positions + position) * quad + i % quad;
}

void kv_store(const KvLayout& layout, std::byte* block, int position, const float* k,
              const float* v) {
  std::byte* v_part = block + layout.v_offset();
  const std::int64_t v_row = position * layout.padded_dim();
  float k_reciprocal = 0, v_reciprocal = 0;
  if (layout.kind == KvKind::int8_token) {
    const auto put_scale = [&](std::int64_t offset, const float* x) {
      const float scale = absmax(x, layout.head_dim) / largest_code;
      const std::uint16_t stored = float_to_half(scale < largest_half ? scale : largest_half);
      put_number(block + offset, position, stored);
      return reciprocal_of_scale(half_to_float(stored));
    };
    k_reciprocal = put_scale(layout.k_scales_offset(), k);
    v_reciprocal = put_scale(layout.v_scales_offset(), v);
  }
  for (std::int64_t i = 0; i < layout.head_dim; ++i) {
    const std::int64_t k_at = k_index(layout, i, position);
    switch (layout.kind) {
      case KvKind::f32:
        put_number(block, k_at, k[i]);
        put_number(v_part, v_row + i, v[i]);
        break;
      case KvKind::f16:
        put_number(block, k_at, float_to_half(k[i]));
        put_number(v_part, v_row + i, float_to_half(v[i]));
        break;
      case KvKind::int8_token:
        put_number(block, k_at, static_cast<std::uint8_t>(code_of(k[i], k_reciprocal) + k_bias));
        put_number(v_part, v_row + i, static_cast<std::int8_t>(code_of(v[i], v_reciprocal)));
        break;
    }
  }
}

/// Number `index` of a part in f32: for f32, f16 and the s8 codes of V.
float decoded(const KvLayout& layout, const std::byte* part, std::int64_t index) {
  switch (layout.kind) {
    case KvKind::f32:
      return number_at<float>(part, index);
    case KvKind::f16:
      return half_to_float(number_at<std::uint16_t>(part, index));
    case KvKind::int8_token:
      return number_at<std::int8_t>(part, index);
  }
  return 0;
}

struct Query {
  std::vector<float> scaled;
  std::vector<int> codes;  // int8 K
  float scale = 0;         // of the codes
};

Query prepare(const KvLayout& layout, const AttentionTask& task) {
  Query query;
  for (std::int64_t i = 0; i < layout.head_dim; ++i) query.scaled.push_back(task.q[i] * task.scale);
  query.scale = absmax(query.scaled.data(), layout.head_dim) / largest_code;
  const float reciprocal = reciprocal_of_scale(query.scale);
  for (const float t : query.scaled) query.codes.push_back(code_of(t, reciprocal));
  return query;
}

float score(const KvLayout& layout, const Query& query, const std::byte* block, int position) {
  if (layout.kind == KvKind::int8_token) {
    int dot = 0;
    for (std::int64_t i = 0; i < layout.head_dim; ++i) {
      const int code = number_at<std::uint8_t>(block, k_index(layout, i, position)) - k_bias;
      dot += query.codes[static_cast<std::size_t>(i)] * code;
    }
    const auto k_scale = number_at<std::uint16_t>(block + layout.k_scales_offset(), position);
    return static_cast<float>(dot) * (query.scale * half_to_float(k_scale));
  }
  float s = 0;
  for (std::int64_t i = 0; i < layout.head_dim; ++i) {
    const float k = decoded(layout, block, k_index(layout, i, position));
    s = math::fma(query.scaled[static_cast<std::size_t>(i)], k, s);
  }
  return s;
}

struct Partial {
  float m = -infinity, l = 0;
  std::vector<float> o;
};

Partial over_block(const KvLayout& layout, const Query& query, const std::byte* block,
                   VisibleKeys keys) {
  const auto n = static_cast<std::size_t>(layout.head_dim);
  Partial partial{-infinity, 0, std::vector<float>(n, 0.0f)};
  std::array<float, kv_block_positions> s{};
  for (int j = keys.first; j < keys.last; ++j) {
    const auto at = static_cast<std::size_t>(j);
    s[at] = score(layout, query, block, j);
    partial.m = s[at] > partial.m ? s[at] : partial.m;
  }
  std::array<float, reduction_lanes> lanes{};
  for (int j = keys.first; j < keys.last; ++j) {
    const auto at = static_cast<std::size_t>(j);
    const float p = math::exp(s[at] - partial.m);
    lanes[at % reduction_lanes] += p;
    float factor = p;
    if (layout.kind == KvKind::int8_token) {
      factor *= half_to_float(number_at<std::uint16_t>(block + layout.v_scales_offset(), j));
    }
    for (std::size_t i = 0; i < n; ++i) {
      const std::int64_t v_at = j * layout.padded_dim() + static_cast<std::int64_t>(i);
      const float v = decoded(layout, block + layout.v_offset(), v_at);
      partial.o[i] = math::fma(factor, v, partial.o[i]);
    }
  }
  for (std::size_t width = reduction_lanes / 2; width > 0; width /= 2) {
    for (std::size_t j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  partial.l = lanes[0];
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
