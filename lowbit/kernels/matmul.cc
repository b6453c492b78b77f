// SPDX-License-Identifier: Apache-2.0
// The drivers: how a product is cut into pieces for the threads, and how much of K is unpacked at a
// time. Nothing here changes a bit of the result.
#include "lowbit/kernels/matmul.h"

#include <algorithm>
#include <cstring>

#include "lowbit/kernels/product_scheme.h"

namespace lowbit {
namespace {

constexpr std::int64_t cache_line = 64, sum_block = 16;

std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

/// Rows whose stride is an odd number of cache lines do not collide in the cache.
std::int64_t odd_lines(std::int64_t n_bytes) {
  return (round_up(n_bytes, cache_line) / cache_line | 1) * cache_line;
}

template <class T>
void grow(std::vector<T>& buffer, std::int64_t n_items) {
  if (buffer.size() < static_cast<std::size_t>(n_items)) {
    buffer.resize(static_cast<std::size_t>(n_items));
  }
}

/// An upper bound of what the bodies carve out of a thread's scratch.
std::int64_t scratch_bytes(std::int64_t block_k, std::int64_t n_panels, std::int64_t n_tokens,
                           bool is_f32) {
  constexpr std::int64_t factor_vectors = 5, alignment_slack = 1024;
  const std::int64_t number = is_f32 ? sizeof(float) : 1;
  const std::int64_t vector = panel_cols * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t panel =
      panel_cols * block_k * number + factor_vectors * (block_k / sum_block + 2) * vector;
  return round_up(n_panels * (panel + n_tokens * vector) + alignment_slack, cache_line);
}

/// Tokens of one piece of work: their codes stay in the second-level cache while panels pass by.
constexpr std::int64_t max_piece_tokens = 256;
/// Inputs unpacked at a time when the tokens fit one tile.
constexpr std::int64_t gemv_block_k = 512;

/// Sums over 16 inputs -> sums over steps, in order; starts are those times bias. T is float or
/// int32.
template <class T>
void sum_steps(const T* blocks, std::int64_t n_blocks, std::int64_t step_k, std::int64_t n_sums,
               T* sums) {
  const std::int64_t per_step = (step_k + sum_block - 1) / sum_block;
  for (std::int64_t step = 0; step < n_sums; ++step) {
    T total = 0;
    const std::int64_t last = std::min((step + 1) * per_step, n_blocks);
    for (std::int64_t i = step * per_step; i < last; ++i) total = total + blocks[i];
    sums[step] = total;
  }
}

/// Calls body(token) for all tokens; few are not worth waking the threads for.
template <class Body>
void for_tokens(std::int64_t n_tokens, ThreadPool& pool, const Body& body) {
  constexpr std::int64_t few = 8, tokens_per_chunk = 4;
  auto range = [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t token = first; token < last; ++token) body(token);
  };
  if (n_tokens <= few) return range(0, n_tokens, 0);
  pool.parallel_for(n_tokens, tokens_per_chunk, range);
}

bool is_gemv(const KernelTable& kernels, std::int64_t n_tokens) {
  return n_tokens <= kernels.matmul.tile_tokens;
}

}  // namespace

void prepare_activations(const KernelTable& kernels, MatrixView x, Activations activations,
                         PackedActivations& out, ThreadPool& pool) {
  const std::int64_t padded_k = round_up(x.cols, tile_k), n_sums = padded_k / sum_block;
  out.kind_ = activations;
  out.n_tokens_ = x.rows;
  out.cols_ = x.cols;
  if (activations == Activations::f32) {
    constexpr std::int64_t size = sizeof(float);
    out.x_stride_ = odd_lines(x.cols * size) / size;
    out.sums_stride_ = n_sums;
    grow(out.x_, x.rows * out.x_stride_);
    grow(out.x_sums_, x.rows * n_sums);
    for_tokens(x.rows, pool, [&](std::int64_t token) {
      const float* from = x.row(token);
      std::copy(from, from + x.cols, out.x_.data() + token * out.x_stride_);
      for (std::int64_t k = 0; k < x.cols; k += sum_block) {
        float total = 0;
        for (std::int64_t i = k; i < std::min(k + sum_block, x.cols); ++i) total += from[i];
        out.x_sums_[static_cast<std::size_t>(token * n_sums + k / sum_block)] = total;
      }
    });
    return;
  }
  const std::int64_t group = group_of(activations);
  out.codes_stride_ = odd_lines(padded_k);
  out.scales_stride_ = group == 0 ? 1 : (x.cols + group - 1) / group;
  out.sums_stride_ = n_sums;
  grow(out.codes_, x.rows * out.codes_stride_);
  grow(out.scales_, x.rows * out.scales_stride_);
  grow(out.sums_, x.rows * n_sums);
  for_tokens(x.rows, pool, [&](std::int64_t token) {
    kernels.matmul.quantize_row(x.row(token), x.cols, group,
                                out.codes_.data() + token * out.codes_stride_,
                                out.scales_.data() + token * out.scales_stride_,
                                out.sums_.data() + token * out.sums_stride_);
  });
}

