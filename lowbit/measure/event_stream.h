// SPDX-License-Identifier: Apache-2.0
// Server-sent events (the HTML standard's event stream) as their bytes arrive: pieces may end
// anywhere, also inside a line end. Only `data` is kept; comments, names and ids mean nothing to an
// answer in tokens.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace lowbit {

class EventStream {
 public:
  using OnData = std::function<void(std::string_view data)>;

  /// Calls on_data once for each event that a blank line has ended and that has data; several lines
  /// of data are joined by line feeds.
  void feed(std::string_view piece, const OnData& on_data);

 private:
  void end_line(const OnData& on_data);

  std::string line_, data_;
  bool has_data_ = false;
  bool after_return_ = false;  // a line feed now belongs to the carriage return before it
};

}  // namespace lowbit
