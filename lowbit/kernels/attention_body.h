// SPDX-License-Identifier: Apache-2.0
// Attention (attention.h) on the primitives. A block is turned into f32 once for a whole tile of
// tasks; then every group of attention_rows tasks goes over it twice: scores with a key per lane,
// values with a number of the head per lane, accumulators in registers both times. Tasks whose
// visible keys differ walk their common keys together and the rest alone, each in its own order.
// The running sums are updated from the registers that hold a block's values.
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
  float old_factor, block_factor;  // exp(M - M') and exp(m - M')
  float q_scale;
  int start;  // of the int32 dot: takes the bias of the key codes off
  VisibleKeys keys;
};

/// One block as the inner loops read it. Stored numbers become f32 in the loops when a single group
/// walks over them, else once for the whole tile.
template <class K, class V>
struct BlockView {
  const K* k;  // (head_dim, 64); u8 codes: (padded_dim/4, 64, 4)
  const V* v;  // (64, padded_dim)
  const std::uint16_t *k_scales, *v_scales;
};
LOWBIT_PRIMITIVE f32x16 load_numbers(const float* p) {
  return load(p);
}
LOWBIT_PRIMITIVE f32x16 load_numbers(const std::uint16_t* p) {
  return load_f16(p);
}
LOWBIT_PRIMITIVE f32x16 load_numbers(const std::int8_t* p) {
  return to_f32(load_i8(p));
}

/// Scores of `rows` tasks, `vectors` x 16 keys from `first_key` on.
template <int rows, int vectors, class K, class V>
LOWBIT_PRIMITIVE void block_scores(const BlockView<K, V>& block, std::int64_t dim, int first_key,
                                   TaskState* const* tasks) {
  f32x16 s[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) s[r][c] = splat(0.0f);
  }
  const float* q[rows];
  for (int r = 0; r < rows; ++r) q[r] = tasks[r]->q;
  const K* k = block.k + first_key;
  for (std::int64_t i = 0; i < dim; ++i, k += kv_block_positions) {
    f32x16 keys[vectors];
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) keys[c] = load_numbers(k + n_lanes * c);
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

template <int rows, int vectors, class V>
LOWBIT_PRIMITIVE void block_scores(const BlockView<std::uint8_t, V>& block, std::int64_t dim,
                                   int first_key, TaskState* const* tasks) {
  i32x16 dot[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) dot[r][c] = splat(tasks[r]->start);
  }
  const std::int8_t* q[rows];
  for (int r = 0; r < rows; ++r) q[r] = reinterpret_cast<const std::int8_t*>(tasks[r]->q);
  const std::uint8_t* k = block.k + 4 * first_key;
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
template <bool scaled_values>
LOWBIT_PRIMITIVE void block_softmax(const std::uint16_t* v_scales, TaskState& task) {
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
    if constexpr (scaled_values) {
      store(task.p + n_lanes * c, mul(p, load_f16(v_scales + n_lanes * c)));
    } else {
      store(task.p + n_lanes * c, p);
    }
  }
  task.block_l = sum(lanes);
}

/// Where a block's results go: into the running sums, or into block_o to be folded later.
enum class Then : std::uint8_t { fold, keep };

/// Updates the running max and l of a group and leaves the factors for o.
template <int rows>
LOWBIT_PRIMITIVE void fold_sums(TaskState* const* tasks) {
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
    task.old_factor = factors[r];
    task.block_factor = factors[rows + r];
    const f32x16 added = mul(splat(task.block_l), splat(task.block_factor));
    store_first(&task.l, fma(splat(task.l), splat(task.old_factor), added), 1);
  }
}

LOWBIT_PRIMITIVE void fold_values(TaskState& task, std::int64_t at, f32x16 block_o) {
  const f32x16 added = mul(block_o, splat(task.block_factor));
  store(task.o + at, fma(load(task.o + at), splat(task.old_factor), added));
}

