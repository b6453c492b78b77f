// SPDX-License-Identifier: Apache-2.0
// Expressions, by recursive descent in jinja2's order of precedence.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lowbit/model/jinja_ast.h"
#include "lowbit/model/jinja_token_reader.h"

namespace lowbit::jinja {

class ExpressionParser : public TokenReader {
 protected:
  using TokenReader::TokenReader;

  ExprPtr parse_tuple(bool with_conditional = true, Words ends = {}, bool in_brackets = false);
  ExprPtr parse_expression();
  ExprPtr parse_filters(ExprPtr expr);
  ExprPtr parse_one_filter(ExprPtr input);

  ExprPtr make(ExprKind kind, Position at) {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->at = at;
    return expr;
  }
  /// Adds a child; trees that grow too deep are an error.
  void add(Expr& expr, ExprPtr part);
  template <class... Parts>
  ExprPtr make_with(ExprKind kind, Position at, Parts... parts) {
    ExprPtr expr = make(kind, at);
    (add(*expr, std::move(parts)), ...);
    return expr;
  }

  // jinja2 refuses a template that names an unknown filter or test, unless the name stands in a
  // branch that may never run (an if block or an inline if): then only running it is an error.
  struct Use {
    Position at;
    std::string message;
  };
  class Soft {
   public:
    Soft(ExpressionParser& parser, bool soft)
        : parser_(parser), outer_(std::exchange(parser.in_soft_, soft)) {}
    Soft(const Soft&) = delete;
    Soft& operator=(const Soft&) = delete;
    ~Soft() { parser_.in_soft_ = outer_; }

   private:
    ExpressionParser& parser_;
    bool outer_;
  };
  std::vector<Use> unknown_uses_;  // outside of such branches
  std::set<std::string>
      special_names_;  // of caller, varargs and kwargs, those read in the current macro

 private:
  using Part = ExprPtr (ExpressionParser::*)();

  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  std::string comparison_operator();
  ExprPtr parse_comparison();
  ExprPtr parse_arithmetic(Words ops, Part parse_part);
  ExprPtr parse_sum();
  ExprPtr parse_concatenation();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_operand();
  ExprPtr parse_unary(bool with_filters);
  ExprPtr constant(Position at, Value value);
  ExprPtr parse_primary();
  ExprPtr parse_name();
  Value parse_integer(const Token& token);
  ExprPtr parse_list(Position at);
  ExprPtr parse_dict(Position at);
  ExprPtr parse_postfix(ExprPtr expr);
  ExprPtr parse_attribute(ExprPtr object, Position at);
  ExprPtr parse_subscript(ExprPtr object, Position at);
  ExprPtr parse_call(ExprPtr callee);
  void parse_arguments(Expr& expr);
  ExprPtr parse_filters_and_tests(ExprPtr expr);
  std::string dotted_name();
  ExprPtr parse_test(ExprPtr input);
  bool starts_test_argument() const;
  void use_unknown(Position at, std::string message);
  void deepen(Expr& expr, const ExprPtr& part);

  bool in_soft_ = false;
};

}  // namespace lowbit::jinja
