// SPDX-License-Identifier: Apache-2.0
// cmake -DLOWBIT_FUZZ=ON with clang++, then server_fuzz CORPUS: libFuzzer on the request parser.
#include "lowbit/server/request_fuzz.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n_bytes) {
  const std::string bytes(data, data + n_bytes);
  if (const std::string broken = lowbit::read_as_request(bytes); !broken.empty()) {
    std::fprintf(stderr, "broken: %s\n", broken.c_str());
    std::abort();
  }
  return 0;
}
