// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/free_memory.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "lowbit/base/test_files.h"

namespace lowbit {
namespace {

/// A made-up /proc and /sys.
class FreeMemoryTest : public ::testing::Test {
 protected:
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((folder_.path() / path).parent_path());
    write_bytes(folder_.path() / path, text);
  }
  std::optional<FreeMemory> read() { return free_memory_under(folder_.path().string()); }
  void meminfo() {
    write("proc/meminfo", "MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:  3000 kB\n");
  }

  TemporaryFolder folder_;
  static constexpr std::int64_t kb = 1024;
};

TEST_F(FreeMemoryTest, IsWhatTheSystemCallsAvailable) {
  EXPECT_FALSE(read());
  meminfo();
  ASSERT_TRUE(read());
  EXPECT_EQ(read()->n_bytes, 3000 * kb);
  EXPECT_EQ(read()->reason, "available memory");
}

TEST_F(FreeMemoryTest, AGroupOrItsAncestorLimits) {
  meminfo();
  write("proc/self/cgroup", "0::/pod/box\n");
  write("sys/fs/cgroup/pod/box/memory.max", "max\n");
  write("sys/fs/cgroup/pod/box/memory.current", "5000\n");
  EXPECT_EQ(read()->n_bytes, 3000 * kb);
  write("sys/fs/cgroup/pod/memory.max", "1000000\n");
  write("sys/fs/cgroup/pod/memory.current", "600000\n");
  EXPECT_EQ(read()->n_bytes, 400000);
  EXPECT_EQ(read()->reason, "memory limit of the cgroup");
  write("sys/fs/cgroup/pod/memory.stat", "anon 100\ninactive_file 50000\nactive_file 7\n");
  EXPECT_EQ(read()->n_bytes, 450000);
  write("sys/fs/cgroup/pod/box/memory.max", "4000\n");  // more is used: nothing is left
  EXPECT_EQ(read()->n_bytes, 0);
}

TEST_F(FreeMemoryTest, GroupsOfTheFirstVersionCount) {
  meminfo();
  write("proc/self/cgroup", "7:cpu,cpuacct:/a\n4:memory:/a\n");
  write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
  write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "4096\n");
  EXPECT_EQ(read()->n_bytes, 3000 * kb);
  write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "50000\n");
  write("sys/fs/cgroup/memory/a/memory.stat", "inactive_file 1\ntotal_inactive_file 1000\n");
  EXPECT_EQ(read()->n_bytes, 50000 - 3096);
}

TEST(FreeMemory, ThisMachineHasSome) {
  const auto memory = free_memory();
  ASSERT_TRUE(memory);
  EXPECT_GT(memory->n_bytes, 0);
}

}  // namespace
}  // namespace lowbit
