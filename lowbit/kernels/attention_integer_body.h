// SPDX-License-Identifier: Apache-2.0
// Scores and values of attention by products of integers (attention.h): int8 and int4 keys and
// values are multiplied as they are stored, four bytes of a lane at a time. Included by
// attention_body.h.

/// A block as the inner loops read it.
template <int bits>
struct IntegerBlock {
  const std::uint8_t *k, *v;
  const std::uint16_t *k_scales, *v_scales;  // (n_groups, 64) f16
  /// (padded_dim) wide_bias times the sum of a number's codes over the quads: what the products of
  /// weights lack where bytes are multiplied as byte - wide_bias.
  const std::int32_t* v_correction;
  int n_quads;  // of positions that any task sees
  std::int64_t n_groups;
};

template <int bits>
constexpr int k_row_dim = bits == 8 ? quad : 2 * quad;  // numbers of a key in one row of K

/// The codes of half `half` of a row: int4 stores two numbers in a byte.
template <int bits, int half>
LOWBIT_PRIMITIVE u8x64 codes_in(u8x64 row) {
  if constexpr (bits == 8) return row;
  constexpr unsigned char low_nibble = 0x0f;
  if constexpr (half == 1) row = shift_right16<4>(row);
  return bit_and(row, splat_u8(low_nibble));
}

/// Adds the products of one row's half with four codes of every query.
template <int bits, int half, int rows, int vectors>
LOWBIT_PRIMITIVE void score_products(const u8x64 (&k)[vectors], const std::int8_t* const (&q)[rows],
                                     std::int64_t i, i32x16 (&dot)[rows][vectors]) {
  u8x64 keys[vectors];
#pragma GCC unroll 8
  for (int c = 0; c < vectors; ++c) keys[c] = codes_in<bits, half>(k[c]);
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    const u8x64 t = broadcast4(q[r] + i + half * quad);
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) dot[r][c] = dot4<bits == 8>(dot[r][c], keys[c], t);
  }
}

template <int rows, int vectors, int bits>
LOWBIT_PRIMITIVE void block_scores(const IntegerBlock<bits>& block, const Dims& dims, int first_key,
                                   TaskState* const* tasks) {
  const std::int8_t* q[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) q[r] = reinterpret_cast<const std::int8_t*>(tasks[r]->q);
  const std::uint8_t* k = block.k + quad * first_key;
  for (std::int64_t group = 0; group < block.n_groups; ++group) {
    const std::int64_t end = bits == 8 ? dims.padded : (group + 1) * dims.group;
    const std::int64_t last = end < dims.padded ? end : dims.padded;
    i32x16 dot[rows][vectors];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) dot[r][c] = splat(tasks[r]->k_start[group]);
    }
    for (std::int64_t i = bits == 8 ? 0 : group * dims.group; i < last; i += k_row_dim<bits>) {
      u8x64 row[vectors];
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) row[c] = load(k + quad * n_lanes * c);
      k += quad * kv_block_positions;
      score_products<bits, 0>(row, q, i, dot);
      if constexpr (bits == 4) score_products<bits, 1>(row, q, i, dot);
    }
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) {
      const int key = first_key + n_lanes * c;
      const f32x16 k_scale = load_f16(block.k_scales + group * kv_block_positions + key);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const f32x16 factor = mul(splat(tasks[r]->q_scale), k_scale);
        const f32x16 d = to_f32(dot[r][c]);
        float* const s = tasks[r]->p + key;
        store(s, group == 0 ? mul(d, factor) : fma(d, factor, load(s)));
      }
    }
  }
}

/// From the weights p of a block to c and u of every group.
template <int bits>
LOWBIT_PRIMITIVE void finish_weights(const IntegerBlock<bits>& block, TaskState& task) {
  constexpr float largest_weight = 255;
  for (std::int64_t group = 0; group < block.n_groups; ++group) {
    const std::uint16_t* scales = block.v_scales + group * kv_block_positions;
    f32x16 w[key_vectors], largest = splat(0.0f);
#pragma GCC unroll 8
    for (int c = 0; c < key_vectors; ++c) {
      w[c] = mul(load(task.p + n_lanes * c), load_f16(scales + n_lanes * c));
      largest = max(w[c], largest);
    }
    const float unit = max_lane(largest) / largest_weight;
    const float reciprocal = reciprocal_of_scale(unit);
    i32x16 code_sum = splat(0);
#pragma GCC unroll 8
    for (int c = 0; c < key_vectors; ++c) {
      const i32x16 code = to_i32(clamped(w[c], reciprocal, 0, largest_weight));
      if constexpr (bits == 4) code_sum = add(code_sum, code);
      store_u8(task.weights + group * kv_block_positions + n_lanes * c, code);
    }
    task.unit[group] = unit;
    task.v_start[group] = bits == 4 ? -int4_bias * sum(code_sum) : 0;
  }
}

