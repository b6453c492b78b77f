// SPDX-License-Identifier: Apache-2.0
// How fast one product is with one instruction set, as a share of what the same machine gave in the
// same milliseconds: every repetition stands between two probes of its roof, and the median of the
// ratios counts, because the speed of a shared machine wanders by the second. The weights are
// thrown out of all caches before each reading unless they are asked for warm: in a model, other
// matrices pass between two uses of one.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/kernels/kernel_table.h"
#include "lowbit/kernels/matmul.h"

namespace lowbit {

/// y (n_tokens, n_outputs) = x (n_tokens, n_inputs) w^T.
struct ProductShape {
  std::int64_t n_tokens = 1, n_outputs = 0, n_inputs = 0;
  bool operator==(const ProductShape&) const = default;
};
/// "512x2048x8192": tokens x outputs x inputs.
std::string to_string(const ProductShape& shape);
Result<ProductShape> parse_shape(std::string_view text);

struct KernelCase {
  const KernelTable* kernels = nullptr;
  Scheme scheme;
  Activations activations = Activations::f32;
  ProductShape shape;

  bool has_weights_of(const KernelCase& other) const {
    return scheme == other.scheme && shape.n_outputs == other.shape.n_outputs &&
           shape.n_inputs == other.shape.n_inputs;
  }
};

struct KernelBenchOptions {
  bool is_warm = false;
  int n_repetitions = 20;
};

/// What limits a product of this shape.
enum class Roof : std::uint8_t { int8, f32, read };
std::string_view name_of(Roof roof);

/// What a machine gave, per second. read 0: the weights need not be read.
struct Rates {
  double compute = 0, read = 0;
};
struct RoofTime {
  Roof roof = Roof::int8;
  double seconds = 0;
};
/// The higher of the two times: computing with `compute_roof` (int8 or f32), reading n_bytes.
RoofTime roof_time(double n_operations, double n_bytes, const Rates& rates, Roof compute_roof);

struct KernelRow {
  KernelCase what;
  int n_threads = 1;
  std::string kernel;           // what ran, e.g. "gemv int8.g32 linear4 two-level avx512_vnni"
  std::int64_t n_bytes = 0;     // packed weights
  std::vector<double> seconds;  // of each repetition, sorted: of the CPU with one thread
  double gbs = 0, gops = 0;     // at the median
  Roof roof = Roof::int8;       // at the medians of the probes
  double roof_rate = 0;         // median of the probes, 10^9 operations or bytes per second
  std::vector<double> of_roof;  // time at the roof over time taken, of each repetition, sorted
  double of_vnni256 = 0;        // of the 256-bit VNNI peak; 0: not measured

  double median_seconds() const { return seconds[seconds.size() / 2]; }
  double median_of_roof() const { return of_roof[of_roof.size() / 2]; }
};

/// Random weights for products of this scheme and shape, whatever the number of tokens. Errors: a
/// matrix that cannot be packed.
Result<PackedMatrix> random_weights(const Scheme& scheme, const ProductShape& shape,
                                    ThreadPool& pool);

/// w: random_weights of `what`, whose activations must pass check_activations.
KernelRow bench_kernel(const KernelCase& what, const PackedMatrix& w,
                       const KernelBenchOptions& options, ThreadPool& pool);

/// Writes back and drops from every cache level the lines of a range that is only read.
void drop_from_caches(std::span<const std::byte> bytes);

}  // namespace lowbit
