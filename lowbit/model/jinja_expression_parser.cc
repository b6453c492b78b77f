// SPDX-License-Identifier: Apache-2.0
// A failed expression is a null pointer until the sticky error ends the parse.
#include "lowbit/model/jinja_expression_parser.h"

#include <cctype>
#include <charconv>
#include <cstdlib>

#include "lowbit/model/jinja_runtime.h"

namespace lowbit::jinja {

namespace {

constexpr int max_tree_depth = 400;  // of an expression: bounds the interpreter's recursion

}  // namespace

void ExpressionParser::deepen(Expr& expr, const ExprPtr& part) {
  if (part == nullptr) return;
  expr.depth = std::max(expr.depth, part->depth + 1);
  if (expr.depth > max_tree_depth) {
    fail(expr.at, fmt::format("an expression is nested more than {} levels deep", max_tree_depth));
  }
}

void ExpressionParser::add(Expr& expr, ExprPtr part) {
  deepen(expr, part);
  expr.parts.push_back(std::move(part));
}

void ExpressionParser::use_unknown(Position at, std::string message) {
  if (!in_soft_) unknown_uses_.push_back({at, std::move(message)});
}

ExprPtr ExpressionParser::parse_tuple(bool with_conditional, Words ends, bool in_brackets) {
  const Position at = now().position;
  std::vector<ExprPtr> parts;
  bool is_tuple = false;
  const auto at_end = [&] {
    return now().kind == TokenKind::variable_end || now().kind == TokenKind::block_end ||
           is_op(")") || is_word_of(ends);
  };
  while (!failed_) {
    if (!parts.empty()) expect_op(",");
    if (at_end()) break;
    parts.push_back(with_conditional ? parse_expression() : parse_or());
    if (!is_op(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !parts.empty()) return std::move(parts[0]);
  if (!is_tuple && !in_brackets)
    fail(now().position, fmt::format("expected an expression, found {}", shown(now())));
  ExprPtr tuple = make(ExprKind::tuple, at);
  for (ExprPtr& part : parts) add(*tuple, std::move(part));
  return tuple;
}

ExprPtr ExpressionParser::parse_expression() {
  const Level level(*this);
  const Position at = now().position;
  const std::size_t first_use = unknown_uses_.size();
  ExprPtr expr = parse_or();
  while (!failed_ && skip_word("if")) {
    unknown_uses_.erase(unknown_uses_.begin() + static_cast<std::ptrdiff_t>(first_use),
                        unknown_uses_.end());
    const Soft soft(*this, true);
    ExprPtr condition = parse_or();
    ExprPtr otherwise = skip_word("else") ? parse_expression() : nullptr;
    expr = make_with(ExprKind::conditional, at, std::move(condition), std::move(expr),
                     std::move(otherwise));
  }
  return expr;
}

ExprPtr ExpressionParser::parse_or() {
  const Position at = now().position;
  ExprPtr left = parse_and();
  while (skip_word("or")) left = make_with(ExprKind::either, at, std::move(left), parse_and());
  return left;
}

ExprPtr ExpressionParser::parse_and() {
  const Position at = now().position;
  ExprPtr left = parse_not();
  while (skip_word("and")) left = make_with(ExprKind::both, at, std::move(left), parse_not());
  return left;
}

ExprPtr ExpressionParser::parse_not() {
  if (!is_word("not")) return parse_comparison();
  const Level level(*this);
  const Position at = next().position;
  return make_with(ExprKind::negation, at, parse_not());
}

std::string ExpressionParser::comparison_operator() {
  for (std::string_view op : {"==", "!=", "<", "<=", ">", ">="}) {
    if (is_op(op)) return next().text;
  }
  if (skip_word("in")) return "in";
  if (is_word("not") && look().kind == TokenKind::name && look().text == "in") {
    next();
    next();
    return "not in";
  }
  return {};
}

ExprPtr ExpressionParser::parse_comparison() {
  const Position at = now().position;
  ExprPtr first = parse_sum();
  std::string op = comparison_operator();
  if (op.empty()) return first;
  ExprPtr expr = make_with(ExprKind::comparison, at, std::move(first));
  for (; !op.empty() && !failed_; op = comparison_operator()) {
    expr->operators.push_back(op);
    add(*expr, parse_sum());
  }
  return expr;
}

/// A chain of operators that group from the left.
ExprPtr ExpressionParser::parse_arithmetic(Words ops, Part parse_part) {
  ExprPtr left = (this->*parse_part)();
  while (!failed_ && std::any_of(ops.begin(), ops.end(), [&](auto op) { return is_op(op); })) {
    const Token op = next();
    left = make_with(ExprKind::arithmetic, op.position, std::move(left), (this->*parse_part)());
    left->name = op.text;
  }
  return left;
}

ExprPtr ExpressionParser::parse_sum() {
  return parse_arithmetic({"+", "-"}, &ExpressionParser::parse_concatenation);
}

ExprPtr ExpressionParser::parse_concatenation() {
  const Position at = now().position;
  ExprPtr first = parse_product();
  if (!is_op("~")) return first;
  ExprPtr expr = make_with(ExprKind::concatenation, at, std::move(first));
  while (!failed_ && skip_op("~")) add(*expr, parse_product());
  return expr;
}

ExprPtr ExpressionParser::parse_product() {
  return parse_arithmetic({"*", "/", "//", "%"}, &ExpressionParser::parse_power);
}

ExprPtr ExpressionParser::parse_power() {
  return parse_arithmetic({"**"}, &ExpressionParser::parse_operand);
}

ExprPtr ExpressionParser::parse_operand() {
  return parse_unary(true);
}

ExprPtr ExpressionParser::parse_unary(bool with_filters) {
  const Position at = now().position;
  ExprPtr expr;
  if (is_op("-") || is_op("+")) {
    const Level level(*this);
    const ExprKind kind = next().text == "-" ? ExprKind::minus : ExprKind::plus;
    expr = make_with(kind, at, parse_unary(false));
  } else {
    expr = parse_primary();
  }
  expr = parse_postfix(std::move(expr));
  return with_filters ? parse_filters_and_tests(std::move(expr)) : std::move(expr);
}

ExprPtr ExpressionParser::constant(Position at, Value value) {
  ExprPtr expr = make(ExprKind::constant, at);
  expr->constant = std::move(value);
  return expr;
}

ExprPtr ExpressionParser::parse_primary() {
  const Level level(*this);
  const Token token = now();
  switch (token.kind) {
    case TokenKind::name:
      return parse_name();
    case TokenKind::string: {
      std::string value;
      while (now().kind == TokenKind::string) value += next().text;
      return constant(token.position,
                      Value(std::make_shared<const SharedText>(Text(value, true), nullptr)));
    }
    case TokenKind::integer:
      return constant(token.position, parse_integer(next()));
    case TokenKind::real:
      return constant(token.position, Value(std::strtod(next().text.c_str(), nullptr)));
    default:
      break;
  }
  if (skip_op("(")) {
    ExprPtr expr = parse_tuple(true, {}, true);
    expect_op(")");
    return expr;
  }
  if (skip_op("[")) return parse_list(token.position);
  if (skip_op("{")) return parse_dict(token.position);
  fail(token.position, fmt::format("expected an expression, found {}", shown(token)));
  return constant(token.position, Value());
}

ExprPtr ExpressionParser::parse_name() {
  const Token token = next();
  const std::string& name = token.text;
  if (name == "true" || name == "True") return constant(token.position, Value(true));
  if (name == "false" || name == "False") return constant(token.position, Value(false));
  if (name == "none" || name == "None") return constant(token.position, Value(None{}));
  if (name == "caller" || name == "varargs" || name == "kwargs") special_names_.insert(name);
  ExprPtr expr = make(ExprKind::name, token.position);
  expr->name = name;
  return expr;
}

Value ExpressionParser::parse_integer(const Token& token) {
  int base = 10;
  std::string_view digits = token.text;
  if (digits.size() > 1 && digits[0] == '0' &&
      std::isalpha(static_cast<unsigned char>(digits[1])) != 0) {
    base = (digits[1] | 0x20) == 'x' ? 16 : (digits[1] | 0x20) == 'o' ? 8 : 2;
    digits.remove_prefix(2);
  }
  std::int64_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    fail(token.position, fmt::format("the number {} does not fit into 64 bits", token.text));
  }
  return Value(value);
}

ExprPtr ExpressionParser::parse_list(Position at) {
  ExprPtr expr = make(ExprKind::list, at);
  while (!failed_ && !is_op("]")) {
    if (!expr->parts.empty()) expect_op(",");
    if (is_op("]")) break;
    add(*expr, parse_expression());
  }
  expect_op("]");
  return expr;
}

ExprPtr ExpressionParser::parse_dict(Position at) {
  ExprPtr expr = make(ExprKind::dict, at);
  while (!failed_ && !is_op("}")) {
    if (!expr->parts.empty()) expect_op(",");
    if (is_op("}")) break;
    add(*expr, parse_expression());
    expect_op(":");
    add(*expr, parse_expression());
  }
  expect_op("}");
  return expr;
}

ExprPtr ExpressionParser::parse_postfix(ExprPtr expr) {
  while (!failed_) {
    const Position at = now().position;
    if (skip_op(".")) {
      expr = parse_attribute(std::move(expr), at);
    } else if (skip_op("[")) {
      expr = parse_subscript(std::move(expr), at);
    } else if (is_op("(")) {
      expr = parse_call(std::move(expr));
    } else {
      break;
    }
  }
  return expr;
}

ExprPtr ExpressionParser::parse_attribute(ExprPtr object, Position at) {
  if (now().kind == TokenKind::integer) {
    const Token token = next();
    return make_with(ExprKind::item, at, std::move(object),
                     constant(token.position, parse_integer(token)));
  }
  ExprPtr expr = make_with(ExprKind::attribute, at, std::move(object));
  expr->name = expect_name();
  return expr;
}

ExprPtr ExpressionParser::parse_subscript(ExprPtr object, Position at) {
  if (skip_op("]"))
    return make_with(ExprKind::item, at, std::move(object), make(ExprKind::tuple, at));
  ExprPtr first = is_op(":") ? nullptr : parse_expression();
  if (!is_op(":")) {
    if (is_op(",")) {
      ExprPtr tuple = make_with(ExprKind::tuple, at, std::move(first));
      while (!failed_ && skip_op(",")) add(*tuple, parse_expression());
      first = std::move(tuple);
    }
    expect_op("]");
    return make_with(ExprKind::item, at, std::move(object), std::move(first));
  }
  next();
  const auto bound = [&]() -> ExprPtr {
    return is_op(":") || is_op("]") ? nullptr : parse_expression();
  };
  ExprPtr last = bound();
  ExprPtr step = skip_op(":") ? bound() : nullptr;
  expect_op("]");
  return make_with(ExprKind::slice, at, std::move(object), std::move(first), std::move(last),
                   std::move(step));
}

ExprPtr ExpressionParser::parse_call(ExprPtr callee) {
  ExprPtr expr = make_with(ExprKind::call, now().position, std::move(callee));
  parse_arguments(*expr);
  return expr;
}

void ExpressionParser::parse_arguments(Expr& expr) {
  const Position at = now().position;
  ArgumentList& arguments = expr.arguments;
  expect_op("(");
  bool first = true;
  while (!failed_ && !is_op(")")) {
    if (!first) expect_op(",");
    first = false;
    if (is_op(")")) break;
    if (skip_op("*")) {
      if (arguments.star || arguments.star_star) fail(at, "these arguments are in the wrong order");
      deepen(expr, arguments.star = parse_expression());
    } else if (skip_op("**")) {
      if (arguments.star_star) fail(at, "these arguments are in the wrong order");
      deepen(expr, arguments.star_star = parse_expression());
    } else if (now().kind == TokenKind::name && look().kind == TokenKind::op &&
               look().text == "=") {
      std::string name = next().text;
      next();
      if (arguments.star_star) fail(at, "these arguments are in the wrong order");
      arguments.named.emplace_back(std::move(name), parse_expression());
      deepen(expr, arguments.named.back().second);
    } else {
      if (!arguments.named.empty() || arguments.star || arguments.star_star)
        fail(at, "an argument without a name follows one with a name");
      arguments.positional.push_back(parse_expression());
      deepen(expr, arguments.positional.back());
    }
  }
  expect_op(")");
}

// ---- filters and tests ----
ExprPtr ExpressionParser::parse_filters_and_tests(ExprPtr expr) {
  while (!failed_) {
    if (is_op("|")) {
      expr = parse_filters(std::move(expr));
    } else if (is_word("is")) {
      expr = parse_test(std::move(expr));
    } else if (is_op("(")) {
      expr = parse_call(std::move(expr));
    } else {
      break;
    }
  }
  return expr;
}

ExprPtr ExpressionParser::parse_filters(ExprPtr expr) {
  while (!failed_ && skip_op("|")) expr = parse_one_filter(std::move(expr));
  return expr;
}

std::string ExpressionParser::dotted_name() {
  std::string name = expect_name();
  while (!failed_ && skip_op(".")) name = fmt::format("{}.{}", name, expect_name());
  return name;
}

ExprPtr ExpressionParser::parse_one_filter(ExprPtr input) {
  const Position at = now().position;
  ExprPtr expr = make_with(ExprKind::filter, at, std::move(input));
  expr->name = dotted_name();
  if (!is_filter(expr->name)) use_unknown(at, fmt::format("unknown filter '{}'", expr->name));
  if (is_op("(")) parse_arguments(*expr);
  return expr;
}

ExprPtr ExpressionParser::parse_test(ExprPtr input) {
  next();
  const bool negated = skip_word("not");
  const Position at = now().position;
  ExprPtr expr = make_with(ExprKind::test, at, std::move(input));
  expr->name = dotted_name();
  if (!is_test(expr->name)) use_unknown(at, fmt::format("unknown test '{}'", expr->name));
  if (is_op("(")) {
    parse_arguments(*expr);
  } else if (starts_test_argument()) {
    if (is_word("is")) fail(now().position, "tests cannot be chained with 'is'");
    ExprPtr argument = parse_postfix(parse_primary());
    deepen(*expr, argument);
    expr->arguments.positional.push_back(std::move(argument));
  }
  return negated ? make_with(ExprKind::negation, at, std::move(expr)) : std::move(expr);
}

bool ExpressionParser::starts_test_argument() const {
  switch (now().kind) {
    case TokenKind::name:
      return !is_word_of({"else", "or", "and"});
    case TokenKind::string:
    case TokenKind::integer:
    case TokenKind::real:
      return true;
    default:
      return is_op("[") || is_op("{");
  }
}

}  // namespace lowbit::jinja
