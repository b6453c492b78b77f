// SPDX-License-Identifier: Apache-2.0
#include "lowbit/backend/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "lowbit/base/assert.h"
#include "lowbit/base/checked.h"
#include "lowbit/kernels/attention.h"
#include "lowbit/kernels/kernel_table.h"
#include "lowbit/kernels/matmul.h"
#include "lowbit/kernels/packed_matrix.h"
#include "lowbit/kernels/vector_ops.h"

namespace lowbit {
namespace {

struct CpuTensor final : Tensor {
  std::vector<float> numbers;

  float* row(std::int64_t r) { return numbers.data() + r * cols; }
  const float* row(std::int64_t r) const { return numbers.data() + r * cols; }
  MatrixView view() const { return {numbers.data(), rows, cols}; }
  MutableMatrixView view() { return {numbers.data(), rows, cols}; }
};

struct CpuWeight final : Weight {
  PackedMatrix packed;
};

/// Pages lie one behind the other; a page is one block per KV head.
struct CpuKvPool final : KvPool {
  KvLayout layout;
  std::int64_t n_kv_heads = 0;
  std::byte* memory = nullptr;
  std::size_t n_bytes = 0;

  ~CpuKvPool() override {
    if (memory != nullptr) munmap(memory, n_bytes);
  }
  std::byte* page(std::int32_t index) const { return memory + index * page_bytes; }
  std::byte* block(std::int32_t index, std::int64_t head) const {
    return page(index) + head * layout.block_bytes();
  }
};

/// The rows of x as some of the products of a call read them.
struct ActivationForm {
  Activations kind = Activations::f32;
  Basis basis;
  PackedActivations rows;

