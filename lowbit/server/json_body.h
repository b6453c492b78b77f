// SPDX-License-Identifier: Apache-2.0
// The JSON of a request, read with limits: nesting, number of values, keys that occur twice. Built
// by hand from the parser's events, because an ordered object that looks each key up among the
// earlier ones takes quadratic time, which a client could ask for.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "lowbit/base/result.h"

namespace lowbit {

using Json = nlohmann::ordered_json;

struct JsonLimits {
  std::size_t depth = 64;
  std::size_t n_values = std::size_t{1} << 19;
};

/// Any JSON value; errors say what is wrong and at which byte.
Result<Json> parse_json(std::string_view text, const JsonLimits& limits = {});

/// One line, always valid UTF-8.
std::string dump(const Json& json);

}  // namespace lowbit
