// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/bench_kernels.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>

#include "lowbit/base/assert.h"
#include "lowbit/measure/random_tensor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace lowbit {
namespace {

constexpr double giga = 1e9;
constexpr std::size_t cache_line = 64;
constexpr std::uint64_t weight_seed = 1, token_seed = 2;
/// Above this many tokens a product reads each weight for so many operations that reading never
/// limits it.
constexpr std::int64_t most_tokens_that_read = 32;
/// Small products are repeated until a repetition is long beside the clock and the barriers.
constexpr double shortest_repetition = 100e-6;

double seconds_of(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / giga;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

#if defined(__x86_64__)
bool has_clflushopt() {
  constexpr unsigned leaf = 7, bit = 1u << 23;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(leaf, 0, &eax, &ebx, &ecx, &edx) != 0 && (ebx & bit) != 0;
}

/// Lines leave in any order, several at a time: a quarter of clflush's time.
__attribute__((target("clflushopt"))) void drop_unordered(std::span<const std::byte> bytes) {
  const std::byte* data = bytes.data();
  const std::size_t n_bytes = bytes.size();
  for (std::size_t at = 0; at < n_bytes; at += cache_line) {
    _mm_clflushopt(const_cast<std::byte*>(data + at));
  }
  if (n_bytes != 0) _mm_clflushopt(const_cast<std::byte*>(data + n_bytes - 1));
  _mm_mfence();
}
#endif

/// One product with its weights, tokens and probes.
class Bench {
 public:
  Bench(const KernelCase& what, const KernelBenchOptions& options, const PackedMatrix& w,
        ThreadPool& pool)
      : what_(what),
        options_(options),
        w_(w),
        pool_(pool),
        // One thread alone is timed by its own clock, which stops while a neighbour runs.
        clock_(pool.n_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC),
        x_(static_cast<std::size_t>(what.shape.n_tokens * what.shape.n_inputs)),
        y_(static_cast<std::size_t>(what.shape.n_tokens * what.shape.n_outputs)) {
    // Tokens are a random f32 matrix: codes of the activations then fill their range.
    const QuantizedTensor tokens = random_tensor(*parse_scheme("f32"), what.shape.n_tokens,
                                                 what.shape.n_inputs, token_seed, pool);
    decode_rows(tokens, 0, what.shape.n_tokens, x_);
    prepare_activations(*what.kernels,
                        MatrixView(x_.data(), what.shape.n_tokens, what.shape.n_inputs),
                        what.activations, w, prepared_, pool);
  }

  double operations() const {
    return 2.0 * static_cast<double>(what_.shape.n_tokens * what_.shape.n_outputs) *
           static_cast<double>(what_.shape.n_inputs);
  }
  double n_bytes() const { return static_cast<double>(w_.n_bytes()); }
  std::span<const std::byte> panels() const {
    const PanelView& view = w_.view();
    const std::int64_t n_panels = (view.rows + panel_cols - 1) / panel_cols;
    return {view.panels, static_cast<std::size_t>(n_panels * view.panel_bytes)};
  }

  /// The same work for the machine as in a product: pieces that threads take, as many as they
  /// manage; about a millisecond, beside which the start of the threads is nothing.
  double compute_rate(const KernelTable& kernels) {
    constexpr std::int64_t pieces_per_thread = 100, rounds_per_piece = 4000;
    const bool is_f32 = what_.activations == Activations::f32;
    std::vector<std::int64_t> done(static_cast<std::size_t>(pool_.n_threads()) * cache_line);
    const double start = seconds_of(clock_);
    pool_.parallel_for(pool_.n_threads() * pieces_per_thread, /*chunk=*/1,
                       [&](std::int64_t first, std::int64_t last, int thread) {
                         alignas(cache_line) std::array<std::int32_t, panel_cols> integers;
                         alignas(cache_line) std::array<float, panel_cols> numbers;
                         for (std::int64_t i = first; i < last; ++i) {
                           done[static_cast<std::size_t>(thread) * cache_line] +=
                               is_f32
                                   ? kernels.roof.f32_products(rounds_per_piece, numbers.data())
                                   : kernels.roof.int8_products(rounds_per_piece, integers.data());
                         }
                       });
    const double seconds = seconds_of(clock_) - start;
    double operations = 0;
    for (const std::int64_t n : done) operations += static_cast<double>(n);
    return operations / seconds;
  }

  double read_rate() {
    make_cold();
    constexpr std::int64_t piece_bytes = std::int64_t{1} << 18;
    static_assert(piece_bytes % roof_read_multiple == 0);
    const auto n_bytes =
        static_cast<std::int64_t>(panels().size()) / roof_read_multiple * roof_read_multiple;
    const std::int64_t n_pieces = (n_bytes + piece_bytes - 1) / piece_bytes;
    const double start = seconds_of(clock_);
    pool_.parallel_for(n_pieces, /*chunk=*/1, [&](std::int64_t first, std::int64_t last, int) {
      alignas(cache_line) std::array<std::uint8_t, cache_line> sink;
      for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t at = i * piece_bytes;
        what_.kernels->roof.read(panels().data() + at, std::min(piece_bytes, n_bytes - at),
                                 sink.data());
      }
    });
    return static_cast<double>(n_bytes) / (seconds_of(clock_) - start);
  }

  double product_seconds(std::int64_t n_times) {
    double seconds = 0;
    for (std::int64_t i = 0; i < n_times; ++i) {
      make_cold();
      const double start = seconds_of(clock_);
      matmul(*what_.kernels, w_, prepared_,
             MutableMatrixView(y_.data(), what_.shape.n_tokens, what_.shape.n_outputs), workspace_,
             pool_);
      seconds += seconds_of(clock_) - start;
    }
    return seconds / static_cast<double>(n_times);
  }

  std::string kernel() const {
    return kernel_name(*what_.kernels, w_, what_.activations, what_.shape.n_tokens);
  }

 private:
  void make_cold() {
    if (options_.is_warm) return;
    constexpr std::int64_t piece_bytes = std::int64_t{1} << 16;
    const auto n_bytes = static_cast<std::int64_t>(panels().size());
    pool_.parallel_for((n_bytes + piece_bytes - 1) / piece_bytes, /*chunk=*/4,
                       [&](std::int64_t first, std::int64_t last, int) {
                         const std::int64_t from = first * piece_bytes;
                         const std::int64_t to = std::min(last * piece_bytes, n_bytes);
                         drop_from_caches(panels().subspan(static_cast<std::size_t>(from),
                                                           static_cast<std::size_t>(to - from)));
                       });
  }

  const KernelCase& what_;
  const KernelBenchOptions& options_;
  const PackedMatrix& w_;
  ThreadPool& pool_;
  clockid_t clock_;
  std::vector<float> x_, y_;
  PackedActivations prepared_;
  MatmulWorkspace workspace_;
};

}  // namespace