  bool is_of(const Weight& w) const { return w.activations == kind && w.input == basis; }
};

CpuTensor& on_cpu(Tensor& tensor) {
  return static_cast<CpuTensor&>(tensor);
}
const CpuTensor& on_cpu(const Tensor& tensor) {
  return static_cast<const CpuTensor&>(tensor);
}
const CpuWeight& on_cpu(const Weight& weight) {
  return static_cast<const CpuWeight&>(weight);
}
const CpuKvPool& on_cpu(const KvPool& pool) {
  return static_cast<const CpuKvPool&>(pool);
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(ThreadPool& pool, const KernelTable& kernels) : pool_(&pool), kernels_(kernels) {}

  std::string_view name() const override { return name_of(kernels_.isa); }

  void set_team(ThreadPool& pool) override {
    LOWBIT_ASSERT(pool.n_threads() == pool_->n_threads());
    pool_ = &pool;
    pool_->count(is_counting_);
  }

  void count(bool on) override {
    is_counting_ = on;
    pool_->count(on);
  }
  BackendCounters take_counters() override { return std::exchange(counters_, {}); }

  std::unique_ptr<Tensor> make_tensor(std::int64_t n_rows, std::int64_t n_cols) override {
    auto tensor = std::make_unique<CpuTensor>();
    tensor->rows = tensor->capacity = n_rows;
    tensor->cols = n_cols;
    tensor->numbers.resize(static_cast<std::size_t>(n_rows * n_cols));
    return tensor;
  }

  void upload(std::span<const float> from, Tensor& to) override {
    LOWBIT_ASSERT(static_cast<std::int64_t>(from.size()) == to.rows * to.cols);
    std::ranges::copy(from, on_cpu(to).numbers.begin());
  }

  void download(const Tensor& from, std::span<float> to) override {
    LOWBIT_ASSERT(static_cast<std::int64_t>(to.size()) == from.rows * from.cols);
    std::copy_n(on_cpu(from).numbers.begin(), to.size(), to.begin());
  }

  Result<std::unique_ptr<Weight>> pack(const QuantizedTensor& tensor,
                                       std::optional<Activations> activations) override {
    return adopt_finite(lowbit::pack(tensor, *pool_, &panel_memory_), activations);
  }
  Result<std::unique_ptr<Weight>> pack(const RowSource& rows,
                                       std::optional<Activations> activations) override {
    return adopt_finite(lowbit::pack(rows, *pool_, &panel_memory_), activations);
  }

  Result<std::unique_ptr<Weight>> adopt(PackedMatrix packed,
                                        std::optional<Activations> activations) override {
    auto weight = std::make_unique<CpuWeight>();
    weight->packed = std::move(packed);
    weight->rows = weight->packed.rows();
    weight->cols = weight->packed.cols();
    weight->n_bytes = weight->packed.n_bytes();
    weight->scheme = weight->packed.scheme();
    weight->input = weight->packed.input();
    weight->activations = activations.value_or(default_activations(weight->scheme));
    if (auto checked = check_activations(weight->packed, weight->activations); !checked) {
      return std::move(checked).error();
    }
    return std::unique_ptr<Weight>(std::move(weight));
  }

  const PackedMatrix* packed_form(const Weight& weight) const override {
    return &on_cpu(weight).packed;
  }

  std::string kernel_name(const Weight& weight, std::int64_t n_tokens) const override {
    return lowbit::kernel_name(kernels_, on_cpu(weight).packed, weight.activations, n_tokens);
  }

  Result<std::unique_ptr<KvPool>> make_kv_pool(KvKind kind, std::int64_t n_kv_heads,
                                               std::int64_t head_dim,
                                               std::int64_t n_pages) override {
    auto pool = std::make_unique<CpuKvPool>();
    pool->kind = kind;
    pool->layout = {kind, head_dim};
    pool->n_kv_heads = n_kv_heads;
    pool->n_pages = n_pages;
    pool->page_bytes = n_kv_heads * pool->layout.block_bytes();
    const auto n_bytes = checked_mul(n_pages, pool->page_bytes);
    void* memory = MAP_FAILED;
    if (n_bytes) {
      memory = mmap(nullptr, static_cast<std::size_t>(*n_bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (memory == MAP_FAILED) {
      return Error(
          fmt::format("{} pages of {} bytes do not fit into this machine's memory; ask "
                      "for a smaller context",
                      n_pages, pool->page_bytes));
    }
    pool->memory = static_cast<std::byte*>(memory);
    pool->n_bytes = static_cast<std::size_t>(*n_bytes);
    return std::unique_ptr<KvPool>(std::move(pool));
  }

  void embed(const Weight& table, std::span<const std::int32_t> ids, Tensor& y) override {
    const Count count(*this, counters_.rows);
    LOWBIT_ASSERT(static_cast<std::int64_t>(ids.size()) == y.rows && table.cols == y.cols);
    for_rows(y.rows, [&](std::int64_t row) {
      float* const out = on_cpu(y).row(row);
      unpack_row(on_cpu(table).packed, ids[static_cast<std::size_t>(row)], out);
      if (!table.input.is_plain()) {
        kernels_.vector.hadamard(out, table.input.hadamard, table.cols, out);
      }
    });
  }

  void gather(const Tensor& x, std::span<const std::int32_t> rows, Tensor& y) override {
    const Count count(*this, counters_.rows);
    LOWBIT_ASSERT(static_cast<std::int64_t>(rows.size()) == y.rows && x.cols == y.cols);
    for (std::int64_t i = 0; i < y.rows; ++i) {
      std::copy_n(on_cpu(x).row(rows[static_cast<std::size_t>(i)]), y.cols, on_cpu(y).row(i));
    }
  }

  void rms_norm(const Tensor& x, const Tensor& w, float eps, Tensor& y) override {
    const Count count(*this, counters_.rows);
    LOWBIT_ASSERT(x.rows == y.rows && x.cols == y.cols && x.cols % w.cols == 0);
    for_rows(x.rows, [&](std::int64_t row) {
      for (std::int64_t first = 0; first < x.cols; first += w.cols) {
        kernels_.vector.rms_norm(on_cpu(x).row(row) + first, on_cpu(w).row(0), eps, w.cols,
                                 on_cpu(y).row(row) + first);
      }
    });
  }

  void matmul(const Tensor& x, std::span<const Product> products) override {
    const Count count(*this, counters_.products);
    prepare(x, nullptr, products);
    multiply_all(products);
  }

  void norm_matmul(const Tensor& x, const Norm& norm, std::span<const Product> products) override {
    const Count count(*this, counters_.products);
    prepare(x, &norm, products);
    multiply_all(products);
  }

  /// A piece of the product is whole heads, which the thread that computed them rotates and stores.
  void attention_inputs(const Tensor& x, const Norm& norm, const AttentionInputs& in) override {
    const Count count(*this, counters_.products);
    LOWBIT_ASSERT(in.cos->cols * 2 == in.head_dim && in.cos->rows == x.rows);
    prepare(x, &norm, std::array{in.q, in.k, in.v});
    list_positions(in.sequences);
    groups_.resize(2);
    groups_[0] = {.parts = {part_of(in.k), part_of(in.v)},
                  .unit_cols = in.head_dim,
                  .after = [this, &in](const MatmulBlock& block) { finish_keys(in, block); }};
    groups_[1] = {.parts = {part_of(in.q)},
                  .unit_cols = in.head_dim,
                  .after = [this, &in](const MatmulBlock& block) {
                    add_bias(in.q, block);
                    rotate_heads(*in.q.y, in.q_norm, in, block);
                  }};
    lowbit::matmul(kernels_, groups_, workspace_, *pool_);
  }

  void gated_matmul(const Tensor& x, const Norm& norm, const Product& gate,
                    const Product& up) override {
    const Count count(*this, counters_.products);
    prepare(x, &norm, std::array{gate, up});
    groups_.resize(1);
    groups_[0] = {.parts = {part_of(gate), part_of(up)},
                  .after = [this, &gate, &up](const MatmulBlock& block) {
                    add_bias(gate, block);
                    add_bias(up, block);
                    for_block_rows(block, [&](std::int64_t row, std::int64_t n_cols) {
                      float* const out = on_cpu(*gate.y).row(row) + block.first_col;
                      kernels_.vector.silu_mul(out, on_cpu(*up.y).row(row) + block.first_col,
                                               n_cols, out);
                    });
                  }};
    lowbit::matmul(kernels_, groups_, workspace_, *pool_);
  }

  void matmul_add(const Tensor& x, const Product& product, Tensor& sum) override {
    const Count count(*this, counters_.products);
    prepare(x, nullptr, {&product, 1});
    groups_.resize(1);
    groups_[0] = {
        .parts = {part_of(product)}, .after = [this, &product, &sum](const MatmulBlock& block) {
          add_bias(product, block);
          for_block_rows(block, [&](std::int64_t row, std::int64_t n_cols) {
            float* const out = on_cpu(sum).row(row) + block.first_col;
            kernels_.vector.add(out, on_cpu(*product.y).row(row) + block.first_col, n_cols, out);
          });
        }};
    lowbit::matmul(kernels_, groups_, workspace_, *pool_);
  }

  void rope(Tensor& x, std::int64_t head_dim, const Tensor& cos, const Tensor& sin) override {
    const Count count(*this, counters_.rows);
    LOWBIT_ASSERT(x.cols % head_dim == 0 && cos.cols * 2 == head_dim && cos.rows == x.rows);
    for_rows(x.rows, [&](std::int64_t row) {
      for (std::int64_t first = 0; first < x.cols; first += head_dim) {
        kernels_.vector.rope_rotate(on_cpu(x).row(row) + first, on_cpu(cos).row(row),
                                    on_cpu(sin).row(row), cos.cols);
      }
    });
  }

  void kv_zero(KvPool& pool, std::span<const std::int32_t> pages) override {
    for (const std::int32_t page : pages) {
      std::memset(on_cpu(pool).page(page), 0, static_cast<std::size_t>(pool.page_bytes));
    }
  }

  void kv_store(KvPool& pool, const Tensor& k, const Tensor& v,
                std::span<const SequenceRows> sequences) override {
    const Count count(*this, counters_.rows);
    const CpuKvPool& pages = on_cpu(pool);
    for (const SequenceRows& sequence : sequences) {
      for_rows(sequence.n_rows, [&](std::int64_t i) {
        store_row(pages, on_cpu(k), on_cpu(v), sequence.first_row + i, 0, k.cols,
                  position_of(sequence, i));
      });
    }
  }

  void attention(const KvPool& pool, const Tensor& q, std::span<const SequenceRows> sequences,
                 Tensor& y) override {
    const Count count(*this, counters_.attention);
    const CpuKvPool& pages = on_cpu(pool);
    const std::int64_t head_dim = pages.layout.head_dim;
    const std::int64_t queries_per_kv_head = q.cols / head_dim / pages.n_kv_heads;
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    list_blocks(pages, sequences);
    tasks_.clear();
    const std::byte* const* blocks = blocks_.data();
    for (const SequenceRows& sequence : sequences) {
      const std::int64_t n_positions = sequence.first_position + sequence.n_rows;
      for (std::int64_t kv_head = 0; kv_head < pages.n_kv_heads; ++kv_head) {
        for (std::int64_t i = 0; i < sequence.n_rows; ++i) {
          const std::int64_t row = sequence.first_row + i;
          for (std::int64_t j = 0; j < queries_per_kv_head; ++j) {
            const std::int64_t first = (kv_head * queries_per_kv_head + j) * head_dim;
            tasks_.push_back({.q = on_cpu(q).row(row) + first,
                              .out = on_cpu(y).row(row) + first,
                              .blocks = blocks,
                              .n_visible = sequence.first_position + i + 1,
                              .scale = scale});
          }
        }
        blocks += n_blocks_for(n_positions);
      }
    }
    lowbit::attention(*pool_, kernels_.attention, pages.layout, tasks_, attention_workspace_);
  }

  void silu_mul(Tensor& gate, const Tensor& up) override {
    const Count count(*this, counters_.rows);
    for_rows(gate.rows, [&](std::int64_t row) {
      float* const out = on_cpu(gate).row(row);
      kernels_.vector.silu_mul(out, on_cpu(up).row(row), gate.cols, out);
    });
  }

  void add(Tensor& x, const Tensor& y) override {
    const Count count(*this, counters_.rows);
    for_rows(x.rows, [&](std::int64_t row) {
      float* const out = on_cpu(x).row(row);
      kernels_.vector.add(out, on_cpu(y).row(row), x.cols, out);
    });
  }

 private:
  using Clock = std::chrono::steady_clock;

  Result<std::unique_ptr<Weight>> adopt_finite(Result<PackedMatrix> packed,
                                               std::optional<Activations> activations) {
    if (!packed) return std::move(packed).error();
    if (!packed->is_finite()) {
      return Error("holds a number or a scale that is not finite; the file is damaged");
    }
    return adopt(*std::move(packed), activations);
  }

  /// Adds the time until its end, and the loops in it, to a counter.
  class Count {
   public:
    Count(const CpuBackend& backend, WorkCounters& work)
        : pool_(*backend.pool_), work_(backend.is_counting_ ? &work : nullptr) {
      if (work_ == nullptr) return;
      loops_ = pool_.counters();
      start_ = Clock::now();
    }
    ~Count() {
      if (work_ == nullptr) return;
      ++work_->n_calls;
      work_->seconds += std::chrono::duration<double>(Clock::now() - start_).count();
      work_->loops += pool_.counters() - loops_;
    }
    Count(const Count&) = delete;
    Count& operator=(const Count&) = delete;

   private:
    const ThreadPool& pool_;
    WorkCounters* work_;  // null: not counting
    LoopCounters loops_;
    Clock::time_point start_;
  };

  static constexpr std::int64_t n_blocks_for(std::int64_t n_positions) {
    return (n_positions + kv_block_positions - 1) / kv_block_positions;
  }

  /// A few rows cost less than waking the other threads.
  template <class Body>
  void for_rows(std::int64_t n_rows, Body&& body) {
    constexpr std::int64_t rows_per_chunk = 8;
    if (n_rows <= rows_per_chunk) {
      for (std::int64_t row = 0; row < n_rows; ++row) body(row);
      return;
    }
    pool_->parallel_for(n_rows, rows_per_chunk, [&](std::int64_t first, std::int64_t last, int) {
      for (std::int64_t row = first; row < last; ++row) body(row);
    });
  }

  /// body(row, columns of the block)
  template <class Body>
  static void for_block_rows(const MatmulBlock& block, Body&& body) {
    for (std::int64_t row = block.first_token; row < block.last_token; ++row) {
      body(row, block.last_col - block.first_col);
    }
  }

  /// The form of x for products with w. The list is short and only grows; places do not change.
  ActivationForm& form_of(const Weight& w) {
    const auto at =
        std::ranges::find_if(forms_, [&](const ActivationForm& form) { return form.is_of(w); });
    if (at != forms_.end()) return *at;
    return forms_.emplace_back(ActivationForm{w.activations, w.input, {}});
  }

  /// The rows of x, or of norm(x), in every form that the products read.
  void prepare(const Tensor& x, const Norm* norm, std::span<const Product> products) {
    used_.clear();
    bool is_rotated = false;
    for (const Product& product : products) {
      ActivationForm& form = form_of(*product.w);
      if (std::ranges::find(used_, &form) == used_.end()) {
        form.rows.reset(form.kind, x.rows, x.cols);
        used_.push_back(&form);
        is_rotated = is_rotated || !form.basis.is_plain();
      }
      form.rows.add_reader(kernels_, on_cpu(*product.w).packed);
    }
    const auto n_numbers = static_cast<std::size_t>(x.rows * x.cols);
    if (is_rotated && rotated_.size() < n_numbers) rotated_.resize(n_numbers);
    for_rows(x.rows, [&](std::int64_t row) {
      const float* from = on_cpu(x).row(row);
      if (norm != nullptr) {
        float* const normed = on_cpu(*norm->y).row(row);
        kernels_.vector.rms_norm(from, on_cpu(*norm->w).row(0), norm->eps, x.cols, normed);
        from = normed;
      }
      for (ActivationForm* form : used_) {
        form->rows.fill(kernels_, row, in_basis(form->basis, from, row, x.cols));
      }
    });
  }

  /// A row of x in a basis; rows of several threads do not meet.
  const float* in_basis(const Basis& basis, const float* x, std::int64_t row, std::int64_t n_cols) {
    if (basis.is_plain()) return x;
    float* const out = rotated_.data() + row * n_cols;
    kernels_.vector.hadamard(x, basis.hadamard, n_cols, out);
    return out;
  }

  MatmulPart part_of(const Product& product) {
    return {&on_cpu(*product.w).packed, &form_of(*product.w).rows, on_cpu(*product.y).view()};
  }

  void multiply_all(std::span<const Product> products) {
    groups_.resize(products.size());
    for (std::size_t i = 0; i < products.size(); ++i) {
      groups_[i] = {.parts = {part_of(products[i])}};
      if (products[i].bias == nullptr) continue;
      groups_[i].after = [this, &product = products[i]](const MatmulBlock& block) {
        add_bias(product, block);
      };
    }
    lowbit::matmul(kernels_, groups_, workspace_, *pool_);
  }

  void add_bias(const Product& product, const MatmulBlock& block) const {
    if (product.bias == nullptr) return;
    const float* const bias = on_cpu(*product.bias).row(0) + block.first_col;
    for_block_rows(block, [&](std::int64_t row, std::int64_t n_cols) {
      float* const y = on_cpu(*product.y).row(row) + block.first_col;
      kernels_.vector.add(y, bias, n_cols, y);
    });
  }

  /// Norm and rotation of the heads of a block.
  void rotate_heads(Tensor& x, const Tensor* norm, const AttentionInputs& in,
                    const MatmulBlock& block) const {
    for_block_rows(block, [&](std::int64_t row, std::int64_t n_cols) {
      float* const heads = on_cpu(x).row(row) + block.first_col;
      for (float* head = heads; head < heads + n_cols; head += in.head_dim) {
        if (norm != nullptr) {
          kernels_.vector.rms_norm(head, on_cpu(*norm).row(0), in.eps, in.head_dim, head);
        }
        kernels_.vector.rope_rotate(head, on_cpu(*in.cos).row(row), on_cpu(*in.sin).row(row),
                                    in.cos->cols);
      }
    });
  }

  void finish_keys(const AttentionInputs& in, const MatmulBlock& block) const {
    add_bias(in.k, block);
    add_bias(in.v, block);
    rotate_heads(*in.k.y, in.k_norm, in, block);
    for_block_rows(block, [&](std::int64_t row, std::int64_t n_cols) {
      store_row(on_cpu(*in.pool), on_cpu(*in.k.y), on_cpu(*in.v.y), row, block.first_col,
                block.first_col + n_cols, positions_[static_cast<std::size_t>(row)]);
    });
  }

  /// Where a row's keys and values go.
  struct RowPosition {
    std::int32_t page = 0;
    int in_page = 0;
  };

  static RowPosition position_of(const SequenceRows& sequence, std::int64_t i) {
    const std::int64_t position = sequence.first_position + i;
    return {sequence.pages[static_cast<std::size_t>(position / kv_block_positions)],
            static_cast<int>(position % kv_block_positions)};
  }

  void list_positions(std::span<const SequenceRows> sequences) {
    positions_.clear();
    for (const SequenceRows& sequence : sequences) {
      LOWBIT_ASSERT(sequence.first_row == static_cast<std::int64_t>(positions_.size()));
      for (std::int64_t i = 0; i < sequence.n_rows; ++i) {
        positions_.push_back(position_of(sequence, i));
      }
    }
  }

  /// The heads in columns [first_col, last_col) of a row.
  void store_row(const CpuKvPool& pages, const CpuTensor& k, const CpuTensor& v, std::int64_t row,
                 std::int64_t first_col, std::int64_t last_col, RowPosition at) const {
    const std::int64_t head_dim = pages.layout.head_dim;
    for (std::int64_t col = first_col; col < last_col; col += head_dim) {
      kernels_.attention.kv_store(pages.layout, pages.block(at.page, col / head_dim), at.in_page,
                                  k.row(row) + col, v.row(row) + col);
    }
  }

  /// For every sequence and KV head in turn, the addresses of its blocks.
  void list_blocks(const CpuKvPool& pages, std::span<const SequenceRows> sequences) {
    blocks_.clear();
    for (const SequenceRows& sequence : sequences) {
      const auto n_blocks =
          static_cast<std::size_t>(n_blocks_for(sequence.first_position + sequence.n_rows));
      for (std::int64_t head = 0; head < pages.n_kv_heads; ++head) {
        for (const std::int32_t page : sequence.pages.first(n_blocks)) {
          blocks_.push_back(pages.block(page, head));
        }
      }
    }
  }

  ThreadPool* pool_;
  SlabMemory panel_memory_;
  const KernelTable& kernels_;
  bool is_counting_ = false;
  BackendCounters counters_;
  std::deque<ActivationForm> forms_;
  std::vector<ActivationForm*> used_;  // by the products of this call
  std::vector<float> rotated_;
  MatmulWorkspace workspace_;
  std::vector<MatmulGroup> groups_;
  std::vector<RowPosition> positions_;  // of the rows of a step
  AttentionWorkspace attention_workspace_;
  std::vector<AttentionTask> tasks_;
  std::vector<const std::byte*> blocks_;
};

}  // namespace

Result<std::unique_ptr<Backend>> make_cpu_backend(ThreadPool& pool) {
  auto kernels = select_kernels();
  if (!kernels) return std::move(kernels).error();
  return std::unique_ptr<Backend>(std::make_unique<CpuBackend>(pool, **kernels));
}

Result<std::unique_ptr<Backend>> make_cpu_backend(ThreadPool& pool, Isa isa) {
  const KernelTable* kernels = kernels_for(isa);
  if (kernels == nullptr) {
    return Error(fmt::format("this machine or build has no {} kernels", name_of(isa)));
  }
  return std::unique_ptr<Backend>(std::make_unique<CpuBackend>(pool, *kernels));
}

}  // namespace lowbit
