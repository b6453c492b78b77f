// SPDX-License-Identifier: Apache-2.0
// The parallel driver: tiles of tasks that share blocks are the chunks of the thread pool.
#include "lowbit/kernels/attention.h"

#include <algorithm>

namespace lowbit {
namespace {

constexpr std::int64_t alignment = 64;

struct Tile {
  std::int64_t first = 0, n_tasks = 0;
};

/// Runs of tasks with the same blocks, cut into tiles. A step with few tiles (decode) is cut finer
/// only between runs: the queries of a group share their reads.
std::vector<Tile> tiles_of(std::span<const AttentionTask> tasks) {
  std::vector<Tile> tiles;
  const auto n_tasks = static_cast<std::int64_t>(tasks.size());
  for (std::int64_t i = 0; i < n_tasks; ++i) {
    const bool joins = !tiles.empty() && tiles.back().n_tasks < attention_tile_tasks &&
                       tasks[static_cast<std::size_t>(tiles.back().first)].blocks ==
                           tasks[static_cast<std::size_t>(i)].blocks;
    if (joins) {
      ++tiles.back().n_tasks;
    } else {
      tiles.push_back({i, 1});
    }
  }
  return tiles;
}

}  // namespace

void AttentionWorkspace::reserve(int n_threads, std::int64_t n_bytes) {
  const std::int64_t stride = (n_bytes + alignment - 1) / alignment * alignment;
  const auto needed = static_cast<std::size_t>(stride * n_threads + alignment);
  if (bytes_.size() < needed) bytes_.resize(needed);
  const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data());
  first_ = bytes_.data() + (alignment - address % alignment) % alignment;
  stride_ = stride;
}

std::byte* AttentionWorkspace::of_thread(int thread) {
  return first_ + stride_ * thread;
}

std::int64_t attention_scratch_bytes(const KvLayout& layout) {
  // In numbers of 4 bytes: a block's K and V in f32; for every task t, its scores, o and o'.
  const std::int64_t dim = layout.padded_dim();
  const std::int64_t block = 2 * dim * kv_block_positions;
  const std::int64_t task = 3 * dim + kv_block_positions;
  return static_cast<std::int64_t>(sizeof(float)) * (block + attention_tile_tasks * task);
}

void attention(ThreadPool& pool, const AttentionKernels& kernels, const KvLayout& layout,
               std::span<const AttentionTask> tasks, AttentionWorkspace& workspace) {
  workspace.reserve(pool.n_threads(), attention_scratch_bytes(layout));
  const std::vector<Tile> tiles = tiles_of(tasks);
  pool.parallel_for(static_cast<std::int64_t>(tiles.size()), 1,
                    [&](std::int64_t first, std::int64_t, int thread) {
                      const Tile& tile = tiles[static_cast<std::size_t>(first)];
                      kernels.attend(layout, tasks.data() + tile.first, tile.n_tasks,
                                     workspace.of_thread(thread));
                    });
}

}  // namespace lowbit
