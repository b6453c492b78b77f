// SPDX-License-Identifier: Apache-2.0
// The tokens of a template as its parsers read them, with sticky errors: the first one is kept and
// the stream jumps to its end, so that every loop of the parsers ends and no function has to pass
// an error on.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lowbit/model/jinja_lexer.h"

namespace lowbit::jinja {

class TokenReader {
 protected:
  using Words = std::initializer_list<std::string_view>;
  static constexpr int max_nesting =
      200;  // of brackets and blocks: bounds the recursion of the parsers

  explicit TokenReader(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& now() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token next() {
    Token token = now();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool is_op(std::string_view op) const { return now().kind == TokenKind::op && now().text == op; }
  bool is_word(std::string_view word) const {
    return now().kind == TokenKind::name && now().text == word;
  }
  bool skip_op(std::string_view op) { return is_op(op) && (next(), true); }
  bool skip_word(std::string_view word) { return is_word(word) && (next(), true); }
  bool is_word_of(Words words) const {
    return std::any_of(words.begin(), words.end(), [&](auto w) { return is_word(w); });
  }

  void fail(Position at, std::string message) {
    if (!failed_) message_ = fmt::format("{}: {}", describe(at), message);
    failed_ = true;
    at_ = tokens_.size() - 1;
  }
  static std::string shown(const Token& token) {
    switch (token.kind) {
      case TokenKind::end:
        return "the end of the template";
      case TokenKind::block_end:
        return "%}";
      case TokenKind::variable_end:
        return "}}";
      case TokenKind::variable_begin:
        return "{{";
      case TokenKind::block_begin:
        return "{%";
      case TokenKind::data:
        return "text";
      case TokenKind::string:
        return "a string";
      default:
        return fmt::format("'{}'", token.text);
    }
  }
  void expect_op(std::string_view op) {
    if (!skip_op(op))
      fail(now().position, fmt::format("expected '{}', found {}", op, shown(now())));
  }
  void expect_kind(TokenKind kind) {
    if (now().kind != kind)
      return fail(now().position,
                  fmt::format("expected {}, found {}", shown({kind, "", {}}), shown(now())));
    next();
  }
  std::string expect_name() {
    if (now().kind == TokenKind::name) return next().text;
    fail(now().position, fmt::format("expected a name, found {}", shown(now())));
    return {};
  }

  /// Counts one level of nesting for as long as it lives.
  class Level {
   public:
    explicit Level(TokenReader& reader) : reader_(reader) {
      if (++reader_.nesting_ > max_nesting) {
        reader_.fail(reader_.now().position,
                     fmt::format("nested more than {} levels deep", max_nesting));
      }
    }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    ~Level() { --reader_.nesting_; }

   private:
    TokenReader& reader_;
  };

  bool failed_ = false;
  std::string message_;

 private:
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace lowbit::jinja