void drop_from_caches(std::span<const std::byte> bytes) {
#if defined(__x86_64__)
  static const bool has_unordered = has_clflushopt();
  if (has_unordered) return drop_unordered(bytes);
  const auto drop = [](const std::byte* inside_a_line) { _mm_clflush(inside_a_line); };
#elif defined(__aarch64__)
  const auto drop = [](const std::byte* inside_a_line) {
    asm volatile("dc civac, %0" ::"r"(inside_a_line) : "memory");
  };
#else
#error "no instruction that drops a line from the caches is known for this architecture"
#endif
  for (std::size_t at = 0; at < bytes.size(); at += cache_line) drop(bytes.data() + at);
  if (!bytes.empty()) drop(bytes.data() + bytes.size() - 1);
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

std::string to_string(const ProductShape& shape) {
  return fmt::format("{}x{}x{}", shape.n_tokens, shape.n_outputs, shape.n_inputs);
}

Result<ProductShape> parse_shape(std::string_view text) {
  constexpr std::int64_t most = 1 << 20;
  std::array<std::int64_t, 3> sizes{};
  std::string_view rest = text;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), sizes[i]);
    const bool is_last = i + 1 == sizes.size();
    const auto n_read = static_cast<std::size_t>(end - rest.data());
    const bool is_good = error == std::errc() && sizes[i] >= 1 && sizes[i] <= most &&
                         (is_last ? n_read == rest.size() : rest.substr(n_read).starts_with('x'));
    if (!is_good) {
      return Error(fmt::format(
          "\"{}\" is no shape; write tokens x outputs x inputs as 512x2048x8192, each 1 to {}",
          text, most));
    }
    rest.remove_prefix(is_last ? n_read : n_read + 1);
  }
  return ProductShape{sizes[0], sizes[1], sizes[2]};
}

