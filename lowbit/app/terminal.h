// SPDX-License-Identifier: Apache-2.0
// What a person sees while waiting: one line on stderr with share, time left and what is being
// done, drawn only on a terminal and wiped when the work ends.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace lowbit::app {

class Progress {
 public:
  explicit Progress(std::string what);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Returns whether to go on: false after Ctrl-C.
  bool operator()(std::int64_t n_done, std::int64_t n_total, std::string_view detail = {});

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  Clock::time_point start_, drawn_;
  bool is_terminal_ = false, is_shown_ = false;
};

/// Escape sequence for quiet text on stdout, empty when it is no terminal or NO_COLOR is set.
std::string_view dim_on();
std::string_view style_off();

/// "12 s", "3 min 20 s".
std::string duration_text(double seconds);

}  // namespace lowbit::app