/// o' of `rows` tasks over the keys [first, last), `vectors` x 16 numbers from `at` on. A call that
/// does not begin with a task's first key goes on from block_o, one that does not end with its last
/// key leaves the sum there.
template <Then then, int rows, int vectors, class V>
LOWBIT_PRIMITIVE void values(const V* v, std::int64_t padded_dim, std::int64_t at, int first,
                             int last, TaskState* const* tasks) {
  f32x16 o[rows][vectors];
  const float* p[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    p[r] = tasks[r]->p;
    const bool begins = tasks[r]->keys.first == first;
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) {
      o[r][c] = begins ? splat(0.0f) : load(tasks[r]->block_o + at + n_lanes * c);
    }
  }
  v += first * padded_dim + at;
  for (int j = first; j < last; ++j, v += padded_dim) {
    f32x16 row[vectors];
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) row[c] = load_numbers(v + n_lanes * c);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const f32x16 weight = splat(p[r][j]);
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) o[r][c] = fma(weight, row[c], o[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    const bool ends = tasks[r]->keys.last == last;
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) {
      if (then == Then::fold && ends) {
        fold_values(*tasks[r], at + n_lanes * c, o[r][c]);
      } else {
        store(tasks[r]->block_o + at + n_lanes * c, o[r][c]);
      }
    }
  }
}

template <Then then, int rows, class V>
void all_values(const V* v, std::int64_t padded_dim, int first, int last, TaskState* const* tasks) {
  if (first >= last) return;
  constexpr int slab = attention_vectors * n_lanes;
  std::int64_t at = 0;
  for (; at + slab <= padded_dim; at += slab) {
    values<then, rows, attention_vectors>(v, padded_dim, at, first, last, tasks);
  }
  for (; at < padded_dim; at += n_lanes) {
    values<then, rows, 1>(v, padded_dim, at, first, last, tasks);
  }
}

/// One group of tasks over one block.
template <Then then, int rows, class K, class V>
void group_over_block(const BlockView<K, V>& block, std::int64_t dim, std::int64_t padded_dim,
                      TaskState* const* tasks) {
  for (int key = 0; key < kv_block_positions; key += attention_vectors * n_lanes) {
    block_scores<rows, attention_vectors>(block, dim, key, tasks);
  }
  int first = 0, last = kv_block_positions;  // the keys that all tasks see
  for (int r = 0; r < rows; ++r) {
    TaskState& task = *tasks[r];
    constexpr bool scaled_values = sizeof(K) == sizeof(std::uint8_t);
    block_softmax<scaled_values>(block.v_scales, task);
    if (task.keys.first > first) first = task.keys.first;
    if (task.keys.last < last) last = task.keys.last;
  }
  if constexpr (then == Then::fold) fold_sums<rows>(tasks);
  if (rows == 1 || first >= last) {
    for (int r = 0; r < rows; ++r) {
      const VisibleKeys keys = tasks[r]->keys;
      all_values<then, 1>(block.v, padded_dim, keys.first, keys.last, tasks + r);
    }
    return;
  }
  for (int r = 0; r < rows; ++r) {
    all_values<then, 1>(block.v, padded_dim, tasks[r]->keys.first, first, tasks + r);
  }
  all_values<then, rows>(block.v, padded_dim, first, last, tasks);
  for (int r = 0; r < rows; ++r) {
    all_values<then, 1>(block.v, padded_dim, last, tasks[r]->keys.last, tasks + r);
  }
}

/// The first n_tasks <= rows tasks: picks the instantiation for their number.
template <Then then, int rows, class View>
void some_over_block(const View& block, std::int64_t dim, std::int64_t padded_dim, int n_tasks,
                     TaskState* const* tasks) {
  if constexpr (rows > 0) {
    if (n_tasks < rows) {
      return some_over_block<then, rows - 1>(block, dim, padded_dim, n_tasks, tasks);
    }
    group_over_block<then, rows>(block, dim, padded_dim, tasks);
  }
}

template <Then then, class View>
void tasks_over_block(const View& block, std::int64_t dim, std::int64_t padded_dim, int n_tasks,
                      TaskState* const* tasks) {
  for (; n_tasks > 0; n_tasks -= attention_rows, tasks += attention_rows) {
    some_over_block<then, attention_rows>(block, dim, padded_dim, n_tasks, tasks);
  }
}

/// n is a multiple of 16.
template <class Stored>
LOWBIT_PRIMITIVE const float* to_floats(const Stored* from, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; i += n_lanes) store(to + i, load_numbers(from + i));
  return to;
}

