// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/thread_count.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <thread>

namespace lowbit {
namespace {

/// A made-up /proc and /sys in a temporary folder.
class ThreadCountTest : public ::testing::Test {
 protected:
  ThreadCountTest()
      : root_(std::filesystem::path(::testing::TempDir()) /
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(root_);
  }
  ~ThreadCountTest() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void cpu(int cpu, int package, int core) {
    const std::string topology = "sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    write(topology + "physical_package_id", std::to_string(package) + "\n");
    write(topology + "core_id", std::to_string(core) + "\n");
  }
  ThreadCount count(std::span<const int> cpus) { return thread_count_under(root_.string(), cpus); }

  std::filesystem::path root_;
  static constexpr std::array<int, 4> four_cpus{0, 1, 2, 3};
};

TEST_F(ThreadCountTest, SiblingsOfACoreCountOnce) {
  for (int i = 0; i < 4; ++i) cpu(i, 0, i / 2);
  EXPECT_EQ(count(four_cpus).n_threads, 2);
  EXPECT_EQ(count(four_cpus).reason, "2 physical cores");
}

TEST_F(ThreadCountTest, EqualCoreNumbersInTwoPackagesAreTwoCores) {
  for (int i = 0; i < 4; ++i) cpu(i, i / 2, i % 2);
  EXPECT_EQ(count(four_cpus).n_threads, 4);
}

TEST_F(ThreadCountTest, AffinityLimits) {
  for (int i = 0; i < 4; ++i) cpu(i, 0, i);
  EXPECT_EQ(count(std::array{2}).n_threads, 1);
  EXPECT_EQ(count(std::array{2}).reason, "1 physical core");
}

TEST_F(ThreadCountTest, WithoutTopologyEveryCpuIsACore) {
  EXPECT_EQ(count(four_cpus).n_threads, 4);
}

TEST_F(ThreadCountTest, QuotaOfCgroup2IsRoundedDown) {
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  write("sys/fs/cgroup/a/cpu.max", "250000 100000\n");  // the ancestor limits
  EXPECT_EQ(count(four_cpus).n_threads, 2);
  EXPECT_EQ(count(four_cpus).reason, "cgroup quota of 2.50 CPUs, 4 physical cores");
}

TEST_F(ThreadCountTest, QuotaOfCgroup2AtTheRootOfAContainer) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(count(four_cpus).n_threads, 1);  // never below one
}

TEST_F(ThreadCountTest, QuotaOfCgroup1) {
  write("proc/self/cgroup", "7:memory:/x\n4:cpu,cpuacct:/docker/1\n");
  write("sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us", "300000\n");
  write("sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(count(four_cpus).n_threads, 3);
}

TEST_F(ThreadCountTest, NoQuotaIsNoLimit) {
  write("proc/self/cgroup", "4:cpu:/\n0::/\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(count(four_cpus).n_threads, 4);
}

TEST_F(ThreadCountTest, AQuotaOfOneAndAHalfIsOneThread) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/cpu.max", "150000 100000\n");
  const ThreadCount found = count(four_cpus);
  EXPECT_EQ(found.n_threads, 1);
  EXPECT_NE(found.reason.find("1.50"), std::string::npos) << found.reason;
}

TEST(ThreadCount, FollowsTheAffinityMask) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &before)) ++cpu;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  const ThreadCount found = default_thread_count();
  ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
  EXPECT_EQ(found.n_threads, 1);
}

TEST(ThreadCount, OfThisMachine) {
  const ThreadCount found = default_thread_count();
  EXPECT_GE(found.n_threads, 1);
  EXPECT_LE(found.n_threads, static_cast<int>(std::thread::hardware_concurrency()));
  EXPECT_NE(found.reason, "");
}

}  // namespace
}  // namespace lowbit
