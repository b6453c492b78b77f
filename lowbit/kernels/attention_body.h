// SPDX-License-Identifier: Apache-2.0
// Attention (attention.h) on the primitives. Every group of attention_rows tasks goes over a block
// twice: scores with a key per lane, values with a number of the head per lane, accumulators in
// registers both times. f32, f16 and e4m3 are multiplied as f32, into which a block is turned once
// for a whole tile of tasks; there, tasks whose visible keys differ walk their common keys together
// and the rest alone, each in its own order. int8 and int4 are multiplied as integers
// (attention_integer_body.h), where the weight of a masked key is 0 and no order counts.
// Included after vector_ops_body.h inside the anonymous namespace of an instruction set's file.

#include "lowbit/kernels/kv_store_body.h"

constexpr int key_vectors = kv_block_positions / n_lanes;

struct Dims {
  std::int64_t head, padded, group;  // numbers: of a head, rounded up to vectors, with one scale
};

/// What a tile keeps of one task. Arrays live in the scratch.
struct TaskState {
  float* q;        // (padded_dim) scaled; integer K: (padded_dim) s8 codes in the same place
  float* o;        // (padded_dim)
  float* block_o;  // (padded_dim)
  float* p;        // (64) scores, then the factors of the values
  // Integer K and V, for every group:
  std::uint8_t* weights;  // (n_groups, 64) c of attention.h
  float* unit;            // u
  std::int32_t* k_start;  // of the dot products: takes the bias of the key codes off
  std::int32_t* v_start;  // the same for values
  float max, l;
  float block_max, block_l;
  float old_factor, block_factor;  // exp(M - M') and exp(m - M')
  float q_scale;
  VisibleKeys keys;
};

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

/// 16 numbers of o from those of a block's o'.
LOWBIT_PRIMITIVE void fold_values(f32x16 block_o, std::int64_t i, TaskState& task) {
  const f32x16 x = splat(task.old_factor), y = splat(task.block_factor);
  store(task.o + i, fma(load(task.o + i), x, mul(block_o, y)));
}

/// Where a block's o' goes: into the running sums, or into block_o to be folded later.
enum class Then : std::uint8_t { fold, keep };

LOWBIT_PRIMITIVE void put_values(f32x16 block_o, std::int64_t i, Then then, TaskState& task) {
  if (then == Then::fold) {
    fold_values(block_o, i, task);
  } else {
    store(task.block_o + i, block_o);
  }
}

#include "lowbit/kernels/attention_integer_body.h"

/// A block whose numbers are multiplied in f32. Stored ones become f32 in the loops when a single
/// group walks over them, else once for the whole tile.
template <class Number>
struct FloatBlock {
  const Number* k;                           // (head_dim, 64)
  const Number* v;                           // (64, padded_dim)
  const std::uint16_t *k_scales, *v_scales;  // (64) f16, or null
};
LOWBIT_PRIMITIVE f32x16 load_numbers(const float* p) {
  return load(p);
}
LOWBIT_PRIMITIVE f32x16 load_numbers(const std::uint16_t* p) {
  return load_f16(p);
}
LOWBIT_PRIMITIVE f32x16 load_numbers(const std::uint8_t* p) {
  return load_e4m3(p);
}

/// Scores of `rows` tasks, `vectors` x 16 keys from `first_key` on.
template <int rows, int vectors, class Number>
LOWBIT_PRIMITIVE void block_scores(const FloatBlock<Number>& block, const Dims& dims, int first_key,
                                   TaskState* const* tasks) {
  f32x16 s[rows][vectors];
  const float* q[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    q[r] = tasks[r]->q;
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) s[r][c] = splat(0.0f);
  }
  const Number* k = block.k + first_key;
  for (std::int64_t i = 0; i < dims.head; ++i, k += kv_block_positions) {
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
  for (int c = 0; c < vectors; ++c) {
    const int key = first_key + n_lanes * c;
    if (block.k_scales != nullptr) {
      const f32x16 k_scale = load_f16(block.k_scales + key);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) s[r][c] = mul(s[r][c], k_scale);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) store(tasks[r]->p + key, s[r][c]);
  }
}

template <class Number>
LOWBIT_PRIMITIVE void finish_weights(const FloatBlock<Number>& block, TaskState& task) {
  if (block.v_scales == nullptr) return;
#pragma GCC unroll 8
  for (int c = 0; c < key_vectors; ++c) {
    float* const p = task.p + n_lanes * c;
    store(p, mul(load(p), load_f16(block.v_scales + n_lanes * c)));
  }
}

