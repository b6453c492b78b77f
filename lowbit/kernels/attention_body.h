// SPDX-License-Identifier: Apache-2.0
// Attention (attention.h) on the primitives. A block is turned into f32 once for a whole tile of
// tasks; then every group of attention_rows tasks goes over it twice: scores with a key per lane,
// values with a number of the head per lane, accumulators in registers both times. Tasks whose
// visible keys differ walk their common keys together and the rest alone, each in its own order.
// Included after vector_ops_body.h inside the anonymous namespace of an instruction set's file.

constexpr int key_vectors = kv_block_positions / n_lanes;
constexpr float largest_code = 127;
constexpr int key_bias = 128;  // key codes are stored as unsigned bytes

LOWBIT_PRIMITIVE float absmax(const float* x, std::int64_t n) {
  f32x16 lanes = splat(0.0f);
  for_vectors(
      n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        const i32x16 magnitude = bit_and(as_bits(load_some(x + i, count)), splat(0x7fffffff));
        lanes = max(as_floats(magnitude), lanes);
      });
  return max_lane(lanes);
}

LOWBIT_PRIMITIVE float reciprocal_of_scale(float scale) {
  constexpr float smallest_normal = 0x1p-126f;
  return scale >= smallest_normal ? 1.0f / scale : 0.0f;
}

LOWBIT_PRIMITIVE i32x16 codes_of(f32x16 x, float reciprocal) {
  const f32x16 y = max(mul(x, splat(reciprocal)), splat(-largest_code));
  return to_i32(min(y, splat(largest_code)));
}

LOWBIT_PRIMITIVE float store_scale(std::byte* scales, int position, float largest) {
  constexpr float largest_half = 65504;
  const float scale = largest / largest_code;
  const std::uint16_t stored = float_to_half(scale < largest_half ? scale : largest_half);
  reinterpret_cast<std::uint16_t*>(scales)[position] = stored;
  return half_to_float(stored);
}

void block_store(const KvLayout& layout, std::byte* block, int position, const float* k,
                 const float* v) {
  const std::int64_t n = layout.head_dim, v_row = position * layout.padded_dim();
  std::byte* v_part = block + layout.v_offset();
  if (layout.kind == KvKind::f32) {
    float* k_to = reinterpret_cast<float*>(block) + position;
    for (std::int64_t i = 0; i < n; ++i) k_to[i * kv_block_positions] = k[i];
    __builtin_memcpy(reinterpret_cast<float*>(v_part) + v_row, v,
                     static_cast<std::size_t>(n) * sizeof(float));
  } else if (layout.kind == KvKind::f16) {
    std::uint16_t* k_to = reinterpret_cast<std::uint16_t*>(block) + position;
    for_vectors(
        n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
          std::uint16_t halves[n_lanes];
          store_f16(halves, load_some(k + i, count));
          for (int j = 0; j < count; ++j) k_to[(i + j) * kv_block_positions] = halves[j];
        });
    row_to_half(v, n, reinterpret_cast<std::uint16_t*>(v_part) + v_row);
  } else {
    const float k_scale = store_scale(block + layout.k_scales_offset(), position, absmax(k, n));
    const float v_scale = store_scale(block + layout.v_scales_offset(), position, absmax(v, n));
    const float k_reciprocal = reciprocal_of_scale(k_scale);
    const float v_reciprocal = reciprocal_of_scale(v_scale);
    std::byte* k_to = block + position * 4;
    for_vectors(
        n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
          std::int8_t codes[n_lanes];
          store_i8(codes, codes_of(load_some(k + i, count), k_reciprocal));
          for (int j = 0; j < count; ++j) {  // i is a multiple of 16, so of 4
            k_to[(i + j) / 4 * (4 * kv_block_positions) + j % 4] =
                static_cast<std::byte>(codes[j] + key_bias);
          }
          store_i8(codes, codes_of(load_some(v + i, count), v_reciprocal));
          __builtin_memcpy(v_part + v_row + i, codes, static_cast<std::size_t>(count));
        });
  }
}

/// What a tile keeps of one task. Arrays live in the scratch.
struct TaskState {
  float* q;        // (padded_dim) scaled; int8 K: (padded_dim) s8 codes in the same place
  float* o;        // (padded_dim)
  float* block_o;  // (padded_dim)
  float* p;        // (64) scores, then the factors of the values
  float max, l;
  float block_max, block_l;
  float q_scale;
  int start;  // of the int32 dot: takes the bias of the key codes off
  VisibleKeys keys;
};

/// One block as the inner loops want it.
struct BlockView {
  const float* k;          // (head_dim, 64)
  const std::uint8_t* k8;  // int8 K: (padded_dim/4, 64, 4)
  const float* v;          // (64, padded_dim)
  const std::uint16_t *k_scales, *v_scales;
};