void matmul(const KernelTable& kernels, const PackedMatrix& w, const PackedActivations& x,
            MutableMatrixView y, ThreadPool& pool) {
  const bool is_f32 = x.kind_ == Activations::f32;
  MatmulJob job;
  job.w = w.view();
  job.n_tokens = x.n_tokens_;
  job.y = y.data;
  job.y_stride = y.stride;
  const std::int64_t padded_k = round_up(w.cols(), tile_k);
  const std::int64_t n_blocks = (w.cols() + sum_block - 1) / sum_block;
  if (is_f32) {
    job.x = x.x_.data();
    job.x_stride = x.x_stride_;
    job.step_k = job.w.group_k == 0 ? padded_k : job.w.group_k;
    job.n_sums = (w.cols() + job.step_k - 1) / job.step_k;
    if (job.w.zero_kind == ZeroKind::real || job.w.zero_kind == ZeroKind::product) {
      grow(x.step_x_sums_, job.n_tokens * job.n_sums);
      job.x_sums = x.step_x_sums_.data();
      for_tokens(job.n_tokens, pool, [&](std::int64_t token) {
        sum_steps(x.x_sums_.data() + token * x.sums_stride_, n_blocks, job.step_k, job.n_sums,
                  x.step_x_sums_.data() + token * job.n_sums);
      });
    }
  } else {
    job.codes = x.codes_.data();
    job.codes_stride = x.codes_stride_;
    job.scales = x.scales_.data();
    job.scales_stride = x.scales_stride_;
    job.activation_group_k = group_of(x.kind_);
    const ProductScheme product = product_scheme(w.scheme());
    const std::int64_t step = int8_step(product, x.kind_);
    job.step_k = step == 0 ? padded_k : step;
    const std::int64_t sum_k = product.is_two_level ? job.w.group_k : job.step_k;
    job.n_sums = (w.cols() + sum_k - 1) / sum_k;
    grow(x.step_sums_, job.n_tokens * job.n_sums);
    grow(x.step_starts_, job.n_tokens * job.n_sums);
    job.sums = x.step_sums_.data();
    job.starts = x.step_starts_.data();
    const std::int32_t bias = job.w.least + (job.w.wide ? kernels.matmul.wide_bias : 0);
    for_tokens(job.n_tokens, pool, [&](std::int64_t token) {
      std::int32_t* sums = x.step_sums_.data() + token * job.n_sums;
      std::int32_t* starts = x.step_starts_.data() + token * job.n_sums;
      sum_steps(x.sums_.data() + token * x.sums_stride_, n_blocks, sum_k, job.n_sums, sums);
      for (std::int64_t i = 0; i < job.n_sums; ++i) starts[i] = sums[i] * bias;
    });
  }
  const bool few = is_gemv(kernels, job.n_tokens);
  const bool one_chain = is_f32 && job.w.group_k == 0;
  const std::int64_t unit_k =
      std::max(job.w.group_k == 0 ? 1 : job.w.chunk_k, one_chain ? std::int64_t{1} : job.step_k);
  job.block_k = few ? std::max(gemv_block_k, unit_k) : padded_k;

  const MatmulKernels& table = kernels.matmul;
  const std::int64_t n_panels = (w.rows() + panel_cols - 1) / panel_cols;
  const std::int64_t item_panels = few ? table.gemv_panels : table.tile_panels;
  const std::int64_t n_items = (n_panels + item_panels - 1) / item_panels;
  const std::int64_t piece_tokens = std::min(job.n_tokens, max_piece_tokens);
  const std::int64_t n_pieces = (job.n_tokens + piece_tokens - 1) / piece_tokens;
  job.scratch_bytes =
      scratch_bytes(std::min(job.block_k, padded_k), std::max(table.gemv_panels, table.tile_panels),
                    piece_tokens, is_f32);
  grow(x.scratch_, pool.n_threads() * job.scratch_bytes + cache_line);
  std::byte* scratch = x.scratch_.data();
  scratch += cache_line - reinterpret_cast<std::uintptr_t>(scratch) % cache_line;

  // Few tokens: a piece of about 256 kB of weights. Many: one group of panels.
  constexpr std::int64_t gemv_piece_bytes = 1 << 18;
  const std::int64_t even_share = std::max<std::int64_t>(1, n_items / (4 * pool.n_threads()));
  const std::int64_t chunk =
      few ? std::clamp<std::int64_t>(gemv_piece_bytes / (item_panels * job.w.panel_bytes + 1), 1,
                                     even_share)
          : 1;
  const auto run = is_f32 ? table.f32_panels : table.int8_panels;
  pool.parallel_for(
      n_items * n_pieces, chunk, [&](std::int64_t first, std::int64_t last, int thread) {
        std::byte* own = scratch + thread * job.scratch_bytes;
        // Items run token piece by token piece; a range may cross into the next.
        while (first < last) {
          const std::int64_t piece = first / n_items;
          const std::int64_t end = std::min(last, (piece + 1) * n_items);
          const std::int64_t from = (first - piece * n_items) * item_panels;
          const std::int64_t to = std::min((end - piece * n_items) * item_panels, n_panels);
          run(job, from, to, piece * piece_tokens,
              std::min((piece + 1) * piece_tokens, job.n_tokens), own);
          first = end;
        }
      });
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
  return name + " " + std::string(name_of(kernels.isa));
}

}  // namespace lowbit
