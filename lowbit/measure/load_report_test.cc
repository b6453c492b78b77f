// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/load_report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lowbit {
namespace {

// numpy.percentile([15, 20, 35, 40, 50], q)
TEST(LoadReportTest, PercentilesAreNumpysLinearOnes) {
  const std::vector<double> values{15, 20, 35, 40, 50};
  EXPECT_DOUBLE_EQ(percentile(values, 0), 15);
  EXPECT_DOUBLE_EQ(percentile(values, 40), 29);
  EXPECT_DOUBLE_EQ(percentile(values, 50), 35);
  EXPECT_DOUBLE_EQ(percentile(values, 99), 49.6);
  EXPECT_DOUBLE_EQ(percentile(values, 100), 50);
  EXPECT_DOUBLE_EQ(percentile(std::vector{7.0}, 99), 7);
  EXPECT_DOUBLE_EQ(percentile(std::vector{1.0, 2.0}, 50), 1.5);
}

// Three answers and a failure, worked out by hand from the definitions.
TEST(LoadReportTest, SummarizesByTheDefinitions) {
  const std::vector<RequestRecord> records{
      {.start = 0, .ttft = 0.1, .latency = 0.5, .gaps = {0.1, 0.3}, .n_input = 10, .n_output = 3},
      {.start = 0.25, .ttft = 0.3, .latency = 0.3, .gaps = {}, .n_input = 20, .n_output = 1},
      {.error = "no", .start = 0.2, .ttft = 9, .latency = 9, .n_input = 99, .n_output = 99},
      // Five tokens in three chunks: ITL is of chunks, TPOT of tokens.
      {.start = 0.5, .ttft = 0.2, .latency = 1.0, .gaps = {0.2, 0.6}, .n_input = 30, .n_output = 5},
  };
  const LoadReport report = summarize(records, 2);
  EXPECT_EQ(report.n_completed, 3);
  EXPECT_EQ(report.n_failed, 1);
  EXPECT_EQ(report.n_input, 60);
  EXPECT_EQ(report.n_output, 9);
  EXPECT_DOUBLE_EQ(report.requests_per_second, 1.5);
  EXPECT_DOUBLE_EQ(report.output_per_second, 4.5);
  EXPECT_DOUBLE_EQ(report.tokens_per_second, 34.5);
  EXPECT_NEAR(report.ttft.mean, 200, 1e-9);
  EXPECT_NEAR(report.ttft.median, 200, 1e-9);
  EXPECT_NEAR(report.ttft.deviation, std::sqrt(2e4 / 3), 1e-9);
  EXPECT_NEAR(report.ttft.p99, 298, 1e-9);   // 200 + 0.98 * 100
  EXPECT_NEAR(report.tpot.mean, 200, 1e-9);  // 400 / 2 and 800 / 4; the second answer has none
  EXPECT_NEAR(report.itl.mean, 300, 1e-9);
  EXPECT_NEAR(report.itl.median, 250, 1e-9);
  EXPECT_NEAR(report.e2el.median, 500, 1e-9);
  EXPECT_EQ(report.peak_requests, 2);  // the third begins as the first ends
  // Chunks at 0.1 0.2 0.5 | 0.55 | 0.7 0.9 1.5: six in the first second.
  EXPECT_DOUBLE_EQ(report.peak_output_per_second, 6);
}

TEST(LoadReportTest, NothingMeasuredIsZero) {
  const LoadReport report = summarize({}, 0);
  EXPECT_EQ(report.n_completed, 0);
  EXPECT_EQ(report.peak_requests, 0);
  EXPECT_DOUBLE_EQ(report.itl.p99, 0);
  EXPECT_DOUBLE_EQ(report.output_per_second, 0);
  EXPECT_EQ(summarize(std::vector<RequestRecord>{{.error = "no"}}, 1).n_failed, 1);
}

TEST(LoadReportTest, ArrivalsKeepTheirRateAndBurstiness) {
  EXPECT_EQ(arrival_times(3, {}, 1, 0), (std::vector<double>{0, 0, 0}));
  EXPECT_TRUE(arrival_times(0, 1, 1, 0).empty());
  constexpr std::int64_t n = 4000;
  constexpr double rate = 8;
  EXPECT_EQ(arrival_times(n, rate, 1, 5), arrival_times(n, rate, 1, 5));
  EXPECT_NE(arrival_times(n, rate, 1, 5), arrival_times(n, rate, 1, 6));
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    std::vector<double> times = arrival_times(n, rate, burstiness, 1);
    EXPECT_NEAR(times.back(), n / rate, 1e-9);
    EXPECT_TRUE(std::ranges::is_sorted(times));
    std::adjacent_difference(times.begin(), times.end(), times.begin());
    double squares = 0;
    for (const double gap : times) squares += (gap - 1 / rate) * (gap - 1 / rate);
    // The variance of a gamma distribution is mean^2 / shape. That of its estimate from n gaps is
    // (2 + 6 / shape) / n of its square: five standard deviations at shape 1/4 are 40 %.
    const double variance = squares / n;
    EXPECT_NEAR(variance * rate * rate * burstiness, 1, 0.4) << "burstiness " << burstiness;
  }
}

}  // namespace
}  // namespace lowbit