/// Scores of `rows` tasks, `vectors` x 16 keys from `first_key` on.
template <int rows, int vectors>
LOWBIT_PRIMITIVE void f32_scores(const BlockView& block, std::int64_t dim, int first_key,
                                 TaskState* const* tasks) {
  f32x16 s[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) s[r][c] = splat(0.0f);
  }
  const float* q[rows];
  for (int r = 0; r < rows; ++r) q[r] = tasks[r]->q;
  const float* k = block.k + first_key;
  for (std::int64_t i = 0; i < dim; ++i, k += kv_block_positions) {
    f32x16 keys[vectors];
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) keys[c] = load(k + n_lanes * c);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const f32x16 t = splat(q[r][i]);
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) s[r][c] = fma(t, keys[c], s[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) store(tasks[r]->p + first_key + n_lanes * c, s[r][c]);
  }
}

template <int rows, int vectors>
LOWBIT_PRIMITIVE void int8_scores(const BlockView& block, std::int64_t dim, int first_key,
                                  TaskState* const* tasks) {
  i32x16 dot[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) dot[r][c] = splat(tasks[r]->start);
  }
  const std::int8_t* q[rows];
  for (int r = 0; r < rows; ++r) q[r] = reinterpret_cast<const std::int8_t*>(tasks[r]->q);
  const std::uint8_t* k = block.k8 + 4 * first_key;
  for (std::int64_t i = 0; i < dim; i += 4, k += 4 * kv_block_positions) {
    u8x64 keys[vectors];
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) keys[c] = load(k + 4 * n_lanes * c);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const u8x64 t = broadcast4(q[r] + i);
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) dot[r][c] = dot4<true>(dot[r][c], keys[c], t);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < vectors; ++c) {
    const int key = first_key + n_lanes * c;
    const f32x16 k_scale = load_f16(block.k_scales + key);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const f32x16 scale = mul(splat(tasks[r]->q_scale), k_scale);
      store(tasks[r]->p + key, mul(to_f32(dot[r][c]), scale));
    }
  }
}

/// From scores to block_max, block_l and the factors of the values.
template <KvKind kind>
LOWBIT_PRIMITIVE void block_softmax(const BlockView& block, TaskState& task) {
  constexpr float lowest = -__builtin_inff();
  for (int j = 0; j < task.keys.first; ++j) task.p[j] = lowest;
  for (int j = task.keys.last; j < kv_block_positions; ++j) task.p[j] = lowest;
  f32x16 s[key_vectors], largest = splat(lowest);
#pragma GCC unroll 8
  for (int c = 0; c < key_vectors; ++c) {
    s[c] = load(task.p + n_lanes * c);
    largest = max(s[c], largest);
  }
  task.block_max = max_lane(largest);
  const f32x16 m = splat(task.block_max);
  f32x16 lanes = splat(0.0f);
#pragma GCC unroll 8
  for (int c = 0; c < key_vectors; ++c) {
    const f32x16 p = exp(sub(s[c], m));
    lanes = add(lanes, p);
    if constexpr (kind == KvKind::int8_token) {
      store(task.p + n_lanes * c, mul(p, load_f16(block.v_scales + n_lanes * c)));
    } else {
      store(task.p + n_lanes * c, p);
    }
  }
  task.block_l = sum(lanes);
}

/// block_o of `rows` tasks over the keys [first, last), `vectors` x 16 numbers from `at` on.
template <int rows, int vectors>
LOWBIT_PRIMITIVE void values(const BlockView& block, std::int64_t padded_dim, std::int64_t at,
                             int first, int last, TaskState* const* tasks) {
  f32x16 o[rows][vectors];
  const float* p[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    p[r] = tasks[r]->p;
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) o[r][c] = load(tasks[r]->block_o + at + n_lanes * c);
  }
  const float* v = block.v + first * padded_dim + at;
  for (int j = first; j < last; ++j, v += padded_dim) {
    f32x16 row[vectors];
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) row[c] = load(v + n_lanes * c);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const f32x16 weight = splat(p[r][j]);
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) o[r][c] = fma(weight, row[c], o[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) store(tasks[r]->block_o + at + n_lanes * c, o[r][c]);
  }
}

template <int rows>
LOWBIT_PRIMITIVE void all_values(const BlockView& block, std::int64_t padded_dim, int first,
                                 int last, TaskState* const* tasks) {
  if (first >= last) return;
  constexpr int slab = attention_vectors * n_lanes;
  std::int64_t at = 0;
  for (; at + slab <= padded_dim; at += slab) {
    values<rows, attention_vectors>(block, padded_dim, at, first, last, tasks);
  }
  for (; at < padded_dim; at += n_lanes) {
    values<rows, 1>(block, padded_dim, at, first, last, tasks);
  }
}

