// SPDX-License-Identifier: Apache-2.0
// One line per scheme, activations, instruction set and shape, on one thread: time (of the CPU, so
// a noisy neighbour counts less), GB/s of packed weights, GOPS, and the share of what this
// machine's registers (gemm: int8 or f32 products of that instruction set) or memory (gemv: a read
// of the same panels) give, probed beside every measurement. Names:
// matmul/SCHEME/ACTIVATIONS/ISA/TOKENSxNxK; choose with
// --benchmark_filter, e.g. --benchmark_filter='q8_0/.*/avx512_vnni/'.
#include <benchmark/benchmark.h>
#include <time.h>

#include <random>
#include <string>
#include <vector>

#include "lowbit/kernels/matmul.h"

namespace lowbit {
namespace {

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

/// Random codes; factors of one moderate size, so that nothing is infinite.
void fill(QuantizedTensor& tensor, bool is_factor) {
  std::minstd_rand random(1);
  for (std::int64_t r = 0; r < tensor.rows; ++r) {
    if (is_factor || tensor.scheme.code->formula != nullptr) {
      for (std::int64_t i = 0; i < tensor.codes.n_per_row(); ++i) {
        const float value = 0.01f * static_cast<float>(1 + random() % 7);
        tensor.codes.set(r, i, nearest_code(*tensor.scheme.code, value));
      }
      continue;
    }
    for (std::byte& byte : tensor.codes.row(r)) byte = static_cast<std::byte>(random() >> 8);
  }
  if (tensor.scale) fill(*tensor.scale, true);
  if (tensor.zero) fill(*tensor.zero, true);
}

struct Setup {
  const KernelTable* kernels;
  Scheme scheme;
  Activations activations;
  std::int64_t n_tokens, n, k;
};

void run(benchmark::State& state, const Setup& s) {
  ThreadPool pool(1);
  QuantizedTensor w(s.scheme, s.n, s.k);
  fill(w, false);
  const Result<PackedMatrix> packed = pack(w, pool);
  if (!packed) return state.SkipWithError(packed.error().message().c_str());
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(s.n_tokens * s.k));
  for (float& number : x) number = normal(random);
  std::vector<float> y(static_cast<std::size_t>(s.n_tokens * s.n));
  PackedActivations prepared;
  prepare_activations(*s.kernels, MatrixView(x.data(), s.n_tokens, s.k), s.activations, *packed,
                      prepared, pool);
  MatmulWorkspace workspace;
  const auto product = [&] {
    matmul(*s.kernels, *packed, prepared, MutableMatrixView(y.data(), s.n_tokens, s.n), workspace,
           pool);
  };
  product();

  constexpr std::int64_t most_gemv_tokens = 8;
  const bool is_gemv = s.n_tokens <= most_gemv_tokens;
  constexpr std::int64_t probe_rounds = 20000;
  constexpr std::size_t cache_line = 64;
  alignas(64) std::array<std::int32_t, panel_cols> int_sink{};
  alignas(64) std::array<float, panel_cols> float_sink{};
  alignas(64) std::array<std::uint8_t, cache_line> byte_sink{};
  const auto roof = [&] {
    const RoofKernels& probe = s.kernels->roof;
    const double start = cpu_seconds();
    std::int64_t amount = packed->n_bytes() / roof_read_multiple * roof_read_multiple;
    if (is_gemv) {
      probe.read(packed->view().panels, amount, byte_sink.data());
    } else if (s.activations == Activations::f32) {
      amount = probe.f32_products(probe_rounds, float_sink.data());
    } else {
      amount = probe.int8_products(probe_rounds, int_sink.data());
    }
    return static_cast<double>(amount) / (cpu_seconds() - start);
  };
  const double operations = 2.0 * static_cast<double>(s.n_tokens * s.n * s.k);
  const double amount = is_gemv ? static_cast<double>(packed->n_bytes()) : operations;
  std::vector<double> shares;
  double seconds = 0;
  for (auto _ : state) {
    const double before = roof(), start = cpu_seconds();
    product();
    const double elapsed = cpu_seconds() - start;
    state.SetIterationTime(elapsed);
    seconds += elapsed;
    shares.push_back(amount / elapsed / ((before + roof()) / 2));
  }
  std::ranges::sort(shares);
  const double iterations = static_cast<double>(shares.size());
  state.counters["GB/s"] = static_cast<double>(packed->n_bytes()) * iterations / seconds / 1e9;
  state.counters["GOPS"] = operations * iterations / seconds / 1e9;
  state.counters["%roof"] = 100 * shares[shares.size() / 2];
  state.SetLabel(kernel_name(*s.kernels, *packed, s.activations, s.n_tokens));
}

/// Packing at load: GB/s of what the planar tensor weighs, one thread.
void run_pack(benchmark::State& state, const Scheme& scheme) {
  constexpr std::int64_t n = 1024, k = 4096;
  ThreadPool pool(1);
  QuantizedTensor w(scheme, n, k);
  fill(w, false);
  for (auto _ : state) benchmark::DoNotOptimize(pack(w, pool));
  const double bytes = planar_bits_per_weight(scheme, n, k) * static_cast<double>(n * k) / 8;
  state.counters["GB/s"] = benchmark::Counter(bytes * static_cast<double>(state.iterations()) / 1e9,
                                              benchmark::Counter::kIsRate);
}

void register_all() {
  struct Shape {
    std::int64_t n_tokens, n, k;
  };
  constexpr std::array shapes{Shape{1, 8192, 4096}, Shape{2, 8192, 4096},   Shape{4, 8192, 4096},
                              Shape{8, 8192, 4096}, Shape{512, 2048, 8192}, Shape{512, 8192, 2048},
                              Shape{96, 2048, 2048}};
  constexpr int least_runs = 20;
  for (const Scheme& scheme : named_schemes()) {
    const std::string pack_name = "pack/" + std::string(scheme.name);
    benchmark::RegisterBenchmark(pack_name.c_str(),
                                 [scheme](benchmark::State& state) { run_pack(state, scheme); })
        ->Unit(benchmark::kMicrosecond)
        ->Iterations(least_runs);
    for (const KernelTable* kernels : available_kernels()) {
      if (kernels->isa == Isa::scalar) continue;
      for (const Activations activations : {Activations::f32, Activations::int8_g32,
                                            Activations::int8_g256, Activations::int8_token}) {
        if (!check_activations(scheme, activations)) continue;
        for (const Shape shape : shapes) {
          const Setup setup{kernels, scheme, activations, shape.n_tokens, shape.n, shape.k};
          const std::string name =
              "matmul/" + std::string(scheme.name) + "/" + std::string(name_of(activations)) + "/" +
              std::string(name_of(kernels->isa)) + "/" + std::to_string(shape.n_tokens) + "x" +
              std::to_string(shape.n) + "x" + std::to_string(shape.k);
          benchmark::RegisterBenchmark(name.c_str(),
                                       [setup](benchmark::State& state) { run(state, setup); })
              ->UseManualTime()
              ->Unit(benchmark::kMicrosecond)
              ->Iterations(least_runs);
        }
      }
    }
  }
}

[[maybe_unused]] const bool registered = (register_all(), true);

}  // namespace
}  // namespace lowbit
