// SPDX-License-Identifier: Apache-2.0
#include "lowbit/formats/codes.h"

namespace lowbit::codes {

const Code* find(std::string_view name) {
  for (const Code& code : list) {
    if (code.name == name) return &code;
  }
  return nullptr;
}

}  // namespace lowbit::codes