/// Adds a block to the running max, l and o of every task of a group.
template <int rows>
LOWBIT_PRIMITIVE void fold_block(std::int64_t padded_dim, TaskState* const* tasks) {
  static_assert(2 * rows <= n_lanes);
  float factors[n_lanes] = {};  // exp of these: of the old sums, then of the block's
  for (int r = 0; r < rows; ++r) {
    TaskState& task = *tasks[r];
    const float new_max = task.max > task.block_max ? task.max : task.block_max;
    factors[r] = task.max - new_max;
    factors[rows + r] = task.block_max - new_max;
    task.max = new_max;
  }
  store(factors, exp(load(factors)));
  for (int r = 0; r < rows; ++r) {
    TaskState& task = *tasks[r];
    const f32x16 x = splat(factors[r]), y = splat(factors[rows + r]);
    store_first(&task.l, fma(splat(task.l), x, mul(splat(task.block_l), y)), 1);
    for (std::int64_t i = 0; i < padded_dim; i += n_lanes) {
      store(task.o + i, fma(load(task.o + i), x, mul(load(task.block_o + i), y)));
    }
  }
}

/// One group of tasks over one block.
template <KvKind kind, int rows>
void group_over_block(const BlockView& block, const KvLayout& layout, std::int64_t padded_dim,
                      TaskState* const* tasks) {
  for (int key = 0; key < kv_block_positions; key += attention_vectors * n_lanes) {
    if constexpr (kind == KvKind::int8_token) {
      int8_scores<rows, attention_vectors>(block, layout.head_dim, key, tasks);
    } else {
      f32_scores<rows, attention_vectors>(block, layout.head_dim, key, tasks);
    }
  }
  int first = 0, last = kv_block_positions;  // the keys that all tasks see
  for (int r = 0; r < rows; ++r) {
    TaskState& task = *tasks[r];
    block_softmax<kind>(block, task);
    for (std::int64_t i = 0; i < padded_dim; i += n_lanes) store(task.block_o + i, splat(0.0f));
    if (task.keys.first > first) first = task.keys.first;
    if (task.keys.last < last) last = task.keys.last;
  }
  if (rows == 1 || first >= last) {
    for (int r = 0; r < rows; ++r) {
      all_values<1>(block, padded_dim, tasks[r]->keys.first, tasks[r]->keys.last, tasks + r);
    }
  } else {
    for (int r = 0; r < rows; ++r) {
      all_values<1>(block, padded_dim, tasks[r]->keys.first, first, tasks + r);
    }
    all_values<rows>(block, padded_dim, first, last, tasks);
    for (int r = 0; r < rows; ++r) {
      all_values<1>(block, padded_dim, last, tasks[r]->keys.last, tasks + r);
    }
  }
  fold_block<rows>(padded_dim, tasks);
}

/// The last, smaller group: picks the instantiation for its number of tasks.
template <KvKind kind, int rows>
void last_group_over_block(const BlockView& block, const KvLayout& layout, std::int64_t padded_dim,
                           int n_tasks, TaskState* const* tasks) {
  if constexpr (rows > 0) {
    if (n_tasks == rows) return group_over_block<kind, rows>(block, layout, padded_dim, tasks);
    last_group_over_block<kind, rows - 1>(block, layout, padded_dim, n_tasks, tasks);
  }
}

/// The block in f32: in place, or turned into the scratch arrays k and v.
template <KvKind kind>
LOWBIT_PRIMITIVE BlockView view_of(const KvLayout& layout, const std::byte* block,
                                   std::int64_t padded_dim, int n_keys, float* k, float* v) {
  const std::byte* v_part = block + layout.v_offset();
  if constexpr (kind == KvKind::f32) {
    return {reinterpret_cast<const float*>(block), nullptr, reinterpret_cast<const float*>(v_part),
            nullptr, nullptr};
  } else if constexpr (kind == KvKind::f16) {
    const auto* from = reinterpret_cast<const std::uint16_t*>(block);
    const std::int64_t n_k = layout.head_dim * kv_block_positions;
    for (std::int64_t i = 0; i < n_k; i += n_lanes) store(k + i, load_f16(from + i));
    from = reinterpret_cast<const std::uint16_t*>(v_part);
    const std::int64_t n_v = padded_dim * n_keys;
    for (std::int64_t i = 0; i < n_v; i += n_lanes) store(v + i, load_f16(from + i));
    return {k, nullptr, v, nullptr, nullptr};
  } else {
    const auto* from = reinterpret_cast<const std::int8_t*>(v_part);
    const std::int64_t n_v = padded_dim * n_keys;
    for (std::int64_t i = 0; i < n_v; i += n_lanes) store(v + i, to_f32(load_i8(from + i)));
    return {nullptr, reinterpret_cast<const std::uint8_t*>(block), v,
            reinterpret_cast<const std::uint16_t*>(block + layout.k_scales_offset()),
            reinterpret_cast<const std::uint16_t*>(block + layout.v_scales_offset())};
  }
}

