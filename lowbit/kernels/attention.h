// SPDX-License-Identifier: Apache-2.0
// Attention of one query head over the blocks of its KV head. The definition, operation by
// operation, so that prefill, decode, any grouping of queries, any thread count and every
// instruction set give the same bits (docs/design.md, idea C):
//
//   t = q * scale; int8, int4 K: t becomes int8 with scale a = absmax(t) / 127
//   for each block of 64 positions that has a visible key, in order:
//     s[j] = f32, f16 K: chain of fma(t[i], k[j][i], s) over i from 0
//            e4m3 K: the same chain, times k_scale[j]
//            int8, int4 K: d = sum of codes' products over a group of numbers that share a scale;
//            float(d) * (a * k_scale[j]) of the first group, then fma(float(d), a * k_scale[j], s)
//            over the others in order
//     m = max of the visible s, p[j] = exp(s[j] - m) for visible keys, 0 for the others
//     l' = 16 lanes of lane + p[j], folded by the tree of vector_ops.h
//     o'[i] = f32, f16 V: chain over the visible keys in order from 0: fma(p[j], v[j][i], o')
//             e4m3 V: the same chain of fma(p[j] * v_scale[j], v[j][i], o')
//             int8, int4 V, for each group: w[j] = p[j] * v_scale[j] becomes c[j] in 0..255,
//             u = max(w, 0) / 255, o'[i] = float(sum of c[j] * code[j][i]) * u
//     M' = max(M, m), x = exp(M - M'), y = exp(m - M'), starting at M = -infinity, l = 0, o = 0
//     l = fma(l, x, l' * y), o[i] = fma(o[i], x, o'[i] * y), M = M'
//   out[i] = o[i] / l; zeros without any visible key
//
// Codes of numbers x that share a scale: absmax over the numbers (a NaN is passed over), scale =
// absmax / 127 (int8), / 7.5 (int4: no number is further than half a unit from a code), / 448
// (e4m3); stored scales are then rounded to f16, at most 65504. r = 1 / scale or 0 when the scale
// is below 2^-126; y = x * r clamped to -127..127, -8..7, -448..448 (a NaN becomes the lower
// bound); the code is the nearest one, ties to even. c likewise: r = 1 / u, clamped to 0..255 (a
// NaN becomes 0).
// attention_reference.cc holds the scalar reference, attention_body.h the SIMD body.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lowbit/base/thread_pool.h"
#include "lowbit/kernels/kv_block.h"

namespace lowbit {

struct AttentionTask {
  const float* q = nullptr;  // (head_dim), rope applied
  float* out = nullptr;      // (head_dim), may be q
  /// Blocks of this KV head: blocks[b] holds positions [64 b, 64 b + 64). Those before the block of
  /// first_visible are not touched.
  const std::byte* const* blocks = nullptr;
  std::int64_t n_visible = 0;      // keys [first_visible, n_visible) are visible
  std::int64_t first_visible = 0;  // above 0 in a sliding window
  float scale = 1.0f;              // 1 / sqrt(head_dim) in most models
};

/// m, l' and o' of every (task, block) of a tile whose blocks are shared out to several threads.
struct AttentionPartials {
  float* numbers = nullptr;      // (tasks, n_blocks, partial_floats), 64-byte aligned
  std::int64_t first_block = 0;  // number 0 belongs to this block
  std::int64_t n_blocks = 0;

  static constexpr std::int64_t o_at = 16;  // m at 0, l' at 1, o' (padded_dim) from here
  static std::int64_t partial_floats(const KvLayout& layout);
};

struct AttentionKernels {
  /// Writes one position of a block. k, v: (head_dim).
  void (*kv_store)(const KvLayout& layout, std::byte* block, int position, const float* k,
                   const float* v);

  /// n_tasks <= attention_tile_tasks tasks with the same blocks: each block is read once for all of
  /// them. scratch: attention_scratch_bytes(layout), 64-byte aligned.
  void (*attend)(const KvLayout& layout, const AttentionTask* tasks, std::int64_t n_tasks,
                 std::byte* scratch);

  /// Only the blocks [first_block, last_block), into partials; blocks without a visible key for a
  /// task leave its partial as it is.
  void (*attend_blocks)(const KvLayout& layout, const AttentionTask* tasks, std::int64_t n_tasks,
                        std::int64_t first_block, std::int64_t last_block,
                        const AttentionPartials& partials, std::byte* scratch);

  /// Folds the partials of tasks[i] left to right and writes its out.
  void (*fold_partials)(const KvLayout& layout, const AttentionTask& task, std::int64_t i,
                        const AttentionPartials& partials, std::byte* scratch);
};

/// Plain loops in the order of the definition, for tests.
extern const AttentionKernels reference_attention_kernels;

inline constexpr std::int64_t attention_tile_tasks = 48;
std::int64_t attention_scratch_bytes(const KvLayout& layout);
/// What the scratch holds for one task, in numbers of 4 bytes and a multiple of 16: t, o, o', its
/// scores; for every group 64 weights of a byte, their unit and two starts of dot products.
constexpr std::int64_t attention_task_floats(std::int64_t padded_dim, std::int64_t n_groups) {
  constexpr std::int64_t lanes = 16, extra = 3;
  const std::int64_t units = (extra * n_groups + lanes - 1) / lanes * lanes;
  return 3 * padded_dim + kv_block_positions + n_groups * lanes + units;
}

/// Memory of a call, kept for the next one.
class AttentionWorkspace {
 public:
  /// n_bytes, 64-byte aligned, uninitialized; earlier ones are gone.
  std::byte* reserve(std::int64_t n_bytes);

 private:
  std::vector<std::byte> bytes_;
};

/// All queries of a step: every token and query head of every sequence. Tasks that share blocks
/// stand side by side, best with few jumps in n_visible; their order changes speed, never bits.
void attention(ThreadPool& pool, const AttentionKernels& kernels, const KvLayout& layout,
               std::span<const AttentionTask> tasks, AttentionWorkspace& workspace);

/// The keys of block b that a task sees, as positions in the block: [first, last), empty if none.
struct VisibleKeys {
  int first = 0, last = 0;
};
constexpr VisibleKeys visible_keys(const AttentionTask& task, std::int64_t block) {
  const std::int64_t start = block * kv_block_positions;
  const std::int64_t first = task.first_visible - start, last = task.n_visible - start;
  return {first < 0                    ? 0
          : first > kv_block_positions ? kv_block_positions
                                       : static_cast<int>(first),
          last < 0                    ? 0
          : last > kv_block_positions ? kv_block_positions
                                      : static_cast<int>(last)};
}

}  // namespace lowbit
