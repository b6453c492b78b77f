// SPDX-License-Identifier: Apache-2.0
// libFuzzer's entry to the schema compiler; not part of the ordinary build:
// clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -I. -o schema_fuzz
//   tests/fuzz/schema_fuzz.cc lowbit/model/utf8.cc and lowbit/grammar/*.cc but for tests and
//   benchmarks
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
