// SPDX-License-Identifier: Apache-2.0
// The drivers: how a product is cut into pieces for the threads, and how much of K is unpacked at a
// time. Nothing here changes a bit of the result.
#include "lowbit/kernels/matmul.h"

#include <algorithm>
#include <numeric>

namespace lowbit {
namespace {

constexpr std::int64_t cache_line = 64;

std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

template <class T>
void grow(std::vector<T>& buffer, std::int64_t n_items) {
  if (buffer.size() < static_cast<std::size_t>(n_items)) {
    buffer.resize(static_cast<std::size_t>(n_items));
  }
}

/// An upper bound of what the bodies carve out of a thread's scratch.
std::int64_t scratch_bytes(const MatmulJob& job, std::int64_t block_k, std::int64_t n_panels,
                           std::int64_t n_tokens) {
  constexpr std::int64_t factor_vectors = 5, alignment_slack = 1024, sum_block = 16;
  constexpr std::int64_t token_sum_bytes = 2 * sizeof(std::int32_t);
  const std::int64_t number = job.codes == nullptr ? sizeof(float) : 1;
  const std::int64_t token = (job.w.cols / sum_block + 2) * token_sum_bytes;
  const std::int64_t vector = panel_cols * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t panel =
      panel_cols * block_k * number + factor_vectors * (block_k / sum_block + 2) * vector;
  return round_up(n_panels * (panel + n_tokens * vector) + n_tokens * token + alignment_slack,
                  cache_line);
}

/// Inputs unpacked at a time when the tokens are few.
constexpr std::int64_t few_bytes_block_k = 512, few_floats_block_k = 256;

bool is_gemv(const KernelTable& kernels, std::int64_t n_tokens) {
  return n_tokens <= kernels.matmul.few_tokens;
}

MatmulJob job_of(const KernelTable& kernels, const MatmulPart& part) {
  MatmulJob job;
  job.w = part.w->view();
  job.y = part.y.data;
  job.y_stride = part.y.stride;
  part.x->describe(kernels, *part.w, job);
  // Nothing ends before the row does: any cut of K will do.
  const bool one_chain =
      job.w.group_k == 0 && (job.codes == nullptr || job.activation_group_k == 0);
  const std::int64_t unit_k =
      std::max(job.w.group_k == 0 ? 1 : job.w.chunk_k, one_chain ? std::int64_t{1} : job.step_k);
  const std::int64_t few_k = job.codes == nullptr ? few_floats_block_k : few_bytes_block_k;
  job.block_k =
      is_gemv(kernels, job.n_tokens) ? std::max(few_k, unit_k) : round_up(job.w.cols, tile_k);
  return job;
}

/// How a group is cut: panels and tokens of a piece.
struct Cut {
  std::int64_t n_panels = 1, n_tokens = 1;
};

/// Panels that a piece holds a multiple of: whole units, and what the kernels take at once.
std::int64_t unit_panels(const MatmulGroup& group, std::int64_t kernel_panels) {
  const std::int64_t panels = std::lcm(group.unit_cols, panel_cols) / panel_cols;
  return panels == 1 ? kernel_panels : panels;
}

/// Few tokens: pieces of equal bytes, several for each thread so that none waits long for the last
/// one, but none longer than some 20 us of reading.
Cut cut_by_bytes(const MatmulGroup& group, const KernelTable& kernels, std::int64_t total_bytes,
                 int n_threads, std::int64_t n_tokens) {
  constexpr std::int64_t least_bytes = 16 << 10, most_bytes = 512 << 10, pieces_per_thread = 4;
  const std::int64_t piece_bytes =
      std::clamp(total_bytes / (pieces_per_thread * n_threads), least_bytes, most_bytes);
  const std::int64_t unit = unit_panels(group, kernels.matmul.gemv_panels);
  std::int64_t unit_bytes = 0;
  for (const MatmulPart& part : group.parts) {
    if (part.w != nullptr) unit_bytes += unit * part.w->view().panel_bytes;
  }
  return {std::max<std::int64_t>(piece_bytes / (unit_bytes + 1), 1) * unit, n_tokens};
}

/// Many tokens: the least number of panels, and equal shares of the tokens whose codes stay in the
/// second-level cache while panels pass by.
Cut cut_by_tokens(const MatmulGroup& group, const KernelTable& kernels, std::int64_t n_tokens) {
  constexpr std::int64_t most_tokens = 512;
  const std::int64_t n_shares = (n_tokens + most_tokens - 1) / most_tokens;
  return {unit_panels(group, kernels.matmul.tile_panels),
          round_up((n_tokens + n_shares - 1) / n_shares, kernels.matmul.tile_tokens)};
}

}  // namespace

void matmul(const KernelTable& kernels, std::span<const MatmulGroup> groups,
            MatmulWorkspace& workspace, ThreadPool& pool) {
  const MatmulKernels& table = kernels.matmul;
  const std::int64_t n_tokens = groups.front().parts.front().x->n_tokens();
  const bool few = is_gemv(kernels, n_tokens);
  std::int64_t total_bytes = 0, thread_scratch = 0;
  workspace.jobs_.clear();
  for (const MatmulGroup& group : groups) {
    for (const MatmulPart& part : group.parts) {
      if (part.w == nullptr) {
        workspace.jobs_.emplace_back();
        continue;
      }
      workspace.jobs_.push_back(job_of(kernels, part));
      total_bytes += part.w->n_bytes();
    }
  }
  workspace.pieces_.clear();
  std::int64_t most_tokens = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const MatmulGroup& group = groups[g];
    const Cut cut = few ? cut_by_bytes(group, kernels, total_bytes, pool.n_threads(), n_tokens)
                        : cut_by_tokens(group, kernels, n_tokens);
    const std::int64_t n_panels = (group.parts[0].w->rows() + panel_cols - 1) / panel_cols;
    most_tokens = std::max(most_tokens, std::min(cut.n_tokens, n_tokens));
    for (std::int64_t token = 0; token < n_tokens; token += cut.n_tokens) {
      for (std::int64_t panel = 0; panel < n_panels; panel += cut.n_panels) {
        workspace.pieces_.push_back({g, token, std::min(token + cut.n_tokens, n_tokens), panel,
                                     std::min(panel + cut.n_panels, n_panels)});
      }
    }
  }
  for (MatmulJob& job : workspace.jobs_) {
    if (job.n_tokens == 0) continue;
    job.scratch_bytes = scratch_bytes(job, std::min(job.block_k, round_up(job.w.cols, tile_k)),
                                      std::max(table.gemv_panels, table.tile_panels), most_tokens);
    thread_scratch = std::max(thread_scratch, job.scratch_bytes);
  }
  grow(workspace.scratch_, pool.n_threads() * thread_scratch + cache_line);
  std::byte* scratch = workspace.scratch_.data();
  scratch += cache_line - reinterpret_cast<std::uintptr_t>(scratch) % cache_line;

