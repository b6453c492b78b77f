// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/calibration_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "lowbit/base/text_file.h"
#include "lowbit/model/utf8.h"

namespace lowbit {
namespace {

Status check_text(std::string_view text) {
  if (text.empty()) return Error("the calibration text is empty");
  if (const std::size_t at = text.find('\0'); at != std::string_view::npos) {
    return Error(fmt::format("this is no text: there is a zero byte at byte {}", at));
  }
  if (const std::size_t n = utf8_valid_bytes(text); n != text.size()) {
    return Error(fmt::format("this is no UTF-8 text from byte {} on", n));
  }
  return ok();
}

}  // namespace

Result<std::string> read_calibration_text(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return Error(fmt::format("calibration text: '{}' is not a file that can be read", path));
  }
  auto text = read_text(path);
  if (!text) return std::move(text).error().in("calibration text");
  return text;
}

Result<CalibrationWindows> calibration_windows(std::string_view text, const Tokenizer& tokenizer,
                                               std::int64_t n_windows, std::int64_t n_ctx) {
  if (Status checked = check_text(text); !checked) return std::move(checked).error();
  const std::vector<TokenId> tokens =
      tokenizer.encode(text, /*add_bos=*/false, /*parse_special=*/false);
  const bool has_bos = tokenizer.adds_bos() && tokenizer.bos();
  const std::int64_t n_read = n_ctx - (has_bos ? 1 : 0);  // of the text, in a window
  const auto n_tokens = static_cast<std::int64_t>(tokens.size());
  if (n_tokens < n_read) {
    return Error(
        fmt::format("the calibration text has {} tokens, one window needs {} ({} windows: "
                    "{}); give a longer text or a smaller --calibration-ctx",
                    n_tokens, n_read, n_windows, n_windows * n_read));
  }
  n_windows = std::min(n_windows, n_tokens / n_read);
  CalibrationWindows windows;
  for (std::int64_t i = 0; i < n_windows; ++i) {
    // Window i in the middle of the i-th part of the text.
    const std::int64_t part = n_tokens / n_windows;
    const std::int64_t first = i * part + (part - n_read) / 2;
    std::vector<std::int32_t>& window = windows.emplace_back();
    if (has_bos) window.push_back(*tokenizer.bos());
    window.insert(window.end(), tokens.begin() + first, tokens.begin() + first + n_read);
  }
  return windows;
}

Result<CalibrationWindows> read_calibration(const CalibrationText& text, const Tokenizer& tokenizer,
                                            const ModelConfig& config) {
  auto bytes = read_calibration_text(text.path);
  if (!bytes) return std::move(bytes).error();
  auto windows = calibration_windows(*bytes, tokenizer, text.n_windows,
                                     std::min(text.n_ctx, config.n_ctx_train));
  if (!windows) return std::move(windows).error().in(text.path);
  return windows;
}

}  // namespace lowbit