LOWBIT_PRIMITIVE void hide_keys(TaskState& task) {
  constexpr float lowest = -__builtin_inff();
  for (int j = 0; j < task.keys.first; ++j) task.p[j] = lowest;
  for (int j = task.keys.last; j < kv_block_positions; ++j) task.p[j] = lowest;
}

/// From scores to block_max, block_l and the factors of the values. Each step is done for all tasks
/// before the next: a step waits for the one before it most of the time, tasks do not wait for each
/// other.
template <int rows, class Block>
LOWBIT_PRIMITIVE void block_softmax(const Block& block, TaskState* const* tasks) {
  for (int r = 0; r < rows; ++r) {
    TaskState& task = *tasks[r];
    if (task.keys.last - task.keys.first < kv_block_positions) hide_keys(task);
    f32x16 largest = splat(-__builtin_inff());  // passes over a NaN
#pragma GCC unroll 8
    for (int c = 0; c < key_vectors; ++c) largest = max(load(task.p + n_lanes * c), largest);
    task.block_max = max_lane(largest);
  }
  f32x16 lanes[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    TaskState& task = *tasks[r];
    const f32x16 m = splat(task.block_max);
    lanes[r] = splat(0.0f);
#pragma GCC unroll 8
    for (int c = 0; c < key_vectors; ++c) {
      float* const p = task.p + n_lanes * c;
      const f32x16 e = exp_of_low(sub(load(p), m));
      lanes[r] = add(lanes[r], e);
      store(p, e);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) tasks[r]->block_l = sum(lanes[r]);
  for (int r = 0; r < rows; ++r) finish_weights(block, *tasks[r]);
}

/// o' of `rows` tasks over the keys [first, last), `vectors` x 16 numbers from `at` on. A call that
/// does not begin with a task's first key goes on from block_o, one that does not end with its last
/// key leaves it there.
template <int rows, int vectors, class Number>
LOWBIT_PRIMITIVE void values(const Number* v, std::int64_t padded_dim, std::int64_t at, int first,
                             int last, Then then, TaskState* const* tasks) {
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
    const Then here = tasks[r]->keys.last == last ? then : Then::keep;
#pragma GCC unroll 8
    for (int c = 0; c < vectors; ++c) put_values(o[r][c], at + n_lanes * c, here, *tasks[r]);
  }
}

template <int rows, class Number>
void all_values(const Number* v, std::int64_t padded_dim, int first, int last, Then then,
                TaskState* const* tasks) {
  if (first >= last) return;
  constexpr int slab = attention_vectors * n_lanes;
  std::int64_t at = 0;
  for (; at + slab <= padded_dim; at += slab) {
    values<rows, attention_vectors>(v, padded_dim, at, first, last, then, tasks);
  }
  for (; at < padded_dim; at += n_lanes) {
    values<rows, 1>(v, padded_dim, at, first, last, then, tasks);
  }
}

template <int rows, class Number>
LOWBIT_PRIMITIVE void block_values(const FloatBlock<Number>& block, const Dims& dims, Then then,
                                   TaskState* const* tasks) {
  int first = 0, last = kv_block_positions;  // the keys that all tasks see
  for (int r = 0; r < rows; ++r) {
    if (tasks[r]->keys.first > first) first = tasks[r]->keys.first;
    if (tasks[r]->keys.last < last) last = tasks[r]->keys.last;
  }
  if (rows == 1 || first >= last) {
    for (int r = 0; r < rows; ++r) {
      const VisibleKeys keys = tasks[r]->keys;
      all_values<1>(block.v, dims.padded, keys.first, keys.last, then, tasks + r);
    }
    return;
  }
  for (int r = 0; r < rows; ++r) {
    all_values<1>(block.v, dims.padded, tasks[r]->keys.first, first, then, tasks + r);
  }
  all_values<rows>(block.v, dims.padded, first, last, then, tasks);
  for (int r = 0; r < rows; ++r) {
    all_values<1>(block.v, dims.padded, last, tasks[r]->keys.last, then, tasks + r);
  }
}

template <int rows, class Block>
void group_over_block(const Block& block, const Dims& dims, Then then, TaskState* const* tasks) {
  for (int key = 0; key < kv_block_positions; key += attention_vectors * n_lanes) {
    block_scores<rows, attention_vectors>(block, dims, key, tasks);
  }
  block_softmax<rows>(block, tasks);
  // The values need neither max nor l but the factors only at their end: no waiting for these.
  if (then == Then::fold) fold_sums<rows>(tasks);
  block_values<rows>(block, dims, then, tasks);
}