  const auto n_pieces = static_cast<std::int64_t>(workspace.pieces_.size());
  pool.parallel_for(n_pieces, 1, [&](std::int64_t i, std::int64_t, int thread) {
    const MatmulWorkspace::Piece& piece = workspace.pieces_[static_cast<std::size_t>(i)];
    const MatmulGroup& group = groups[piece.group];
    for (std::size_t p = 0; p < group.parts.size(); ++p) {
      const MatmulJob& job = workspace.jobs_[piece.group * group.parts.size() + p];
      if (job.n_tokens == 0) continue;
      const auto run = job.codes == nullptr ? table.f32_panels : table.int8_panels;
      run(job, piece.first_panel, piece.last_panel, piece.first_token, piece.last_token,
          scratch + thread * thread_scratch);
    }
    if (!group.after) return;
    group.after({piece.first_token, piece.last_token, piece.first_panel * panel_cols,
                 std::min(piece.last_panel * panel_cols, group.parts[0].w->rows())});
  });
}

void matmul(const KernelTable& kernels, const PackedMatrix& w, const PackedActivations& x,
            MutableMatrixView y, MatmulWorkspace& workspace, ThreadPool& pool) {
  const MatmulGroup group{.parts = {MatmulPart{&w, &x, y}}};
  matmul(kernels, {&group, 1}, workspace, pool);
}

std::string kernel_name(const KernelTable& kernels, const PackedMatrix& w, Activations activations,
                        std::int64_t n_tokens) {
  const PanelView& v = w.view();
  std::string name = is_gemv(kernels, n_tokens) ? "gemv " : "gemm ";
  name += name_of(activations);
  switch (v.code) {
    case CodeKind::linear:
      name += " linear" + std::to_string(v.bits);
      break;
    case CodeKind::lut:
      name += " lut" + std::to_string(v.bits);
      break;
    case CodeKind::table:
      name += " table" + std::to_string(v.bits);
      break;
    case CodeKind::f16:
      name += " f16";
      break;
    case CodeKind::bf16:
      name += " bf16";
      break;
    case CodeKind::f32:
      name += " f32";
      break;
  }
  if (v.group_k != 0) name += " g" + std::to_string(v.group_k);
  if (v.group_k != 0 && v.scale.kind == FactorKind::two_level) name += " two-level";
  if (v.zero_kind == ZeroKind::integer) name += " integer-zero";
  if (v.zero_kind == ZeroKind::real || v.zero_kind == ZeroKind::product) name += " real-zero";
  name += ' ';
  name += name_of(kernels.isa);
  if (is_approximate(kernels.isa) && activations == Activations::f32) name += " approx";
  return name;
}

}  // namespace lowbit
