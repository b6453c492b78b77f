// SPDX-License-Identifier: Apache-2.0
// Small files as one string: texts, lists, JSON. What is large is mapped instead (mapped_file.h).
#pragma once

#include <string>
#include <string_view>

#include "lowbit/base/result.h"

namespace lowbit {

/// Every byte of a file or pipe, read once from its start. Errors: unreadable path, a folder.
Result<std::string> read_text(const std::string& path);

/// The file appears whole or not at all, as AtomicFile does.
Status write_text(const std::string& path, std::string_view text);

}  // namespace lowbit
