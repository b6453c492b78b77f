// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/energy.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace lowbit {
namespace {

namespace fs = std::filesystem;

/// A folder of counters like the kernel's.
class EnergyTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ =
        fs::path(testing::TempDir()) /
        ("energy_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& folder, const std::string& file, const std::string& text) {
    fs::create_directories(root_ / folder);
    std::ofstream(root_ / folder / file) << text << "\n";
  }
  void counter(const std::string& folder, const std::string& name, std::int64_t range,
               std::int64_t now) {
    write(folder, "name", name);
    write(folder, "max_energy_range_uj", std::to_string(range));
    write(folder, "energy_uj", std::to_string(now));
  }
  void set(const std::string& folder, std::int64_t now) {
    write(folder, "energy_uj", std::to_string(now));
  }
  std::string refusal() {
    const auto meter = EnergyMeter::open(root_.string());
    return meter ? "" : meter.error().message();
  }

  fs::path root_;
};

TEST_F(EnergyTest, AddsPackagesAndMemory) {
  counter("intel-rapl:0", "package-0", 1'000'000'000, 500);
  counter("intel-rapl:0:0", "core", 1'000'000'000, 7);  // inside the package
  counter("intel-rapl:0:1", "dram", 1'000'000'000, 900);
  counter("intel-rapl:1", "package-1", 1'000'000'000, 0);
  counter("intel-rapl:2", "psys", 1'000'000'000, 0);            // the packages again
  counter("intel-rapl-mmio:0", "package-0", 1'000'000'000, 0);  // the same by another road
  auto meter = EnergyMeter::open(root_.string());
  ASSERT_TRUE(meter) << meter.error().message();
  EXPECT_EQ(meter->domains(),
            (std::vector<std::string>{"package-0", "package-0 dram", "package-1"}));
  for (const char* other : {"intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"}) {
    set(other, 900'000'000);
  }
  set("intel-rapl:0", 2'000'500);
  set("intel-rapl:0:1", 500'900);
  set("intel-rapl:1", 250'000);
  EXPECT_NEAR(*meter->joules(), 2.75, 1e-9);
  EXPECT_EQ(*meter->joules(), 0);  // nothing since
}

TEST_F(EnergyTest, CountersWrapAround) {
  counter("intel-rapl:0", "package-0", 262'143'328'850, 262'143'000'000);
  auto meter = EnergyMeter::open(root_.string());
  ASSERT_TRUE(meter);
  set("intel-rapl:0", 671'150);
  EXPECT_NEAR(*meter->joules(), 1.0, 1e-9);
}

TEST_F(EnergyTest, SaysWhyThereIsNone) {
  EXPECT_NE(refusal().find("shows no RAPL counters"), std::string::npos) << refusal();
  fs::create_directories(root_);
  EXPECT_NE(refusal().find("holds no RAPL counters"), std::string::npos) << refusal();
  counter("intel-rapl:0", "package-0", 1000, 0);
  write("intel-rapl:0", "energy_uj", "nonsense");
  EXPECT_NE(refusal().find("\"nonsense\" is no counter"), std::string::npos) << refusal();
  // What a user who may not read it meets, without depending on who runs the test.
  fs::remove(root_ / "intel-rapl:0/energy_uj");
  fs::create_directory(root_ / "intel-rapl:0/energy_uj");
  EXPECT_NE(refusal().find("energy_uj"), std::string::npos) << refusal();
}

TEST_F(EnergyTest, SaysWhenACounterGoesAway) {
  counter("intel-rapl:0", "package-0", 1000, 0);
  auto meter = EnergyMeter::open(root_.string());
  ASSERT_TRUE(meter);
  fs::remove_all(root_ / "intel-rapl:0");
  EXPECT_FALSE(meter->joules());
}

}  // namespace
}  // namespace lowbit
