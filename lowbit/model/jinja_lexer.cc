// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/jinja_lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "lowbit/model/jinja_text.h"

namespace lowbit::jinja {

std::string describe(Position position) {
  return fmt::format("line {}, column {}", position.line, position.column);
}

namespace {

/// Any line end becomes \n; one at the very end of the template goes.
std::string normalized(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      text += '\n';
    } else {
      text += source[i];
    }
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name_start(char32_t c) {
  constexpr char32_t end_of_ascii = 0x80;
  return (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z') || c == U'_' ||
         (c >= end_of_ascii && is_letter(c));
}
int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)) {}

  Result<std::vector<Token>> run() {
    while (at_ < source_.size() && !failed_) lex_data();
    if (failed_) return Error(fmt::format("{}: {}", describe(failed_at_), message_));
    push(TokenKind::end, "", at_);
    return std::move(tokens_);
  }

 private:
  // ---- positions and errors ----

  Position position_of(std::size_t offset) {
    if (offset < counted_) {  // only an error looks back
      counted_ = 0;
      here_ = {};
    }
    for (; counted_ < offset; counted_ += code_point_bytes(source_, counted_)) {
      if (source_[counted_] == '\n') {
        ++here_.line;
        here_.column = 1;
      } else {
        ++here_.column;
      }
    }
    return here_;
  }
  void push(TokenKind kind, std::string text, std::size_t offset) {
    tokens_.push_back({kind, std::move(text), position_of(offset)});
  }
  void fail(std::size_t offset, std::string message) {
    if (failed_) return;
    failed_ = true;
    failed_at_ = position_of(offset);
    message_ = std::move(message);
  }

  bool looking_at(std::string_view text, std::size_t offset) const {
    return std::string_view(source_).substr(offset, text.size()) == text;
  }
  std::size_t skip_space(std::size_t offset) const {
    while (offset < source_.size() && is_space(decode_code_point(source_, offset))) {
      offset += code_point_bytes(source_, offset);
    }
    return offset;
  }

  // ---- text outside of tags ----

