// SPDX-License-Identifier: Apache-2.0
// Which table a CPU gets. Under an emulator that plays several CPUs the line "chosen: ..." proves
// the dispatch (scripts/test compares it).
#include "lowbit/kernels/kernel_table.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <string>

namespace lowbit {
namespace {

TEST(KernelTable, TheBestAvailableOneIsChosen) {
  const Isa* best = nullptr;
  for (const Isa& isa : compiled_isas()) {
    if (best == nullptr && is_available(isa)) best = &isa;
  }
  ASSERT_NE(best, nullptr);
  const Result<const KernelTable*> chosen = select_kernels("");
  ASSERT_TRUE(chosen);
  EXPECT_EQ(name_of((*chosen)->isa), name_of(*best));
  EXPECT_TRUE(runs_by_default((*chosen)->isa));
  std::printf("chosen: %s\n", std::string(name_of((*chosen)->isa)).c_str());
}

TEST(KernelTable, AnApproximateOneMustBeNamed) {
  for (const Isa isa : compiled_isas()) {
    EXPECT_FALSE(is_approximate(isa) && runs_by_default(isa)) << name_of(isa);
  }
}

TEST(KernelTable, AnAbsentOneIsAnErrorThatNamesTheChoice) {
  for (std::size_t i = 0; i < isa_names.size(); ++i) {
    const Isa isa = static_cast<Isa>(i);
    const Result<const KernelTable*> chosen = select_kernels(isa_names[i]);
    ASSERT_EQ(chosen.has_value(), kernels_for(isa) != nullptr) << isa_names[i];
    if (chosen) {
      EXPECT_TRUE(is_available(isa)) << isa_names[i];
      EXPECT_EQ((*chosen)->isa, isa);
    } else {
      const std::string message(chosen.error().message());
      EXPECT_NE(message.find(isa_names[i]), std::string::npos) << message;
      EXPECT_NE(message.find("scalar"), std::string::npos) << message;
    }
  }
  EXPECT_FALSE(select_kernels("mmx"));
}

}  // namespace
}  // namespace lowbit
