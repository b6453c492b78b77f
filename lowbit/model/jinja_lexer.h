// SPDX-License-Identifier: Apache-2.0
// Cuts a template into tokens, with the white space rules of jinja2 under trim_blocks and
// lstrip_blocks: the newline after a block or comment goes, and so does white space from the start
// of a line up to one;
// `-` strips all white space on its side, `+` keeps what the rules would take.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"

namespace lowbit::jinja {

struct Position {
  int line = 1, column = 1;  // columns count code points
};

/// "line 3, column 7"
std::string describe(Position position);

enum class TokenKind : unsigned char {
  data,
  variable_begin,
  variable_end,
  block_begin,
  block_end,
  name,
  string,
  integer,
  real,
  op,
  end
};

struct Token {
  TokenKind kind = TokenKind::end;
  std::string text;  // string literals are unescaped already, numbers have no underscores
  Position position;
};

/// The last token is TokenKind::end.
Result<std::vector<Token>> tokenize(std::string_view source);

}  // namespace lowbit::jinja
