// SPDX-License-Identifier: Apache-2.0
#include "lowbit/kernels/packed_activations.h"

#include <algorithm>

#include "lowbit/base/assert.h"

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

/// Sums over 16 inputs -> sums over spans, in order. T is float or int32.
template <class T>
void sum_spans(const T* blocks, std::int64_t n_blocks, std::int64_t span_k, std::int64_t n_sums,
               T* sums) {
  const std::int64_t per_span = (span_k + sum_block - 1) / sum_block;
  for (std::int64_t span = 0; span < n_sums; ++span) {
    T total = 0;
    const std::int64_t last = std::min((span + 1) * per_span, n_blocks);
    for (std::int64_t i = span * per_span; i < last; ++i) total = total + blocks[i];
    sums[span] = total;
  }
}

bool has_real_zero(const PanelView& w) {
  return w.zero_kind == ZeroKind::real || w.zero_kind == ZeroKind::product;
}

bool is_two_level(const PanelView& w) {
  return w.group_k != 0 && w.scale.kind == FactorKind::two_level;
}

/// Inputs per step of an int8 product: the finer of the weight and activation group (a chunk of
/// two-level scales is one super-block); 0: one step, the row.
std::int64_t int8_step_of(const PanelView& w, Activations kind) {
  const std::int64_t weights = is_two_level(w) ? w.chunk_k : w.group_k, group = group_of(kind);
  return weights == 0 || group == 0 ? std::max(weights, group) : std::min(weights, group);
}

}  // namespace

void PackedActivations::reset(Activations kind, std::int64_t n_tokens, std::int64_t cols) {
  kind_ = kind;
  n_tokens_ = n_tokens;
  cols_ = cols;
  n_readers_ = 0;
  const std::int64_t padded_k = round_up(cols, tile_k);
  n_blocks_ = padded_k / sum_block;
  if (kind == Activations::f32) {
    constexpr std::int64_t size = sizeof(float);
    x_stride_ = odd_lines(cols * size) / size;
    grow(x_, n_tokens * x_stride_);
    grow(x_sums_, n_tokens * n_blocks_);
    return;
  }
  const std::int64_t group = group_of(kind);
  codes_stride_ = odd_lines(padded_k);
  scales_stride_ = group == 0 ? 1 : (cols + group - 1) / group;
  grow(codes_, n_tokens * codes_stride_);
  grow(scales_, n_tokens * scales_stride_);
  grow(sums_, n_tokens * n_blocks_);
}

PackedActivations::Sums PackedActivations::wanted(const KernelTable& kernels,
                                                  const PackedMatrix& w) const {
  const PanelView& view = w.view();
  const std::int64_t padded_k = round_up(cols_, tile_k);
  Sums sums;
  if (kind_ == Activations::f32) {
    if (!has_real_zero(view)) return sums;
    sums.span_k = view.group_k == 0 ? padded_k : view.group_k;
  } else {
    const std::int64_t step = int8_step_of(view, kind_);
    sums.span_k = is_two_level(view) ? view.group_k : step == 0 ? padded_k : step;
    sums.bias = view.least + (view.wide ? kernels.matmul.wide_bias : 0);
  }
  sums.n_sums = (cols_ + sums.span_k - 1) / sums.span_k;
  return sums;
}

std::size_t PackedActivations::index_of(const Sums& wanted) const {
  std::size_t i = 0;
  while (i < n_readers_ &&
         (readers_[i].span_k != wanted.span_k || readers_[i].bias != wanted.bias)) {
    ++i;
  }
  return i;
}

void PackedActivations::add_reader(const KernelTable& kernels, const PackedMatrix& w) {
  const Sums sums = wanted(kernels, w);
  if (sums.span_k == 0 || index_of(sums) < n_readers_) return;
  if (readers_.size() == n_readers_) readers_.emplace_back();
  Sums& reader = readers_[n_readers_++];
  reader.span_k = sums.span_k;
  reader.n_sums = sums.n_sums;
  reader.bias = sums.bias;
  if (kind_ == Activations::f32) {
    grow(reader.x_sums, n_tokens_ * sums.n_sums);
  } else {
    grow(reader.sums, n_tokens_ * sums.n_sums);
    grow(reader.starts, n_tokens_ * sums.n_sums);
  }
}

void PackedActivations::fill(const KernelTable& kernels, std::int64_t token, const float* x) {
  const std::int64_t n_used = (cols_ + sum_block - 1) / sum_block;
  if (kind_ == Activations::f32) {
    std::copy(x, x + cols_, x_.data() + token * x_stride_);
    if (n_readers_ == 0) return;
    float* blocks = x_sums_.data() + token * n_blocks_;
    for (std::int64_t k = 0; k < cols_; k += sum_block) {
      float total = 0;
      for (std::int64_t i = k; i < std::min(k + sum_block, cols_); ++i) total += x[i];
      blocks[k / sum_block] = total;
    }
    for (std::size_t r = 0; r < n_readers_; ++r) {
      Sums& reader = readers_[r];
      sum_spans(blocks, n_used, reader.span_k, reader.n_sums,
                reader.x_sums.data() + token * reader.n_sums);
    }
    return;
  }
  std::int32_t* blocks = sums_.data() + token * n_blocks_;
  kernels.matmul.quantize_row(x, cols_, group_of(kind_), codes_.data() + token * codes_stride_,
                              scales_.data() + token * scales_stride_, blocks);
  for (std::size_t r = 0; r < n_readers_; ++r) {
    Sums& reader = readers_[r];
    std::int32_t* sums = reader.sums.data() + token * reader.n_sums;
    std::int32_t* starts = reader.starts.data() + token * reader.n_sums;
    sum_spans(blocks, n_used, reader.span_k, reader.n_sums, sums);
    for (std::int64_t i = 0; i < reader.n_sums; ++i) starts[i] = sums[i] * reader.bias;
  }
}

void PackedActivations::describe(const KernelTable& kernels, const PackedMatrix& w,
                                 MatmulJob& job) const {
  const Sums sums = wanted(kernels, w);
  const std::size_t reader = index_of(sums);
  LOWBIT_ASSERT(w.cols() == cols_ && (sums.span_k == 0 || reader < n_readers_));
  const std::int64_t padded_k = round_up(cols_, tile_k);
  job.n_tokens = n_tokens_;
  if (kind_ == Activations::f32) {
    job.x = x_.data();
    job.x_stride = x_stride_;
    job.step_k = job.w.group_k == 0 ? padded_k : job.w.group_k;
    job.n_sums = (cols_ + job.step_k - 1) / job.step_k;
    if (sums.span_k != 0) job.x_sums = readers_[reader].x_sums.data();
    return;
  }
  job.codes = codes_.data();
  job.codes_stride = codes_stride_;
  job.scales = scales_.data();
  job.scales_stride = scales_stride_;
  job.activation_group_k = group_of(kind_);
  const std::int64_t step = int8_step_of(job.w, kind_);
  job.step_k = step == 0 ? padded_k : step;
  job.n_sums = sums.n_sums;
  job.sums = readers_[reader].sums.data();
  job.starts = readers_[reader].starts.data();
}

void prepare_activations(const KernelTable& kernels, MatrixView x, Activations activations,
                         const PackedMatrix& w, PackedActivations& out, ThreadPool& pool) {
  constexpr std::int64_t tokens_per_chunk = 4;
  out.reset(activations, x.rows, x.cols);
  out.add_reader(kernels, w);
  pool.parallel_for(x.rows, tokens_per_chunk, [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t token = first; token < last; ++token) out.fill(kernels, token, x.row(token));
  });
}

}  // namespace lowbit
