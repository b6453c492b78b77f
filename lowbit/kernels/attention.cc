// SPDX-License-Identifier: Apache-2.0
// The parallel driver: tiles of tasks that share blocks are the chunks of the thread pool.
#include "lowbit/kernels/attention.h"

#include <algorithm>

namespace lowbit {
namespace {

constexpr std::int64_t alignment = 64;

std::int64_t round_up(std::int64_t n) {
  return (n + alignment - 1) / alignment * alignment;
}

/// Tasks that share blocks, at most attention_tile_tasks.
struct Tile {
  std::int64_t first = 0, n_tasks = 0;
  std::int64_t first_block = 0, last_block = 0;  // that any of them sees
};

std::vector<Tile> tiles_of(std::span<const AttentionTask> tasks) {
  std::vector<Tile> tiles;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const AttentionTask& task = tasks[i];
    const std::int64_t first_block = task.first_visible / kv_block_positions;
    const std::int64_t last_block = (task.n_visible + kv_block_positions - 1) / kv_block_positions;
    if (tiles.empty() || tiles.back().n_tasks == attention_tile_tasks ||
        tasks[static_cast<std::size_t>(tiles.back().first)].blocks != task.blocks) {
      tiles.push_back({static_cast<std::int64_t>(i), 0, first_block, last_block});
    }
    Tile& tile = tiles.back();
    ++tile.n_tasks;
    tile.first_block = std::min(tile.first_block, first_block);
    tile.last_block = std::max(tile.last_block, last_block);
  }
  return tiles;
}

/// A stretch of a tile's blocks.
struct Part {
  std::size_t tile = 0;
  std::int64_t first_block = 0, last_block = 0;
};

constexpr std::int64_t parts_per_thread = 4;    // enough to even out unequal parts
constexpr std::int64_t min_blocks_of_part = 2;  // about a microsecond: what handing out costs
constexpr std::int64_t max_partial_bytes = 8 << 20;

/// Cuts tiles into stretches of blocks when there are fewer tiles than threads can share evenly, as
/// in the decode of one sequence. Empty when that is not worth it.
std::vector<Part> parts_of(std::span<const Tile> tiles, int n_threads, std::int64_t task_bytes) {
  std::vector<Part> parts;
  const auto n_tiles = static_cast<std::int64_t>(tiles.size());
  if (n_threads == 1 || n_tiles >= parts_per_thread * n_threads) return parts;
  std::int64_t n_blocks = 0, n_bytes = 0;
  for (const Tile& tile : tiles) {
    n_blocks += tile.last_block - tile.first_block;
    n_bytes += (tile.last_block - tile.first_block) * tile.n_tasks * task_bytes;
  }
  const std::int64_t n_parts = parts_per_thread * n_threads;
  const std::int64_t step = std::max((n_blocks + n_parts - 1) / n_parts, min_blocks_of_part);
  if (n_bytes > max_partial_bytes) return parts;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    for (std::int64_t b = tiles[i].first_block; b < tiles[i].last_block; b += step) {
      parts.push_back({i, b, std::min(b + step, tiles[i].last_block)});
    }
  }
  if (parts.size() <= tiles.size()) parts.clear();
  return parts;
}

}  // namespace

std::int64_t AttentionPartials::partial_floats(const KvLayout& layout) {
  return o_at + layout.padded_dim();
}

std::byte* AttentionWorkspace::reserve(std::int64_t n_bytes) {
  const auto needed = static_cast<std::size_t>(n_bytes + alignment);
  if (bytes_.size() < needed) bytes_.resize(needed);
  const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data());
  return bytes_.data() + (alignment - address % alignment) % alignment;
}

std::int64_t attention_scratch_bytes(const KvLayout& layout) {
  const std::int64_t block = 2 * layout.padded_dim() * kv_block_positions;  // K and V in f32
  const std::int64_t task = attention_task_floats(layout.padded_dim(), layout.n_groups());
  return static_cast<std::int64_t>(sizeof(float)) * (block + attention_tile_tasks * task);
}

void attention(ThreadPool& pool, const AttentionKernels& kernels, const KvLayout& layout,
               std::span<const AttentionTask> tasks, AttentionWorkspace& workspace) {
  const std::vector<Tile> tiles = tiles_of(tasks);
  const std::int64_t scratch_bytes = round_up(attention_scratch_bytes(layout));
  const std::int64_t partial_bytes =
      AttentionPartials::partial_floats(layout) * static_cast<std::int64_t>(sizeof(float));
  const std::vector<Part> parts = parts_of(tiles, pool.n_threads(), partial_bytes);
  if (parts.empty()) {
    std::byte* scratch = workspace.reserve(scratch_bytes * pool.n_threads());
    pool.parallel_for(static_cast<std::int64_t>(tiles.size()), 1,
                      [&](std::int64_t i, std::int64_t, int thread) {
                        const Tile& tile = tiles[static_cast<std::size_t>(i)];
                        kernels.attend(layout, tasks.data() + tile.first, tile.n_tasks,
                                       scratch + thread * scratch_bytes);
                      });
    return;
  }
  std::vector<AttentionPartials> partials;
  std::vector<std::size_t> tile_of_task;
  std::int64_t n_partials = 0;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const std::int64_t n_blocks = tiles[i].last_block - tiles[i].first_block;
    partials.push_back({nullptr, tiles[i].first_block, n_blocks});
    n_partials += n_blocks * tiles[i].n_tasks;
    tile_of_task.insert(tile_of_task.end(), static_cast<std::size_t>(tiles[i].n_tasks), i);
  }
  std::byte* memory =
      workspace.reserve(n_partials * partial_bytes + scratch_bytes * pool.n_threads());
  std::byte* scratch = memory + n_partials * partial_bytes;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    partials[i].numbers = reinterpret_cast<float*>(memory);
    memory += partials[i].n_blocks * tiles[i].n_tasks * partial_bytes;
  }
  pool.parallel_for(static_cast<std::int64_t>(parts.size()), 1,
                    [&](std::int64_t i, std::int64_t, int thread) {
                      const Part& part = parts[static_cast<std::size_t>(i)];
                      const Tile& tile = tiles[part.tile];
                      kernels.attend_blocks(layout, tasks.data() + tile.first, tile.n_tasks,
                                            part.first_block, part.last_block, partials[part.tile],
                                            scratch + thread * scratch_bytes);
                    });
  pool.parallel_for(
      static_cast<std::int64_t>(tasks.size()), 1, [&](std::int64_t i, std::int64_t, int thread) {
        const std::size_t tile = tile_of_task[static_cast<std::size_t>(i)];
        kernels.fold_partials(layout, tasks[static_cast<std::size_t>(i)], i - tiles[tile].first,
                              partials[tile], scratch + thread * scratch_bytes);
      });
}

}  // namespace lowbit
