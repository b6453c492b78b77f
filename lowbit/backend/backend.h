// SPDX-License-Identifier: Apache-2.0
// What a device must do for the forward pass: about ten verbs over opaque tensors, and four that
// are several of them in a row, for devices that can do better than one after the other. The
// forward pass sees this interface alone, so a new device is one adapter. Verbs run in the order of
// the calls and their arguments are the caller's promise; what input can cause is checked when
// weights are packed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/kernels/activations.h"
#include "lowbit/kernels/kv_block.h"
#include "lowbit/kernels/packed_matrix.h"

namespace lowbit {

/// (rows, cols) f32 in the device's memory. `rows` may be set up to the capacity it was made with.
struct Tensor {
  std::int64_t rows = 0, cols = 0, capacity = 0;
  virtual ~Tensor() = default;
};

/// A weight matrix (rows = outputs, cols = inputs) in the order its kernels want.
struct Weight {
  std::int64_t rows = 0, cols = 0, n_bytes = 0;
  Scheme scheme;
  Activations activations = Activations::f32;
  Basis input = {};  // applied to x before the product, to the rows of a table after it
  virtual ~Weight() = default;
};

/// Pages of keys and values: one page holds kv_block_positions positions of one layer, all heads.
struct KvPool {
  KvKind kind = KvKind::f16;
  std::int64_t n_pages = 0, page_bytes = 0;
  virtual ~KvPool() = default;
};

/// Rows of a step that belong to one sequence, at consecutive positions, and its pages of one
/// layer.
struct SequenceRows {
  std::int64_t first_row = 0, n_rows = 0, first_position = 0;
  std::span<const std::int32_t> pages;  // page b: positions [b, b + 1) * kv_block_positions
};

/// y = x w^T (+ bias on every row).
struct Product {
  const Weight* w = nullptr;
  const Tensor* bias = nullptr;  // (1, w.rows) or null
  Tensor* y = nullptr;           // (x.rows, w.rows)
};

/// norm(x), by rows, which a verb takes instead of x.
struct Norm {
  const Tensor* w = nullptr;  // (1, x.cols)
  float eps = 0;
  Tensor* y = nullptr;  // (x.rows, x.cols), where it is kept meanwhile
};

/// What attention starts from: q, k and v of a layer, normalized by heads where there are norms,
/// rotated by cos and sin (x.rows, head_dim / 2); k and v go to the pages of their positions.
struct AttentionInputs {
  Product q, k, v;
  const Tensor *q_norm = nullptr, *k_norm = nullptr;  // (1, head_dim) or null
  float eps = 0;
  std::int64_t head_dim = 0;
  const Tensor *cos = nullptr, *sin = nullptr;
  KvPool* pool = nullptr;
  std::span<const SequenceRows> sequences;
};

/// What a kind of work took while counting was on.
struct WorkCounters {
  std::int64_t n_calls = 0;
  double seconds = 0;  // of the calls
  LoopCounters loops;  // parallel loops inside them
};
struct BackendCounters {
  WorkCounters products;   // matrix products and what is fused into them
  WorkCounters attention;  // scores, softmax, values
  WorkCounters rows;       // everything else that is computed row by row
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;

  /// The team that computes from now on, as large as the one before; it must outlive the backend.
  /// A backend without threads of this machine ignores it.
  virtual void set_team(ThreadPool& /*pool*/) {}

  /// Off at first. A backend without counters ignores it.
  virtual void count(bool /*on*/) {}
  /// What was counted since the last call.
  virtual BackendCounters take_counters() { return {}; }

  /// Uninitialized; rows = capacity = n_rows.
  virtual std::unique_ptr<Tensor> make_tensor(std::int64_t n_rows, std::int64_t n_cols) = 0;
  virtual void upload(std::span<const float> from, Tensor& to) = 0;
  virtual void download(const Tensor& from, std::span<float> to) = 0;

  /// activations: nothing means the scheme's default. Errors: no kernel for the scheme, or the
  /// scheme cannot take these activations.
  virtual Result<std::unique_ptr<Weight>> pack(const QuantizedTensor& tensor,
                                               std::optional<Activations> activations) = 0;
  /// The same, reading the matrix a few rows at a time.
  virtual Result<std::unique_ptr<Weight>> pack(const RowSource& rows,
                                               std::optional<Activations> activations) = 0;
  /// The same from panels that were packed before (a pack cache).
  virtual Result<std::unique_ptr<Weight>> adopt(PackedMatrix packed,
                                                std::optional<Activations> activations) = 0;
  /// What a pack cache keeps of a weight; null on devices with another packed form.
  virtual const PackedMatrix* packed_form(const Weight& weight) const = 0;
  /// What multiplies this matrix with n_tokens rows, for people to read.
  virtual std::string kernel_name(const Weight& weight, std::int64_t n_tokens) const = 0;
  /// The memory is the system's until a page is first used.
  virtual Result<std::unique_ptr<KvPool>> make_kv_pool(KvKind kind, std::int64_t n_kv_heads,
                                                       std::int64_t head_dim,
                                                       std::int64_t n_pages) = 0;

  /// y row i = table row ids[i].
  virtual void embed(const Weight& table, std::span<const std::int32_t> ids, Tensor& y) = 0;
  /// y row i = x row rows[i].
  virtual void gather(const Tensor& x, std::span<const std::int32_t> rows, Tensor& y) = 0;
  /// Every run of w.cols numbers of a row is normalized by itself (a row, or each head). y may be
  /// x.
  virtual void rms_norm(const Tensor& x, const Tensor& w, float eps, Tensor& y) = 0;
  /// All products of one x: it is put into every basis and quantized for every kind of activations
  /// among them once.
  virtual void matmul(const Tensor& x, std::span<const Product> products) = 0;
  /// Rotates numbers j and j + half of every head by the row's angle j. cos, sin: (x.rows, half).
  virtual void rope(Tensor& x, std::int64_t head_dim, const Tensor& cos, const Tensor& sin) = 0;
  /// Zeroes pages; 0 x NaN is NaN, so none may hold an earlier sequence's bytes.
  virtual void kv_zero(KvPool& pool, std::span<const std::int32_t> pages) = 0;
  /// k, v: (rows, n_kv_heads * head_dim), stored at the positions of their rows.
  virtual void kv_store(KvPool& pool, const Tensor& k, const Tensor& v,
                        std::span<const SequenceRows> sequences) = 0;
  /// Causal. q, y: (rows, n_heads * head_dim); the scale is 1 / sqrt(head_dim).
  virtual void attention(const KvPool& pool, const Tensor& q,
                         std::span<const SequenceRows> sequences, Tensor& y) = 0;
  /// gate = silu(gate) * up.
  virtual void silu_mul(Tensor& gate, const Tensor& up) = 0;
  /// x += y.
  virtual void add(Tensor& x, const Tensor& y) = 0;

  // What a layer is made of: each is the verbs above in a row, and what this class does. A device
  // that does them in one go gives the same bits.

  /// Products of norm(x).
  virtual void norm_matmul(const Tensor& x, const Norm& norm, std::span<const Product> products);
  virtual void attention_inputs(const Tensor& x, const Norm& norm, const AttentionInputs& inputs);
  /// gate.y = silu(gate.y) * up.y of norm(x).
  virtual void gated_matmul(const Tensor& x, const Norm& norm, const Product& gate,
                            const Product& up);
  /// sum += product.y of x.
  virtual void matmul_add(const Tensor& x, const Product& product, Tensor& sum);
};

}  // namespace lowbit
