// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/schema_fuzz.h"

#include <gtest/gtest.h>

#include <fstream>
#include <random>

namespace lowbit {
namespace {

// Golden schemas with bytes changed, doubled, cut out or taken from another one.
TEST(SchemaFuzz, damaged_schemas_are_refused_or_held) {
  std::ifstream file(std::string(LOWBIT_SOURCE_DIR) + "/tests/golden/grammar/cases.json");
  const Json cases = Json::parse(file);
  std::vector<std::string> schemas;
  for (const Json& item : cases) schemas.push_back(item["schema"].dump());
  for (std::uint32_t seed = 0; seed < 1000; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
    std::string input = schemas[below(schemas.size())];
    for (std::size_t i = below(4); i > 0 && !input.empty(); --i) {
      const std::size_t at = below(input.size()), n_bytes = 1 + below(8);
      const std::string& other = schemas[below(schemas.size())];
      switch (below(5)) {
        case 0:
          input[at] = static_cast<char>(random());
          break;
        case 1:
          input.insert(at, input.substr(at, n_bytes));
          break;
        case 2:
          input.erase(at, n_bytes);
          break;
        case 3:
          input[at] = "0123456789-.{}[],:\"#$\\^*+?|()"[below(30)];
          break;
        default:
          input.insert(at, other.substr(below(other.size()), n_bytes * 4));
          break;
      }
    }
    input += '\0';
    for (int i = 0; i < 24; ++i) input += static_cast<char>(1 + below(255));
    const auto wrong = fuzz_schema(input);
    ASSERT_FALSE(wrong) << "seed " << seed << ": " << *wrong << " with " << input.c_str();
  }
}

}  // namespace
}  // namespace lowbit