/// Groups of `rows` tasks, then smaller ones for the rest.
constexpr int most_small_rows = 3;
template <int rows, class Block>
void tasks_over_block(const Block& block, const Dims& dims, Then then, int n_tasks,
                      TaskState* const* tasks) {
  for (; n_tasks >= rows; n_tasks -= rows, tasks += rows) {
    group_over_block<rows>(block, dims, then, tasks);
  }
  constexpr int fewer = rows > most_small_rows ? most_small_rows : rows - 1;
  if constexpr (rows > 1) tasks_over_block<fewer>(block, dims, then, n_tasks, tasks);
}

/// n is a multiple of 16.
template <class Number>
LOWBIT_PRIMITIVE const float* to_floats(const Number* from, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; i += n_lanes) store(to + i, load_numbers(from + i));
  return to;
}

/// All tasks of a tile over one block, of which they see the first n_keys at most. k and v: room
/// for a block in f32.
template <class Number>
void over_float_block(const FloatBlock<Number>& block, const Dims& dims, Then then, int n_keys,
                      int n_tasks, TaskState* const* tasks, float* k, float* v) {
  constexpr int small = attention_rows < most_small_rows ? attention_rows : most_small_rows;
  if (n_tasks <= small) return tasks_over_block<small>(block, dims, then, n_tasks, tasks);
  const FloatBlock<float> floats{to_floats(block.k, dims.head * kv_block_positions, k),
                                 to_floats(block.v, dims.padded * n_keys, v), block.k_scales,
                                 block.v_scales};
  tasks_over_block<attention_rows>(floats, dims, then, n_tasks, tasks);
}

template <int bits>
void over_integer_block(IntegerBlock<bits> block, const Dims& dims, Then then, int n_tasks,
                        TaskState* const* tasks, float* correction) {
  if constexpr (wide_bias != 0) {
    block.v_correction = correct_values(block, dims, reinterpret_cast<std::int32_t*>(correction));
  }
  tasks_over_block<attention_rows>(block, dims, then, n_tasks, tasks);
}

/// The scratch of a tile: a block in f32, then the arrays of every task.
struct TileScratch {
  float *k, *v, *tasks;
  std::int64_t padded_dim, n_groups;
  TileScratch(const KvLayout& layout, std::byte* scratch)
      : k(reinterpret_cast<float*>(scratch)),
        v(k + layout.padded_dim() * kv_block_positions),
        tasks(v + layout.padded_dim() * kv_block_positions),
        padded_dim(layout.padded_dim()),
        n_groups(layout.n_groups()) {}

  void give(std::int64_t i, TaskState& state) const {
    state.q = tasks + i * attention_task_floats(padded_dim, n_groups);
    state.o = state.q + padded_dim;
    state.block_o = state.o + padded_dim;
    state.p = state.block_o + padded_dim;
    float* const groups = state.p + kv_block_positions;
    state.weights = reinterpret_cast<std::uint8_t*>(groups);
    state.unit = groups + n_groups * n_lanes;
    state.k_start = reinterpret_cast<std::int32_t*>(state.unit + n_groups);
    state.v_start = state.k_start + n_groups;
  }
};

void over_block(const KvLayout& layout, const std::byte* block, const Dims& dims, Then then,
                int n_keys, int n_tasks, TaskState* const* tasks, const TileScratch& memory) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(block);
  const auto* v_bytes = bytes + layout.v_offset();
  const auto* k_scales = reinterpret_cast<const std::uint16_t*>(bytes + layout.k_scales_offset());
  const auto* v_scales = reinterpret_cast<const std::uint16_t*>(bytes + layout.v_scales_offset());
  const int n_quads = (n_keys + quad - 1) / quad;
  switch (layout.kind) {
    case KvKind::f32: {
      const FloatBlock<float> floats{reinterpret_cast<const float*>(bytes),
                                     reinterpret_cast<const float*>(v_bytes), nullptr, nullptr};
      return tasks_over_block<attention_rows>(floats, dims, then, n_tasks, tasks);
    }
    case KvKind::f16:
      return over_float_block(
          FloatBlock<std::uint16_t>{reinterpret_cast<const std::uint16_t*>(bytes),
                                    reinterpret_cast<const std::uint16_t*>(v_bytes), nullptr,
                                    nullptr},
          dims, then, n_keys, n_tasks, tasks, memory.k, memory.v);
    case KvKind::e4m3_token:
      return over_float_block(FloatBlock<std::uint8_t>{bytes, v_bytes, k_scales, v_scales}, dims,
                              then, n_keys, n_tasks, tasks, memory.k, memory.v);
    case KvKind::int8_token:
      return over_integer_block(
          IntegerBlock<8>{bytes, v_bytes, k_scales, v_scales, nullptr, n_quads, 1}, dims, then,
          n_tasks, tasks, memory.k);
    case KvKind::int4_g64:
      return over_integer_block(
          IntegerBlock<4>{bytes, v_bytes, k_scales, v_scales, nullptr, n_quads, memory.n_groups},
          dims, then, n_tasks, tasks, memory.k);
  }
}

