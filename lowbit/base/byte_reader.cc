// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/byte_reader.h"

namespace lowbit {

std::string shown(std::string_view text) {
  constexpr std::size_t most_shown = 80;
  std::string text_shown = "'";
  for (const char c : text.substr(0, most_shown)) {
    const bool is_plain =
        c >= ' ' && c <= '~';  // names are ASCII in every file that is not damaged
    text_shown += is_plain ? c : '?';
  }
  return text_shown + (text.size() > most_shown ? "...'" : "'");
}

}  // namespace lowbit
