// SPDX-License-Identifier: Apache-2.0
// The roof probes, compiled once per instruction set (roof_kernels.h says what they measure).
// Operands come from a small buffer that stays in the first cache and differs from round to round,
// so that no product is loop-invariant.

constexpr int roof_buffer_rows = 16;
/// Accumulators enough to hide the latency of a product, whatever tile the kernels prefer.
constexpr int roof_tokens = 6;

std::int64_t roof_int8_products(std::int64_t n_rounds, std::int32_t* sink) {
  alignas(64) std::uint8_t w[roof_buffer_rows + tile_panels][64];
  alignas(64) std::int8_t x[roof_buffer_rows + roof_tokens][64];
  for (auto& row : w) {
    for (auto& byte : row) byte = 3;
  }
  for (auto& row : x) {
    for (auto& byte : row) byte = 5;
  }
  i32x16 sums[roof_tokens][tile_panels];
  for (auto& row : sums) {
    for (auto& sum : row) sum = splat(0);
  }
  for (std::int64_t round = 0; round < n_rounds; ++round) {
    const auto at = static_cast<int>(round % roof_buffer_rows);
    u8x64 panel[tile_panels];
#pragma GCC unroll 8
    for (int p = 0; p < tile_panels; ++p) panel[p] = load(w[at + p]);
#pragma GCC unroll 8
    for (int t = 0; t < roof_tokens; ++t) {
      const u8x64 token = broadcast4(x[at + t]);
#pragma GCC unroll 8
      for (int p = 0; p < tile_panels; ++p) sums[t][p] = dot4<false>(sums[t][p], panel[p], token);
    }
  }
  i32x16 total = splat(0);
  for (const auto& row : sums) {
    for (const auto& sum : row) total = add(total, sum);
  }
  store(sink, total);
  constexpr std::int64_t n_lanes = 16, products_per_lane = 4, operations = 2;
  return n_rounds * roof_tokens * tile_panels * n_lanes * products_per_lane * operations;
}

std::int64_t roof_f32_products(std::int64_t n_rounds, float* sink) {
  alignas(64) float w[roof_buffer_rows + tile_panels][16];
  alignas(64) float x[roof_buffer_rows + roof_tokens][16];
  for (auto& row : w) {
    for (auto& number : row) number = 0.5f;
  }
  for (auto& row : x) {
    for (auto& number : row) number = 0.25f;
  }
  f32x16 sums[roof_tokens][tile_panels];
  for (auto& row : sums) {
    for (auto& sum : row) sum = splat(0.0f);
  }
  for (std::int64_t round = 0; round < n_rounds; ++round) {
    const auto at = static_cast<int>(round % roof_buffer_rows);
    f32x16 panel[tile_panels];
#pragma GCC unroll 8
    for (int p = 0; p < tile_panels; ++p) panel[p] = load(w[at + p]);
#pragma GCC unroll 8
    for (int t = 0; t < roof_tokens; ++t) {
      const f32x16 token = splat(x[at + t][0]);
#pragma GCC unroll 8
      for (int p = 0; p < tile_panels; ++p) sums[t][p] = fma(token, panel[p], sums[t][p]);
    }
  }
  f32x16 total = splat(0.0f);
  for (const auto& row : sums) {
    for (const auto& sum : row) total = add(total, sum);
  }
  store(sink, total);
  constexpr std::int64_t n_lanes = 16, operations = 2;
  return n_rounds * roof_tokens * tile_panels * n_lanes * operations;
}

void roof_read(const std::byte* p, std::int64_t n_bytes, std::uint8_t* sink) {
  constexpr int n_streams = 8;
  constexpr std::int64_t vector_bytes = 64, ahead_bytes = 2048;
  const std::int64_t stream_bytes = n_bytes / n_streams;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(p);
  u8x64 seen[n_streams];
  for (auto& vector : seen) vector = splat_u8(0);
  for (std::int64_t at = 0; at < stream_bytes; at += vector_bytes) {
#pragma GCC unroll 8
    for (int stream = 0; stream < n_streams; ++stream) {
      const std::uint8_t* here = bytes + stream * stream_bytes + at;
      prefetch(here + ahead_bytes);
      seen[stream] = bit_or(seen[stream], load(here));
    }
  }
  for (int stream = 1; stream < n_streams; ++stream) seen[0] = bit_or(seen[0], seen[stream]);
  store(sink, seen[0]);
}

constexpr RoofKernels roof_kernels{
    .int8_products = roof_int8_products, .f32_products = roof_f32_products, .read = roof_read};
