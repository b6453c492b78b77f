// SPDX-License-Identifier: Apache-2.0
// Keeps docs/adding-a-code.md true: the code of the page stands here, is compiled, and is compared
// with the page.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "lowbit/formats/code_search.h"
#include "lowbit/formats/codes.h"

namespace lowbit {
namespace {

// clang-format off
// The page:
constexpr Code e2m2 = codes::from_table<tables::minifloats<2, 2, tables::Top::finite>>("e2m2");
static_assert(tables::int8_unit(e2m2.values) == 0.25f);  // 0, 1/4, 1/2, ..., 7: 4 times up to 28
// The end.
// clang-format on

std::string text_of(const std::string& path) {
  std::ifstream file(LOWBIT_SOURCE_DIR "/" + path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(AddingACode, ThePageShowsWhatIsCompiledHere) {
  const std::string page = text_of("docs/adding-a-code.md");
  std::istringstream source(text_of("lowbit/formats/adding_a_code_test.cc"));
  std::string line;
  while (std::getline(source, line) && line != "// The page:") {
  }
  int n_lines = 0;
  for (; std::getline(source, line) && line != "// The end."; ++n_lines) {
    EXPECT_NE(page.find("\n" + line + "\n"), std::string::npos) << line;
  }
  EXPECT_EQ(n_lines, 2);
}

TEST(AddingACode, TheExampleWorks) {
  const CodeSearch search(e2m2);
  EXPECT_EQ(e2m2.window, 5);
  EXPECT_EQ(search.value(search.nearest(5.9f)), 6);
  EXPECT_EQ(search.value(search.nearest(100)), 7);
}

}  // namespace
}  // namespace lowbit
