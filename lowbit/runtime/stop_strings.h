// SPDX-License-Identifier: Apache-2.0
// Watches a stream of bytes for stop strings. Bytes that could still become the start of one are
// held back, so nothing that belongs to a stop string is ever shown, however the tokens split it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lowbit {

class StopStrings {
 public:
  /// Empty strings among `stops` are ignored: they would match everywhere.
  explicit StopStrings(std::vector<std::string> stops);

  struct Fed {
    std::string text;      // may be shown now
    bool stopped = false;  // a stop string is complete; it and what follows are dropped
  };
  /// The stop string that is complete first wins (so the pieces do not matter), the longest of
  /// several that end together; after it every later feed gives nothing.
  Fed feed(std::string_view bytes);
  /// The stream has ended without a stop: the bytes still held back.
  std::string finish();

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace lowbit