void reset_sums(std::int64_t padded_dim, TaskState& state) {
  for (std::int64_t i = 0; i < padded_dim; i += n_lanes) store(state.o + i, splat(0.0f));
  state.max = -__builtin_inff();
  state.l = 0;
}

void prepare_task(const KvLayout& layout, const AttentionTask& task, const Dims& dims,
                  TaskState& state) {
  for (std::int64_t i = 0; i < dims.padded; i += n_lanes) store(state.q + i, splat(0.0f));
  row_scale(task.q, task.scale, dims.head, state.q);
  if (layout.kind == KvKind::int8_token) prepare_integer_query<8>(dims, state);
  if (layout.kind == KvKind::int4_g64) prepare_integer_query<4>(dims, state);
}

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

/// The blocks [first_block, last_block) for a tile. partials: only touched when results are kept.
void over_blocks(const KvLayout& layout, const AttentionTask* tasks, std::int64_t n_tasks,
                 std::int64_t first_block, std::int64_t last_block, Then then,
                 const AttentionPartials& partials, std::byte* scratch) {
  const Dims dims{layout.head_dim, layout.padded_dim(), layout.group_dim()};
  const TileScratch memory(layout, scratch);
  TaskState states[attention_tile_tasks];
  for (std::int64_t i = 0; i < n_tasks; ++i) {
    memory.give(i, states[i]);
    prepare_task(layout, tasks[i], dims, states[i]);
    if (then == Then::fold) reset_sums(dims.padded, states[i]);
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
      if (then == Then::keep) {
        state.block_o = partial_at(partials, dims.padded, i, b) + AttentionPartials::o_at;
      }
    }
    if (n_active == 0) continue;
    over_block(layout, tasks[0].blocks[b], dims, then, n_keys, n_active, active, memory);
    if (then == Then::fold) continue;
    for (int i = 0; i < n_active; ++i) {
      float* partial = active[i]->block_o - AttentionPartials::o_at;
      partial[0] = active[i]->block_max;
      partial[1] = active[i]->block_l;
    }
  }
  if (then == Then::keep) return;
  for (std::int64_t i = 0; i < n_tasks; ++i) write_out(tasks[i], dims.head, states[i]);
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
  over_blocks(layout, tasks, n_tasks, first_block, last_block, Then::fold, {}, scratch);
}

void attend_blocks(const KvLayout& layout, const AttentionTask* tasks, std::int64_t n_tasks,
                   std::int64_t first_block, std::int64_t last_block,
                   const AttentionPartials& partials, std::byte* scratch) {
  over_blocks(layout, tasks, n_tasks, first_block, last_block, Then::keep, partials, scratch);
}

void fold_partials(const KvLayout& layout, const AttentionTask& task, std::int64_t i,
                   const AttentionPartials& partials, std::byte* scratch) {
  const std::int64_t padded_dim = layout.padded_dim();
  TaskState state;
  TileScratch(layout, scratch).give(0, state);
  reset_sums(padded_dim, state);
  for (std::int64_t b = partials.first_block; b < partials.first_block + partials.n_blocks; ++b) {
    const VisibleKeys keys = visible_keys(task, b);
    if (keys.first >= keys.last) continue;
    const float* partial = partial_at(partials, padded_dim, i, b);
    state.block_max = partial[0];
    state.block_l = partial[1];
    TaskState* const states[]{&state};
    fold_sums<1>(states);
    for (std::int64_t i = 0; i < padded_dim; i += n_lanes) {
      fold_values(load(partial + AttentionPartials::o_at + i), i, state);
    }
  }
  write_out(task, layout.head_dim, state);
}

constexpr AttentionKernels attention_kernels{.kv_store = block_store,
                                             .attend = attend,
                                             .attend_blocks = attend_blocks,
                                             .fold_partials = fold_partials};