template <KvKind kind>
void prepare_task(const AttentionTask& task, std::int64_t dim, std::int64_t padded_dim,
                  TaskState& state) {
  for (std::int64_t i = 0; i < padded_dim; i += n_lanes) {
    store(state.q + i, splat(0.0f));
    store(state.o + i, splat(0.0f));
  }
  row_scale(task.q, task.scale, dim, state.q);
  state.max = -__builtin_inff();
  state.l = 0;
  if constexpr (kind == KvKind::int8_token) {
    state.q_scale = absmax(state.q, dim) / largest_code;
    const float reciprocal = reciprocal_of_scale(state.q_scale);
    i32x16 code_sum = splat(0);
    auto* codes = reinterpret_cast<std::int8_t*>(state.q);  // behind the numbers being read
    for (std::int64_t i = 0; i < padded_dim; i += n_lanes) {
      const i32x16 code = codes_of(load(state.q + i), reciprocal);
      code_sum = add(code_sum, code);
      store_i8(codes + i, code);
    }
    state.start = -(key_bias - wide_bias) * sum(code_sum);
  }
}

template <KvKind kind>
void attend_kind(const KvLayout& layout, const AttentionTask* tasks, std::int64_t n_tasks,
                 std::byte* scratch) {
  const std::int64_t dim = layout.head_dim, padded_dim = layout.padded_dim();
  float* free_scratch = reinterpret_cast<float*>(scratch);
  const auto take = [&](std::int64_t n_floats) {
    float* taken = free_scratch;
    free_scratch += n_floats;
    return taken;
  };
  float* k = take(padded_dim * kv_block_positions);
  float* v = take(padded_dim * kv_block_positions);
  TaskState states[attention_tile_tasks];
  std::int64_t first_block = tasks[0].first_visible / kv_block_positions, n_visible = 0;
  for (std::int64_t t = 0; t < n_tasks; ++t) {
    TaskState& state = states[t];
    state.q = take(padded_dim);
    state.o = take(padded_dim);
    state.block_o = take(padded_dim);
    state.p = take(kv_block_positions);
    prepare_task<kind>(tasks[t], dim, padded_dim, state);
    const std::int64_t block = tasks[t].first_visible / kv_block_positions;
    if (block < first_block) first_block = block;
    if (tasks[t].n_visible > n_visible) n_visible = tasks[t].n_visible;
  }
  for (std::int64_t b = first_block; b * kv_block_positions < n_visible; ++b) {
    TaskState* active[attention_tile_tasks];
    int n_active = 0, n_keys = 0;
    for (std::int64_t t = 0; t < n_tasks; ++t) {
      states[t].keys = visible_keys(tasks[t], b);
      if (states[t].keys.first >= states[t].keys.last) continue;
      active[n_active++] = &states[t];
      if (states[t].keys.last > n_keys) n_keys = states[t].keys.last;
    }
    if (n_active == 0) continue;
    const BlockView block = view_of<kind>(layout, tasks[0].blocks[b], padded_dim, n_keys, k, v);
    int t = 0;
    for (; t + attention_rows <= n_active; t += attention_rows) {
      group_over_block<kind, attention_rows>(block, layout, padded_dim, active + t);
    }
    last_group_over_block<kind, attention_rows - 1>(block, layout, padded_dim, n_active - t,
                                                    active + t);
  }
  for (std::int64_t t = 0; t < n_tasks; ++t) {
    const bool sees_any = tasks[t].n_visible > tasks[t].first_visible;
    const f32x16 l = splat(sees_any ? states[t].l : 1.0f);
    for_vectors(
        dim, [&](std::int64_t i, int count) __attribute__((always_inline)) {
          store_some(tasks[t].out + i, div(load(states[t].o + i), l), count);
        });
  }
}

void attend(const KvLayout& layout, const AttentionTask* tasks, std::int64_t n_tasks,
            std::byte* scratch) {
  switch (layout.kind) {
    case KvKind::f32:
      return attend_kind<KvKind::f32>(layout, tasks, n_tasks, scratch);
    case KvKind::f16:
      return attend_kind<KvKind::f16>(layout, tasks, n_tasks, scratch);
    case KvKind::int8_token:
      return attend_kind<KvKind::int8_token>(layout, tasks, n_tasks, scratch);
  }
}

constexpr AttentionKernels attention_kernels{.kv_store = block_store, .attend = attend};
