// SPDX-License-Identifier: Apache-2.0
// Tokens to tree, by recursive descent in jinja2's order of precedence.
#pragma once

#include <string_view>

#include "lowbit/base/result.h"
#include "lowbit/model/jinja_ast.h"

namespace lowbit::jinja {

/// Errors start with "line L, column C: ".
Result<Program> parse_program(std::string_view source);

}  // namespace lowbit::jinja
