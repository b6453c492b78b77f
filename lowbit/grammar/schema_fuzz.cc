// SPDX-License-Identifier: Apache-2.0
// cmake -DLOWBIT_FUZZ=ON with clang++, then grammar_fuzz CORPUS: libFuzzer on the schema compiler.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "lowbit/grammar/schema_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t n_bytes) {
  const std::string input(bytes, bytes + n_bytes);
  if (const auto wrong = lowbit::fuzz_schema(input)) {
    std::fprintf(stderr, "%s\n", wrong->c_str());
    std::abort();
  }
  return 0;
}