/// o' of `rows` tasks, `vectors` x 16 numbers from `at` on; they lie in one group.
template <int rows, int vectors, int bits>
LOWBIT_PRIMITIVE void values(const IntegerBlock<bits>& block, const Dims& dims, std::int64_t at,
                             Then then, TaskState* const* tasks) {
  constexpr int halves = 8 / bits;
  static_assert(vectors % halves == 0);
  const std::int64_t group = bits == 8 ? 0 : at / dims.group;
  i32x16 dot[rows][vectors];
  const std::int8_t* weights[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    weights[r] =
        reinterpret_cast<const std::int8_t*>(tasks[r]->weights + group * kv_block_positions);
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) {
      dot[r][c] = splat(tasks[r]->v_start[group]);
      if constexpr (wide_bias != 0) {
        dot[r][c] = add(dot[r][c], load(block.v_correction + at + n_lanes * c));
      }
    }
  }
  const std::uint8_t* v = block.v + at / halves * quad;
  for (int j = 0; j < block.n_quads; ++j, v += dims.padded / halves * quad) {
    u8x64 row[vectors];
#pragma GCC unroll 8
    for (int c = 0; c < vectors; c += halves) {
      const u8x64 stored = load(v + quad * n_lanes * (c / halves));
      row[c] = codes_in<bits, 0>(stored);
      if constexpr (halves == 2) row[c + 1] = codes_in<bits, 1>(stored);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const u8x64 w = broadcast4(weights[r] + j * quad);
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) dot[r][c] = dot4<true>(dot[r][c], w, row[c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    const f32x16 unit = splat(tasks[r]->unit[group]);
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) {
      put_values(mul(to_f32(dot[r][c]), unit), at + n_lanes * c, then, *tasks[r]);
    }
  }
}

template <int rows, int bits>
void block_values(const IntegerBlock<bits>& block, const Dims& dims, Then then,
                  TaskState* const* tasks) {
  constexpr int least = 8 / bits;
  constexpr int vectors = attention_vectors > least ? attention_vectors : least;
  std::int64_t at = 0;
  for (; at + vectors * n_lanes <= dims.padded; at += vectors * n_lanes) {
    values<rows, vectors>(block, dims, at, then, tasks);
  }
  for (; at < dims.padded; at += least * n_lanes) {
    values<rows, least>(block, dims, at, then, tasks);
  }
}

/// Writes v_correction of a block and returns it.
template <int bits>
const std::int32_t* correct_values(const IntegerBlock<bits>& block, const Dims& dims,
                                   std::int32_t* to) {
  constexpr int halves = 8 / bits;
  const u8x64 ones = splat_u8(1);
  for (std::int64_t at = 0; at < dims.padded; at += halves * n_lanes) {
    i32x16 low = splat(0), high = splat(0);
    const std::uint8_t* v = block.v + at / halves * quad;
    for (int j = 0; j < block.n_quads; ++j, v += dims.padded / halves * quad) {
      const u8x64 stored = load(v);
      low = dot4<false>(low, ones, codes_in<bits, 0>(stored));
      if constexpr (halves == 2) high = dot4<false>(high, ones, codes_in<bits, 1>(stored));
    }
    store(to + at, mul(low, splat(wide_bias)));
    if constexpr (halves == 2) store(to + at + n_lanes, mul(high, splat(wide_bias)));
  }
  return to;
}

template <int bits>
void prepare_integer_query(const Dims& dims, TaskState& state) {
  state.q_scale = absmax(state.q, dims.head) / largest_query_code;
  const float reciprocal = reciprocal_of_scale(state.q_scale);
  auto* codes = reinterpret_cast<std::int8_t*>(state.q);  // behind the numbers being read
  const std::int64_t group_dim = bits == 8 ? dims.padded : dims.group;
  for (std::int64_t group = 0; group * group_dim < dims.padded; ++group) {
    i32x16 code_sum = splat(0);
    const std::int64_t end = (group + 1) * group_dim;
    for (std::int64_t i = group * group_dim; i < end && i < dims.padded; i += n_lanes) {
      const i32x16 code =
          to_i32(clamped(load(state.q + i), reciprocal, -largest_query_code, largest_query_code));
      code_sum = add(code_sum, code);
      store_i8(codes + i, code);
    }
    state.k_start[group] = -(bits == 8 ? int8_bias - wide_bias : int4_bias) * sum(code_sum);
  }
}
