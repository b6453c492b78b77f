// SPDX-License-Identifier: Apache-2.0
#include "lowbit/app/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "lowbit/app/interrupt.h"

namespace lowbit::app {
namespace {

constexpr std::chrono::milliseconds least_time_between_draws{100};
constexpr std::string_view wipe_line = "\r\x1b[K";

bool is_dumb() {
  const char* term = std::getenv("TERM");
  return term == nullptr || std::string_view(term) == "dumb";
}

bool has_color() {
  static const bool has =
      isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr && !is_dumb();
  return has;
}

}  // namespace

std::string duration_text(double seconds) {
  constexpr std::int64_t per_minute = 60;
  const auto total = static_cast<std::int64_t>(std::llround(seconds));
  if (total < per_minute) return fmt::format("{} s", total);
  return fmt::format("{} min {} s", total / per_minute, total % per_minute);
}

Progress::Progress(std::string what)
    : what_(std::move(what)),
      start_(Clock::now()),
      is_terminal_(isatty(STDERR_FILENO) != 0 && !is_dumb()) {}

Progress::~Progress() {
  if (is_shown_) fmt::print(stderr, "{}", wipe_line);
}

bool Progress::operator()(std::int64_t n_done, std::int64_t n_total, std::string_view detail) {
  const Clock::time_point now = Clock::now();
  if (is_terminal_ && n_total > 0 && now - drawn_ >= least_time_between_draws) {
    drawn_ = now;
    is_shown_ = true;
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    const double share = static_cast<double>(n_done) / static_cast<double>(n_total);
    const std::string left =
        n_done == 0 ? "" : fmt::format(", {} left", duration_text(elapsed * (1 - share) / share));
    fmt::print(stderr, "{}{} {:.0f} %{}  {}", wipe_line, what_, 100 * share, left, detail);
    std::fflush(stderr);
  }
  return !interrupted();
}

std::string_view dim_on() {
  return has_color() ? "\x1b[2m" : "";
}
std::string_view style_off() {
  return has_color() ? "\x1b[0m" : "";
}

}  // namespace lowbit::app
