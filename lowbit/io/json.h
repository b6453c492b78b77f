// SPDX-License-Identifier: Apache-2.0
// JSON from files, as nlohmann-json reads it, with what input must not do ruled out before: broken
// syntax is an Error (no exceptions), nesting is bounded, a key that occurs twice at the top is
// refused.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "lowbit/base/result.h"

namespace lowbit {

using Json = nlohmann::ordered_json;

/// A JSON object.
Result<Json> parse_json_object(std::string_view text);

/// Text that is never refused: what is not UTF-8 is replaced.
std::string to_text(const Json& json, int indent);

}  // namespace lowbit