/// All tasks of a tile over one block, of which they see the first n_keys at most. k and v: room
/// for a block in f32.
template <KvKind kind, Then then>
LOWBIT_PRIMITIVE void over_block(const KvLayout& layout, const std::byte* block,
                                 std::int64_t padded_dim, int n_keys, int n_tasks,
                                 TaskState* const* tasks, float* k, float* v) {
  const std::int64_t dim = layout.head_dim;
  const std::byte* v_part = block + layout.v_offset();
  if constexpr (kind == KvKind::f32) {
    const BlockView<float, float> view{reinterpret_cast<const float*>(block),
                                       reinterpret_cast<const float*>(v_part), nullptr, nullptr};
    tasks_over_block<then>(view, dim, padded_dim, n_tasks, tasks);
  } else if constexpr (kind == KvKind::f16) {
    const BlockView<std::uint16_t, std::uint16_t> view{
        reinterpret_cast<const std::uint16_t*>(block),
        reinterpret_cast<const std::uint16_t*>(v_part), nullptr, nullptr};
    if (n_tasks <= attention_rows) {
      return tasks_over_block<then>(view, dim, padded_dim, n_tasks, tasks);
    }
    const BlockView<float, float> floats{to_floats(view.k, dim * kv_block_positions, k),
                                         to_floats(view.v, padded_dim * n_keys, v), nullptr,
                                         nullptr};
    tasks_over_block<then>(floats, dim, padded_dim, n_tasks, tasks);
  } else {
    const BlockView<std::uint8_t, std::int8_t> view{
        reinterpret_cast<const std::uint8_t*>(block), reinterpret_cast<const std::int8_t*>(v_part),
        reinterpret_cast<const std::uint16_t*>(block + layout.k_scales_offset()),
        reinterpret_cast<const std::uint16_t*>(block + layout.v_scales_offset())};
    if (n_tasks <= attention_rows) {
      return tasks_over_block<then>(view, dim, padded_dim, n_tasks, tasks);
    }
    const BlockView<std::uint8_t, float> floats{view.k, to_floats(view.v, padded_dim * n_keys, v),
                                                view.k_scales, view.v_scales};
    tasks_over_block<then>(floats, dim, padded_dim, n_tasks, tasks);
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

/// The scratch of a tile: a block in f32, then the arrays of every task.
struct TileScratch {
  float *k, *v, *tasks;
  TileScratch(std::byte* scratch, std::int64_t padded_dim)
      : k(reinterpret_cast<float*>(scratch)),
        v(k + padded_dim * kv_block_positions),
        tasks(v + padded_dim * kv_block_positions) {}

  void give(std::int64_t i, std::int64_t padded_dim, TaskState& state) const {
    state.q = tasks + i * (3 * padded_dim + kv_block_positions);
    state.o = state.q + padded_dim;
    state.block_o = state.o + padded_dim;
    state.p = state.block_o + padded_dim;
  }
};

LOWBIT_PRIMITIVE void write_out(const AttentionTask& task, std::int64_t dim,
                                const TaskState& state) {
  const bool sees_any = task.n_visible > task.first_visible;
  const f32x16 l = splat(sees_any ? state.l : 1.0f);
  for_vectors(
      dim, [&](std::int64_t i, int count) __attribute__((always_inline)) {
        store_some(task.out + i, div(load(state.o + i), l), count);
      });
}

LOWBIT_PRIMITIVE float* partial_at(const AttentionPartials& partials, std::int64_t padded_dim,
                                   std::int64_t i, std::int64_t block) {
  const std::int64_t at = i * partials.n_blocks + block - partials.first_block;
  return partials.numbers + at * (AttentionPartials::o_at + padded_dim);
}

/// The blocks [first_block, last_block) for a tile. partials: only read when results are kept.
template <KvKind kind, Then then>
void over_blocks(const KvLayout& layout, const AttentionTask* tasks, std::int64_t n_tasks,
                 std::int64_t first_block, std::int64_t last_block,
                 const AttentionPartials& partials, std::byte* scratch) {
  const std::int64_t dim = layout.head_dim, padded_dim = layout.padded_dim();
  const TileScratch memory(scratch, padded_dim);
  TaskState states[attention_tile_tasks];
  for (std::int64_t i = 0; i < n_tasks; ++i) {
    memory.give(i, padded_dim, states[i]);
    prepare_task<kind>(tasks[i], dim, padded_dim, states[i]);
  }
  for (std::int64_t b = first_block; b < last_block; ++b) {
    TaskState* active[attention_tile_tasks];
    int n_active = 0, n_keys = 0;
    for (std::int64_t i = 0; i < n_tasks; ++i) {
      TaskState& state = states[i];
      state.keys = visible_keys(tasks[i], b);
      if (state.keys.first >= state.keys.last) continue;
      active[n_active++] = &state;
      if (state.keys.last > n_keys) n_keys = state.keys.last;
      if constexpr (then == Then::keep) {
        state.block_o = partial_at(partials, padded_dim, i, b) + AttentionPartials::o_at;
      }
    }
    if (n_active == 0) continue;
    over_block<kind, then>(layout, tasks[0].blocks[b], padded_dim, n_keys, n_active, active,
                           memory.k, memory.v);
    if constexpr (then == Then::keep) {
      for (int i = 0; i < n_active; ++i) {
        float* partial = active[i]->block_o - AttentionPartials::o_at;
        partial[0] = active[i]->block_max;
        partial[1] = active[i]->block_l;
      }
    }
  }
  if constexpr (then == Then::fold) {
    for (std::int64_t i = 0; i < n_tasks; ++i) write_out(tasks[i], dim, states[i]);
  }
}

template <Then then>
void over_blocks_of_kind(const KvLayout& layout, const AttentionTask* tasks, std::int64_t n_tasks,
                         std::int64_t first_block, std::int64_t last_block,
                         const AttentionPartials& partials, std::byte* scratch) {
  switch (layout.kind) {
    case KvKind::f32:
      return over_blocks<KvKind::f32, then>(layout, tasks, n_tasks, first_block, last_block,
                                            partials, scratch);
    case KvKind::f16:
      return over_blocks<KvKind::f16, then>(layout, tasks, n_tasks, first_block, last_block,
                                            partials, scratch);
    case KvKind::int8_token:
      return over_blocks<KvKind::int8_token, then>(layout, tasks, n_tasks, first_block, last_block,
                                                   partials, scratch);
  }
}

void attend(const KvLayout& layout, const AttentionTask* tasks, std::int64_t n_tasks,
            std::byte* scratch) {
  std::int64_t first_block = tasks[0].first_visible / kv_block_positions, n_visible = 0;
  for (std::int64_t i = 0; i < n_tasks; ++i) {
    const std::int64_t block = tasks[i].first_visible / kv_block_positions;
    if (block < first_block) first_block = block;
    if (tasks[i].n_visible > n_visible) n_visible = tasks[i].n_visible;
  }
  const std::int64_t last_block = (n_visible + kv_block_positions - 1) / kv_block_positions;
  over_blocks_of_kind<Then::fold>(layout, tasks, n_tasks, first_block, last_block, {}, scratch);
}

void attend_blocks(const KvLayout& layout, const AttentionTask* tasks, std::int64_t n_tasks,
                   std::int64_t first_block, std::int64_t last_block,
                   const AttentionPartials& partials, std::byte* scratch) {
  over_blocks_of_kind<Then::keep>(layout, tasks, n_tasks, first_block, last_block, partials,
                                  scratch);
}

void fold_partials(const KvLayout& layout, const AttentionTask& task, std::int64_t i,
                   const AttentionPartials& partials, std::byte* scratch) {
  const std::int64_t dim = layout.head_dim, padded_dim = layout.padded_dim();
  TaskState state;
  TileScratch(scratch, padded_dim).give(0, padded_dim, state);
  prepare_task<KvKind::f32>(task, dim, padded_dim, state);
  for (std::int64_t b = partials.first_block; b < partials.first_block + partials.n_blocks; ++b) {
    const VisibleKeys keys = visible_keys(task, b);
    if (keys.first >= keys.last) continue;
    const float* partial = partial_at(partials, padded_dim, i, b);
    state.block_max = partial[0];
    state.block_l = partial[1];
    TaskState* const states[]{&state};
    fold_sums<1>(states);
    for (std::int64_t j = 0; j < padded_dim; j += n_lanes) {
      fold_values(state, j, load(partial + AttentionPartials::o_at + j));
    }
  }
  write_out(task, dim, state);
}

constexpr AttentionKernels attention_kernels{.kv_store = block_store,
                                             .attend = attend,
                                             .attend_blocks = attend_blocks,
                                             .fold_partials = fold_partials};
