// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/bench_kernels.h"

#include <gtest/gtest.h>

#include <numeric>

#include "lowbit/measure/random_tensor.h"

namespace lowbit {
namespace {

TEST(ProductShape, RoundTrips) {
  const ProductShape shape{512, 2048, 8192};
  EXPECT_EQ(to_string(shape), "512x2048x8192");
  EXPECT_EQ(*parse_shape("512x2048x8192"), shape);
}

TEST(ProductShape, RefusesWhatIsNone) {
  for (const char* text : {"", "1", "1x2", "1x2x", "x1x2", "1x2x3x4", "1x2x3 ", "-1x2x3", "0x1x1",
                           "1x2x9999999", "99999999999999999999x1x1"}) {
    const auto shape = parse_shape(text);
    ASSERT_FALSE(shape) << text;
    EXPECT_NE(shape.error().message().find("tokens x outputs x inputs"), std::string::npos);
  }
}

KernelRow row_of(const char* scheme, Activations activations, ProductShape shape, bool is_warm,
                 int n_threads) {
  ThreadPool pool(n_threads);
  const KernelCase what{available_kernels().front(), *parse_scheme(scheme), activations, shape};
  const auto w = random_weights(what.scheme, shape, pool);
  EXPECT_TRUE(w) << w.error().message();
  return bench_kernel(what, *w, {.is_warm = is_warm, .n_repetitions = 3}, pool);
}

TEST(RoofTime, IsTheHigherOfTheTwo) {
  const Rates rates{.compute = 100, .read = 10};
  const RoofTime read = roof_time(300, 40, rates, Roof::int8);
  EXPECT_EQ(read.roof, Roof::read);
  EXPECT_EQ(read.seconds, 4);
  const RoofTime compute = roof_time(500, 40, rates, Roof::f32);
  EXPECT_EQ(compute.roof, Roof::f32);
  EXPECT_EQ(compute.seconds, 5);
  EXPECT_EQ(roof_time(300, 40, {.compute = 100, .read = 0}, Roof::int8).roof, Roof::int8);
}

TEST(BenchKernel, CountsWhatItMeasured) {
  const KernelRow row = row_of("q4_0", Activations::int8_g32, {1, 4096, 2048}, false, 2);
  EXPECT_EQ(row.seconds.size(), 3u);
  EXPECT_EQ(row.n_threads, 2);
  EXPECT_NEAR(row.gbs * row.median_seconds() * 1e9, static_cast<double>(row.n_bytes), 1);
  EXPECT_NEAR(row.gops * row.median_seconds() * 1e9, 2.0 * 4096 * 2048, 1);
  EXPECT_GT(row.of_roof.front(), 0);
}

TEST(BenchKernel, ManyTokensNeedNoReading) {
  EXPECT_EQ(row_of("q4_0", Activations::int8_g32, {64, 48, 256}, true, 1).roof, Roof::int8);
  EXPECT_EQ(row_of("q4_0", Activations::f32, {64, 48, 256}, true, 1).roof, Roof::f32);
}

TEST(DropFromCaches, LeavesTheBytes) {
  std::vector<std::byte> bytes(1000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i);
  drop_from_caches(std::span<const std::byte>(bytes).subspan(3));
  drop_from_caches({});
  for (std::size_t i = 0; i < bytes.size(); ++i) ASSERT_EQ(bytes[i], static_cast<std::byte>(i));
}

}  // namespace
}  // namespace lowbit
