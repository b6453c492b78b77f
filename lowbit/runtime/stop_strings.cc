// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/stop_strings.h"

#include <algorithm>
#include <utility>

namespace lowbit {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

StopStrings::Fed StopStrings::feed(std::string_view bytes) {
  if (stopped_) return {"", true};
  held_ += bytes;
  std::size_t match = std::string::npos, match_end = std::string::npos;
  std::size_t n_held = 0;  // longest end of held_ that begins a stop string
  for (const std::string& stop : stops_) {
    if (const std::size_t at = held_.find(stop); at != std::string::npos) {
      const std::size_t end = at + stop.size();
      if (end < match_end || (end == match_end && at < match)) match = at, match_end = end;
    }
    const std::size_t longest = std::min(stop.size() - 1, held_.size());
    for (std::size_t n = longest; n > n_held; --n) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) n_held = n;
    }
  }
  if (match != std::string::npos) {
    stopped_ = true;
    return {std::exchange(held_, "").substr(0, match), true};
  }
  Fed fed{held_.substr(0, held_.size() - n_held), false};
  held_.erase(0, fed.text.size());
  return fed;
}

std::string StopStrings::finish() {
  return std::exchange(held_, "");
}

}  // namespace lowbit
