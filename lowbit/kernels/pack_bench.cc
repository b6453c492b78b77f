// SPDX-License-Identifier: Apache-2.0
// Speed of packing, one thread, in bytes per second of the planar form (which is what a file holds,
// up to padding), for every named scheme that has a packed form.
#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/kernels/packed_matrix.h"

namespace lowbit {
namespace {

constexpr std::int64_t rows = 512, cols = 4096;

void fill(QuantizedTensor& tensor, std::mt19937& random) {
  for (std::int64_t r = 0; r < tensor.codes.n_rows(); ++r) {
    for (std::byte& byte : tensor.codes.row(r)) byte = static_cast<std::byte>(random() & 0xff);
  }
  if (tensor.scale) fill(*tensor.scale, random);
  if (tensor.zero) fill(*tensor.zero, random);
}

void pack_scheme(benchmark::State& state, const Scheme& scheme) {
  std::mt19937 random(1);
  QuantizedTensor tensor(scheme, rows, cols);
  fill(tensor, random);
  ThreadPool pool(1);
  for (auto _ : state) benchmark::DoNotOptimize(pack(tensor, pool));
  const double n_bytes = planar_bits_per_weight(scheme, rows, cols) / 8 * rows * cols;
  state.SetBytesProcessed(static_cast<std::int64_t>(n_bytes) * state.iterations());
}

const bool registered = [] {
  for (const Scheme& scheme : named_schemes()) {
    benchmark::RegisterBenchmark(("pack/" + std::string(scheme.name)).c_str(), pack_scheme, scheme);
  }
  for (const char* name : {"int4.g128", "int8.channel", "e4m3.block128", "nf4.g64"}) {
    benchmark::RegisterBenchmark((std::string("pack/") + name).c_str(), pack_scheme,
                                 *parse_scheme(name));
  }
  return true;
}();

}  // namespace
}  // namespace lowbit