  /// Emits the text in [begin, end) that stands before a tag. `sign` is the character after the
  /// tag's opening.
  void push_data(std::size_t begin, std::size_t end, char sign, bool is_variable) {
    const bool starts_line = begin == 0 || source_[begin - 1] == '\n';
    const std::string_view text = std::string_view(source_).substr(begin, end - begin);
    std::size_t n_kept = text.size();
    if (sign == '-') {
      n_kept = strip_range(text, false, true).end;
    } else if (sign != '+' && !is_variable) {
      const std::size_t newline = text.rfind('\n');
      const std::size_t line = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line > 0 || starts_line) && skip_space(begin + line) >= end) n_kept = line;
    }
    if (n_kept > 0) push(TokenKind::data, std::string(text.substr(0, n_kept)), begin);
  }

  /// The end of `{% raw %}` if one opens at `offset`.
  std::optional<std::size_t> raw_end(std::size_t offset, std::string_view word) const {
    std::size_t i = offset + 2;
    if (i < source_.size() && (source_[i] == '-' || source_[i] == '+')) ++i;
    i = skip_space(i);
    if (!looking_at(word, i)) return std::nullopt;
    i = skip_space(i + word.size());
    const bool is_end = word == "endraw";
    if (looking_at("-%}", i)) return skip_space(i + 3);
    if (is_end && looking_at("+%}", i)) return i + 3;
    if (!looking_at("%}", i)) return std::nullopt;
    i += 2;
    return is_end && looking_at("\n", i) ? i + 1 : i;
  }

  char sign_at(std::size_t offset) const {
    return offset < source_.size() ? source_[offset] : '\0';
  }

  void lex_data() {
    const std::size_t begin = at_;
    std::size_t open = begin;
    while (true) {
      open = source_.find('{', open);
      if (open == std::string::npos || open + 1 >= source_.size()) {
        push(TokenKind::data, source_.substr(begin), begin);
        at_ = source_.size();
        return;
      }
      const char second = source_[open + 1];
      if (second == '{' || second == '%' || second == '#') break;
      ++open;
    }
    const char kind = source_[open + 1], sign = sign_at(open + 2);
    push_data(begin, open, sign, kind == '{');
    if (kind == '%') {
      if (const auto end = raw_end(open, "raw")) return lex_raw(open, *end);
    }
    at_ = open + 2 + (sign == '-' || sign == '+' ? 1 : 0);
    if (kind == '#') return skip_comment(open);
    push(kind == '{' ? TokenKind::variable_begin : TokenKind::block_begin, "", open);
    lex_tag(open, kind == '{');
  }

  void lex_raw(std::size_t open, std::size_t begin) {
    for (std::size_t i = source_.find("{%", begin); i != std::string::npos;
         i = source_.find("{%", i + 1)) {
      if (const auto end = raw_end(i, "endraw")) {
        push_data(begin, i, sign_at(i + 2), false);
        at_ = *end;
        return;
      }
    }
    fail(open, "this raw block has no {% endraw %}");
  }

  void skip_comment(std::size_t open) {
    const std::size_t close = source_.find("#}", at_);
    if (close == std::string::npos) return fail(open, "this comment has no closing #}");
    const char sign = close > at_ ? source_[close - 1] : '\0';
    at_ = close + 2;
    if (sign == '-') {
      at_ = skip_space(at_);
    } else if (sign != '+' && looking_at("\n", at_)) {
      ++at_;
    }
  }

  // ---- inside of tags ----

  bool lex_tag_end(bool is_variable) {
    const std::string_view close = is_variable ? "}}" : "%}";
    const TokenKind kind = is_variable ? TokenKind::variable_end : TokenKind::block_end;
    const bool minus = looking_at("-", at_) && looking_at(close, at_ + 1);
    const bool plus = !is_variable && looking_at("+", at_) && looking_at(close, at_ + 1);
    if (!minus && !plus && !looking_at(close, at_)) return false;
    push(kind, "", at_);
    at_ += close.size() + (minus || plus ? 1 : 0);
    if (minus) {
      at_ = skip_space(at_);
    } else if (!plus && !is_variable && looking_at("\n", at_)) {
      ++at_;
    }
    return true;
  }

  void lex_tag(std::size_t open, bool is_variable) {
    std::string brackets;  // the closing ones still expected
    while (!failed_) {
      at_ = skip_space(at_);
      if (at_ >= source_.size()) {
        return fail(open, fmt::format("this tag has no closing {}", is_variable ? "}}" : "%}"));
      }
      if (brackets.empty() && lex_tag_end(is_variable)) return;
      const char c = source_[at_];
      if (is_digit(c)) {
        lex_number();
      } else if (is_name_start(decode_code_point(source_, at_))) {
        lex_name();
      } else if (c == '\'' || c == '"') {
        lex_string();
      } else {
        lex_operator(brackets);
      }
    }
  }

  std::size_t skip_digits(std::size_t i, std::string_view digits) const {
    const auto is_one = [&](std::size_t k) {
      return k < source_.size() && digits.find(source_[k]) != std::string_view::npos;
    };
    while (is_one(i) || (i < source_.size() && source_[i] == '_' && is_one(i + 1))) ++i;
    return i;
  }

  void lex_number() {
    static constexpr std::string_view decimal = "0123456789";
    const std::size_t begin = at_;
    TokenKind kind = TokenKind::integer;
    const char marker =
        begin + 1 < source_.size() ? static_cast<char>(source_[begin + 1] | 0x20) : '\0';
    const std::string_view marked_digits = marker == 'x'   ? "0123456789abcdefABCDEF"
                                           : marker == 'o' ? "01234567"
                                           : marker == 'b' ? "01"
                                                           : "";
    const std::size_t marked_end = skip_digits(begin + 2, marked_digits);
    if (source_[begin] == '0' && !marked_digits.empty() && marked_end > begin + 2) {
      at_ = marked_end;
    } else {
      at_ = skip_digits(begin, decimal);
      const bool after_dot =
          begin > 0 && source_[begin - 1] == '.';  // in a.1.2 the 1 is no real number
      if (!after_dot) {
        if (at_ + 1 < source_.size() && source_[at_] == '.' && is_digit(source_[at_ + 1])) {
          at_ = skip_digits(at_ + 1, decimal);
          kind = TokenKind::real;
        }
        if (at_ < source_.size() && (source_[at_] | 0x20) == 'e') {
          std::size_t digits = at_ + 1;
          if (digits < source_.size() && (source_[digits] == '+' || source_[digits] == '-'))
            ++digits;
          if (digits < source_.size() && is_digit(source_[digits])) {
            at_ = skip_digits(digits, decimal);
            kind = TokenKind::real;
          }
        }
      }
    }
    std::string digits = source_.substr(begin, at_ - begin);
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    const bool is_marked = digits.size() > 1 && !is_digit(digits[1]);  // 0x, 0o, 0b
    const bool leading_zero = kind == TokenKind::integer && digits[0] == '0' && !is_marked &&
                              digits.find_first_not_of('0') != std::string::npos;
    if (leading_zero) return fail(begin, fmt::format("the number {} starts with a zero", digits));
    push(kind, std::move(digits), begin);
  }

  void lex_name() {
    const std::size_t begin = at_;
    while (at_ < source_.size()) {
      const char32_t c = decode_code_point(source_, at_);
      if (!is_name_start(c) && !is_decimal_digit(c)) break;
      at_ += code_point_bytes(source_, at_);
    }
    push(TokenKind::name, source_.substr(begin, at_ - begin), begin);
  }

  void lex_operator(std::string& brackets) {
    static constexpr std::array<std::string_view, 6> pairs{"==", "!=", ">=", "<=", "//", "**"};
    const std::size_t begin = at_;
    for (std::string_view pair : pairs) {
      if (looking_at(pair, at_)) {
        at_ += pair.size();
        return push(TokenKind::op, std::string(pair), begin);
      }
    }
    const char c = source_[at_];
    if (std::string_view("+-*/%~[](){}<>=.:|,;").find(c) == std::string_view::npos) {
      return fail(at_, fmt::format("unexpected character '{}'", c));
    }
    if (c == '(' || c == '[' || c == '{') brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty() || brackets.back() != c)
        return fail(at_, fmt::format("unexpected '{}'", c));
      brackets.pop_back();
    }
    ++at_;
    push(TokenKind::op, std::string(1, c), begin);
  }

  void lex_string() {
    const std::size_t begin = at_;
    const char quote = source_[at_++];
    std::string value;
    while (at_ < source_.size() && source_[at_] != quote && !failed_) {
      if (source_[at_] != '\\') {
        value += source_[at_++];
      } else if (++at_ < source_.size()) {
        lex_escape(value);
      }
    }
    if (at_ >= source_.size()) return fail(begin, "this string has no closing quote");
    ++at_;
    push(TokenKind::string, std::move(value), begin);
  }

  /// What stands after a backslash, with Python's meaning; unknown escapes keep their backslash.
  void lex_escape(std::string& value) {
    const char c = source_[at_++];
    static constexpr std::string_view simple = "\\'\"abfnrtv", meaning = "\\'\"\a\b\f\n\r\t\v";
    if (const std::size_t i = simple.find(c); i != std::string_view::npos) {
      value += meaning[i];
    } else if (c == '\n') {
      // a line that goes on
    } else if (c == 'x' || c == 'u' || c == 'U') {
      append_hex(value, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    } else if (c >= '0' && c <= '7') {
      char32_t code = static_cast<char32_t>(c - '0');
      for (int i = 0; i < 2 && at_ < source_.size() && source_[at_] >= '0' && source_[at_] <= '7';
           ++i) {
        code = code * 8 + static_cast<char32_t>(source_[at_++] - '0');
      }
      append_code_point(value, code);
    } else if (c == 'N') {
      fail(at_ - 1, "named characters (\\N) are not supported, write \\u or \\U with the number");
    } else {
      value += '\\';
      value += c;
    }
  }

  void append_hex(std::string& value, int n_digits) {
    char32_t code = 0;
    for (int i = 0; i < n_digits; ++i) {
      const int digit = at_ < source_.size() ? hex_value(source_[at_]) : -1;
      if (digit < 0)
        return fail(at_, fmt::format("this escape needs {} hexadecimal digits", n_digits));
      code = code * 16 + static_cast<char32_t>(digit);
      ++at_;
    }
    constexpr char32_t last = 0x10ffff, first_surrogate = 0xd800, last_surrogate = 0xdfff;
    if (code > last || (code >= first_surrogate && code <= last_surrogate)) {
      return fail(at_, "this escape is no Unicode character");
    }
    append_code_point(value, code);
  }

  std::string source_;
  std::size_t at_ = 0;
  std::vector<Token> tokens_;
  std::size_t counted_ = 0;
  Position here_;
  bool failed_ = false;
  Position failed_at_;
  std::string message_;
};

}  // namespace

Result<std::vector<Token>> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace lowbit::jinja