std::string_view name_of(Roof roof) {
  constexpr std::array<std::string_view, 3> names{"int8", "f32", "read"};
  return names[static_cast<std::size_t>(roof)];
}

RoofTime roof_time(double n_operations, double n_bytes, const Rates& rates, Roof compute_roof) {
  const double computing = n_operations / rates.compute;
  const double reading = rates.read > 0 ? n_bytes / rates.read : 0;
  return reading > computing ? RoofTime{Roof::read, reading} : RoofTime{compute_roof, computing};
}

Result<PackedMatrix> random_weights(const Scheme& scheme, const ProductShape& shape,
                                    ThreadPool& pool) {
  return pack(random_tensor(scheme, shape.n_outputs, shape.n_inputs, weight_seed, pool), pool);
}

KernelRow bench_kernel(const KernelCase& what, const PackedMatrix& w,
                       const KernelBenchOptions& options, ThreadPool& pool) {
  LOWBIT_ASSERT(w.rows() == what.shape.n_outputs && w.cols() == what.shape.n_inputs);
  Bench bench(what, options, w, pool);
  KernelRow row;
  row.what = what;
  row.n_threads = pool.n_threads();
  row.kernel = bench.kernel();
  row.n_bytes = static_cast<std::int64_t>(bench.n_bytes());

  const Roof compute_roof = what.activations == Activations::f32 ? Roof::f32 : Roof::int8;
  const bool may_read = what.shape.n_tokens <= most_tokens_that_read;
  const KernelTable* vnni256 =
      what.kernels->isa == Isa::avx2 && compute_roof == Roof::int8 && !may_read
          ? kernels_for(Isa::avx_vnni)
          : nullptr;
  struct Probe {
    Rates rates;
    double vnni256 = 0;  // per second
  };
  const auto probe = [&] {
    return Probe{{bench.compute_rate(*what.kernels), may_read ? bench.read_rate() : 0},
                 vnni256 != nullptr ? bench.compute_rate(*vnni256) : 0};
  };
  bench.product_seconds(1);  // the first one grows buffers
  const double one = bench.product_seconds(1);
  const auto n_times = std::max<std::int64_t>(
      1, options.is_warm ? static_cast<std::int64_t>(shortest_repetition / one) : 1);
  std::vector<double> computes, reads, of_vnni256;
  Probe before = probe();
  for (int i = 0; i < options.n_repetitions; ++i) {
    const double seconds = bench.product_seconds(n_times);
    const Probe after = probe();
    const Rates rates{(before.rates.compute + after.rates.compute) / 2,
                      (before.rates.read + after.rates.read) / 2};
    const RoofTime at_roof = roof_time(bench.operations(), bench.n_bytes(), rates, compute_roof);
    row.seconds.push_back(seconds);
    row.of_roof.push_back(at_roof.seconds / seconds);
    computes.push_back(rates.compute);
    reads.push_back(rates.read);
    if (vnni256 != nullptr) {
      of_vnni256.push_back(bench.operations() / ((before.vnni256 + after.vnni256) / 2) / seconds);
    }
    before = after;
  }
  const Rates rates{median(computes), median(reads)};
  row.roof = roof_time(bench.operations(), bench.n_bytes(), rates, compute_roof).roof;
  row.roof_rate = (row.roof == Roof::read ? rates.read : rates.compute) / giga;
  if (vnni256 != nullptr) row.of_vnni256 = median(of_vnni256);
  std::ranges::sort(row.seconds);
  std::ranges::sort(row.of_roof);
  row.gbs = bench.n_bytes() / row.median_seconds() / giga;
  row.gops = bench.operations() / row.median_seconds() / giga;
  return row;
}

}  // namespace lowbit
