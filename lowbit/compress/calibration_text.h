// SPDX-License-Identifier: Apache-2.0
// Calibration text as windows of tokens. The windows are spread evenly over the text, so that a
// file of several parts (prose, code, languages) is seen in all of them, however few windows are
// asked for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "lowbit/base/result.h"
#include "lowbit/compress/statistics.h"
#include "lowbit/model/tokenizer.h"

namespace lowbit {

/// A text and how much of it is read.
struct CalibrationText {
  std::string path;
  std::int64_t n_windows = 128, n_ctx = 512;
};

/// The bytes of a text, which is read more than once and so must be a file.
Result<std::string> read_calibration_text(const std::string& path);

/// n_windows windows of n_ctx tokens, each begun with BOS where the tokenizer adds one; fewer
/// windows where the text has fewer tokens. Errors: text that is empty, not UTF-8, holds NUL bytes,
/// or has fewer tokens than one window (says how many there are and how many are needed).
Result<CalibrationWindows> calibration_windows(std::string_view text, const Tokenizer& tokenizer,
                                               std::int64_t n_windows, std::int64_t n_ctx);

/// The same of a file, with n_ctx at most what the model was trained with; errors name the file.
Result<CalibrationWindows> read_calibration(const CalibrationText& text, const Tokenizer& tokenizer,
                                            const ModelConfig& config);

}  // namespace lowbit
