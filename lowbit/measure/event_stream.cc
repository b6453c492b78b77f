// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/event_stream.h"

namespace lowbit {

void EventStream::feed(std::string_view piece, const OnData& on_data) {
  for (const char c : piece) {
    const bool ends_pair = after_return_ && c == '\n';
    after_return_ = c == '\r';
    if (ends_pair) continue;
    if (c == '\n' || c == '\r') {
      end_line(on_data);
    } else {
      line_ += c;
    }
  }
}

void EventStream::end_line(const OnData& on_data) {
  constexpr std::string_view name = "data";
  const std::string_view line = line_;
  if (line.empty()) {
    if (has_data_) on_data(data_);
    data_.clear();
    has_data_ = false;
  } else if (const std::size_t colon = line.find(':'); line.substr(0, colon) == name) {
    std::string_view value = colon == line.npos ? "" : line.substr(colon + 1);
    if (value.starts_with(' ')) value.remove_prefix(1);
    if (has_data_) data_ += '\n';
    data_ += value;
    has_data_ = true;
  }
  line_.clear();
}

}  // namespace lowbit
