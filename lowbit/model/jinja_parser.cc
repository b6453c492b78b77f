// SPDX-License-Identifier: Apache-2.0
// Errors are sticky: the first one is kept, the token stream jumps to its end and every loop below
// ends there, so no function has to pass an error on. A failed expression is a null pointer until
// then.
#include "lowbit/model/jinja_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <set>

#include "lowbit/model/jinja_runtime.h"

namespace lowbit::jinja {

namespace {

constexpr int max_nesting = 200;     // of brackets and blocks: bounds the parser's own recursion
constexpr int max_tree_depth = 400;  // of an expression: bounds the interpreter's recursion

using Words = std::initializer_list<std::string_view>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Result<Program> run() {
    Program program;
    program.body = parse_body({});
    if (!failed_ && !unknown_uses_.empty()) fail(unknown_uses_[0].at, unknown_uses_[0].message);
    if (failed_) return Error(message_);
    return program;
  }

 private:
  // ---- tokens and errors ----

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
    explicit Level(Parser& parser) : parser_(parser) {
      if (++parser_.nesting_ > max_nesting) {
        parser_.fail(parser_.now().position,
                     fmt::format("nested more than {} levels deep", max_nesting));
      }
    }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    ~Level() { --parser_.nesting_; }

   private:
    Parser& parser_;
  };

  ExprPtr make(ExprKind kind, Position at) {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->at = at;
    return expr;
  }
  /// Adds a child; trees that grow too deep are an error.
  void add(Expr& expr, ExprPtr part) {
    if (part != nullptr) {
      expr.depth = std::max(expr.depth, part->depth + 1);
      if (expr.depth > max_tree_depth)
        fail(expr.at,
             fmt::format("an expression is nested more than {} levels deep", max_tree_depth));
    }
    expr.parts.push_back(std::move(part));
  }
  template <class... Parts>
  ExprPtr make_with(ExprKind kind, Position at, Parts... parts) {
    ExprPtr expr = make(kind, at);
    (add(*expr, std::move(parts)), ...);
    return expr;
  }

  // ---- statements ----

  Body parse_body(Words ends) {
    Body body;
    const Level level(*this);
    while (!failed_) {
      switch (now().kind) {
        case TokenKind::end:
          if (ends.size() > 0)
            fail(now().position, fmt::format("the template ends where {{% {} %}} is missing",
                                             *std::prev(ends.end())));
          return body;
        case TokenKind::data: {
          auto stmt = make_stmt(StmtKind::data);
          stmt->text = Text(next().text, true);
          body.push_back(std::move(stmt));
          break;
        }
        case TokenKind::variable_begin: {
          auto stmt = make_stmt(StmtKind::output);
          next();
          stmt->expr = parse_tuple();
          expect_kind(TokenKind::variable_end);
          body.push_back(std::move(stmt));
          break;
        }
        default:
          expect_kind(TokenKind::block_begin);
          if (is_word_of(ends)) return body;
          body.push_back(parse_statement());
          expect_kind(TokenKind::block_end);
      }
    }
    return body;
  }

  /// The block between `%}` and the first of `ends`, whose word is the current token afterwards.
  Body parse_block(Words ends) {
    skip_op(":");
    expect_kind(TokenKind::block_end);
    return parse_body(ends);
  }
  Body parse_block_until(std::string_view end) {
    Body body = parse_block({end});
    next();
    return body;
  }

  std::unique_ptr<Stmt> make_stmt(StmtKind kind) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->at = now().position;
    return stmt;
  }

  std::unique_ptr<Stmt> parse_statement() {
    const Position at = now().position;
    const std::string word = now().kind == TokenKind::name ? now().text : "";
    if (word == "if") return parse_if();
    if (word == "for") return parse_for();
    if (word == "set") return parse_set();
    if (word == "macro") return parse_macro();
    if (word == "call") return parse_call_block();
    if (word == "filter") return parse_filter_block();
    if (word == "with") return parse_with();
    if (word == "generation") return parse_generation();
    if (word == "break" || word == "continue") {
      auto stmt = make_stmt(word == "break" ? StmtKind::break_loop : StmtKind::continue_loop);
      next();
      if (loops_ == 0) fail(at, fmt::format("'{}' stands outside of a loop", word));
      return stmt;
    }
    auto stmt = make_stmt(StmtKind::data);
    fail(at, word.empty() ? fmt::format("expected the name of a tag, found {}", shown(now()))
                          : fmt::format("unknown tag '{}'", word));
    return stmt;
  }

  std::unique_ptr<Stmt> parse_if() {
    auto stmt = make_stmt(StmtKind::branch);
    const Soft soft(*this, true);
    while (!failed_) {
      next();  // if or elif
      stmt->conditions.push_back(parse_tuple(false));
      stmt->bodies.push_back(parse_block({"elif", "else", "endif"}));
      if (is_word("elif")) continue;
      if (skip_word("else")) stmt->bodies.push_back(parse_block({"endif"}));
      next();
      break;
    }
    return stmt;
  }

  std::unique_ptr<Stmt> parse_for() {
    auto stmt = make_stmt(StmtKind::loop);
    next();
    stmt->target = parse_target(false);
    if (!skip_word("in"))
      fail(now().position, fmt::format("expected 'in', found {}", shown(now())));
    stmt->expr = parse_tuple(false, {"recursive"});
    const Soft soft(*this, false);
    if (skip_word("if")) stmt->conditions.push_back(parse_expression());
    stmt->recursive = skip_word("recursive");
    ++loops_;
    stmt->bodies.push_back(parse_block({"else", "endfor"}));
    --loops_;
    if (skip_word("else")) stmt->bodies.push_back(parse_block({"endfor"}));
    next();
    return stmt;
  }

  std::unique_ptr<Stmt> parse_set() {
    auto stmt = make_stmt(StmtKind::assign);
    next();
    stmt->target = parse_target(true);
    if (skip_op("=")) {
      stmt->expr = parse_tuple();
      return stmt;
    }
    stmt->kind = StmtKind::assign_block;
    const Soft soft(*this, false);
    stmt->expr = parse_filters(nullptr);
    stmt->bodies.push_back(parse_block_until("endset"));
    return stmt;
  }

  std::unique_ptr<Stmt> parse_macro() {
    auto stmt = make_stmt(StmtKind::macro);
    next();
    stmt->name = expect_name();
    parse_signature(*stmt);
    parse_macro_body(*stmt, "endmacro");
    return stmt;
  }

  std::unique_ptr<Stmt> parse_call_block() {
    auto stmt = make_stmt(StmtKind::call_block);
    next();
    stmt->name = "caller";
    if (is_op("(")) parse_signature(*stmt);
    stmt->expr = parse_expression();
    if (stmt->expr && stmt->expr->kind != ExprKind::call)
      fail(stmt->at, "a call block needs a call, as in {% call name() %}");
    parse_macro_body(*stmt, "endcall");
    return stmt;
  }

  void parse_signature(Stmt& stmt) {
    expect_op("(");
    while (!failed_ && !is_op(")")) {
      if (!stmt.parameters.empty()) expect_op(",");
      const Position at = now().position;
      stmt.parameters.push_back(expect_name());
      if (skip_op("=")) {
        stmt.defaults.push_back(parse_expression());
      } else if (!stmt.defaults.empty()) {
        fail(at, fmt::format("parameter '{}' without a default follows one with a default",
                             stmt.parameters.back()));
      }
    }
    expect_op(")");
  }

  void parse_macro_body(Stmt& stmt, std::string_view end) {
    const Soft soft(*this, false);
    const int outer_loops = std::exchange(loops_, 0);
    std::set<std::string> outer_names = std::exchange(special_names_, {});
    stmt.bodies.push_back(parse_block_until(end));
    loops_ = outer_loops;
    const auto reads = [&](const char* name) {
      const auto& parameters = stmt.parameters;
      return special_names_.count(name) > 0 &&
             std::find(parameters.begin(), parameters.end(), name) == parameters.end();
    };
    stmt.reads_caller = reads("caller");
    stmt.reads_varargs = reads("varargs");
    stmt.reads_kwargs = reads("kwargs");
    special_names_.merge(outer_names);
  }

  std::unique_ptr<Stmt> parse_filter_block() {
    auto stmt = make_stmt(StmtKind::filter_block);
    next();
    const Soft soft(*this, false);
    stmt->expr = parse_one_filter(nullptr);
    stmt->expr = parse_filters(std::move(stmt->expr));
    stmt->bodies.push_back(parse_block_until("endfilter"));
    return stmt;
  }

  std::unique_ptr<Stmt> parse_with() {
    auto stmt = make_stmt(StmtKind::with);
    next();
    const Soft soft(*this, false);
    while (!failed_ && now().kind != TokenKind::block_end) {
      if (!stmt->targets.empty()) expect_op(",");
      stmt->targets.push_back(parse_target(false));
      expect_op("=");
      stmt->conditions.push_back(parse_expression());
    }
    stmt->bodies.push_back(parse_block_until("endwith"));
    return stmt;
  }

  std::unique_ptr<Stmt> parse_generation() {
    auto stmt = make_stmt(StmtKind::scope);
    next();
    const Soft soft(*this, false);
    const int outer_loops = std::exchange(loops_, 0);
    stmt->bodies.push_back(parse_block_until("endgeneration"));
    loops_ = outer_loops;
    return stmt;
  }

  /// A name, several names, or the field of a namespace.
  ExprPtr parse_target(bool with_fields) {
    const Position at = now().position;
    ExprPtr target = parse_target_part(with_fields);
    if (!is_op(",")) return target;
    ExprPtr tuple = make_with(ExprKind::tuple, at, std::move(target));
    while (!failed_ && skip_op(",")) {
      if ((now().kind != TokenKind::name && !is_op("(")) || is_word("in")) break;
      add(*tuple, parse_target_part(with_fields));
    }
    return tuple;
  }
  ExprPtr parse_target_part(bool with_fields) {
    const Position at = now().position;
    if (is_op("(")) {
      const Level level(*this);
      next();
      ExprPtr inner = parse_target(with_fields);
      expect_op(")");
      return inner;
    }
    ExprPtr target = make(ExprKind::name, at);
    target->name = expect_name();
    for (std::string_view word : {"true", "false", "none", "True", "False", "None", "loop"}) {
      if (target->name == word && (word != "loop" || !with_fields || loops_ > 0)) {
        fail(at, fmt::format("cannot assign to '{}'", word));
      }
    }
    if (with_fields && skip_op(".")) {
      target->kind = ExprKind::namespace_field;
      target->attribute = expect_name();
    }
    return target;
  }

  // ---- expressions ----

  ExprPtr parse_tuple(bool with_conditional = true, Words ends = {}, bool in_brackets = false) {
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

  ExprPtr parse_expression() {
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

  ExprPtr parse_or() {
    const Position at = now().position;
    ExprPtr left = parse_and();
    while (skip_word("or")) left = make_with(ExprKind::either, at, std::move(left), parse_and());
    return left;
  }
  ExprPtr parse_and() {
    const Position at = now().position;
    ExprPtr left = parse_not();
    while (skip_word("and")) left = make_with(ExprKind::both, at, std::move(left), parse_not());
    return left;
  }
  ExprPtr parse_not() {
    if (!is_word("not")) return parse_comparison();
    const Level level(*this);
    const Position at = next().position;
    return make_with(ExprKind::negation, at, parse_not());
  }

  std::string comparison_operator() {
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
  ExprPtr parse_comparison() {
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
  template <class ParsePart>
  ExprPtr parse_arithmetic(Words ops, const ParsePart& parse_part) {
    ExprPtr left = parse_part();
    while (!failed_ && std::any_of(ops.begin(), ops.end(), [&](auto op) { return is_op(op); })) {
      const Token op = next();
      left = make_with(ExprKind::arithmetic, op.position, std::move(left), parse_part());
      left->name = op.text;
    }
    return left;
  }
  ExprPtr parse_sum() {
    return parse_arithmetic({"+", "-"}, [&] { return parse_concatenation(); });
  }
  ExprPtr parse_concatenation() {
    const Position at = now().position;
    ExprPtr first = parse_product();
    if (!is_op("~")) return first;
    ExprPtr expr = make_with(ExprKind::concatenation, at, std::move(first));
    while (!failed_ && skip_op("~")) add(*expr, parse_product());
    return expr;
  }
  ExprPtr parse_product() {
    return parse_arithmetic({"*", "/", "//", "%"}, [&] { return parse_power(); });
  }
  ExprPtr parse_power() {
    return parse_arithmetic({"**"}, [&] { return parse_unary(true); });
  }

  ExprPtr parse_unary(bool with_filters) {
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

  ExprPtr constant(Position at, Value value) {
    ExprPtr expr = make(ExprKind::constant, at);
    expr->constant = std::move(value);
    return expr;
  }

  ExprPtr parse_primary() {
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

  ExprPtr parse_name() {
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

  Value parse_integer(const Token& token) {
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

  ExprPtr parse_list(Position at) {
    ExprPtr expr = make(ExprKind::list, at);
    while (!failed_ && !is_op("]")) {
      if (!expr->parts.empty()) expect_op(",");
      if (is_op("]")) break;
      add(*expr, parse_expression());
    }
    expect_op("]");
    return expr;
  }
  ExprPtr parse_dict(Position at) {
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

  ExprPtr parse_postfix(ExprPtr expr) {
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
  ExprPtr parse_attribute(ExprPtr object, Position at) {
    if (now().kind == TokenKind::integer) {
      const Token token = next();
      return make_with(ExprKind::item, at, std::move(object),
                       constant(token.position, parse_integer(token)));
    }
    ExprPtr expr = make_with(ExprKind::attribute, at, std::move(object));
    expr->name = expect_name();
    return expr;
  }
  ExprPtr parse_subscript(ExprPtr object, Position at) {
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
  ExprPtr parse_call(ExprPtr callee) {
    ExprPtr expr = make_with(ExprKind::call, now().position, std::move(callee));
    parse_arguments(*expr);
    return expr;
  }

  void parse_arguments(Expr& expr) {
    const Position at = now().position;
    ArgumentList& arguments = expr.arguments;
    const auto deepen = [&](const ExprPtr& argument) {
      if (argument != nullptr) expr.depth = std::max(expr.depth, argument->depth + 1);
      if (expr.depth > max_tree_depth)
        fail(at, fmt::format("an expression is nested more than {} levels deep", max_tree_depth));
    };
    expect_op("(");
    bool first = true;
    while (!failed_ && !is_op(")")) {
      if (!first) expect_op(",");
      first = false;
      if (is_op(")")) break;
      if (skip_op("*")) {
        if (arguments.star || arguments.star_star)
          fail(at, "these arguments are in the wrong order");
        deepen(arguments.star = parse_expression());
      } else if (skip_op("**")) {
        if (arguments.star_star) fail(at, "these arguments are in the wrong order");
        deepen(arguments.star_star = parse_expression());
      } else if (now().kind == TokenKind::name && look().kind == TokenKind::op &&
                 look().text == "=") {
        std::string name = next().text;
        next();
        if (arguments.star_star) fail(at, "these arguments are in the wrong order");
        arguments.named.emplace_back(std::move(name), parse_expression());
        deepen(arguments.named.back().second);
      } else {
        if (!arguments.named.empty() || arguments.star || arguments.star_star)
          fail(at, "an argument without a name follows one with a name");
        arguments.positional.push_back(parse_expression());
        deepen(arguments.positional.back());
      }
    }
    expect_op(")");
  }

  // ---- filters and tests ----

  ExprPtr parse_filters_and_tests(ExprPtr expr) {
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
  ExprPtr parse_filters(ExprPtr expr) {
    while (!failed_ && skip_op("|")) expr = parse_one_filter(std::move(expr));
    return expr;
  }
  std::string dotted_name() {
    std::string name = expect_name();
    while (!failed_ && skip_op(".")) name = fmt::format("{}.{}", name, expect_name());
    return name;
  }
  ExprPtr parse_one_filter(ExprPtr input) {
    const Position at = now().position;
    ExprPtr expr = make_with(ExprKind::filter, at, std::move(input));
    expr->name = dotted_name();
    if (!is_filter(expr->name)) use_unknown(at, fmt::format("unknown filter '{}'", expr->name));
    if (is_op("(")) parse_arguments(*expr);
    return expr;
  }
  ExprPtr parse_test(ExprPtr input) {
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
      if (argument) expr->depth = std::max(expr->depth, argument->depth + 1);
      expr->arguments.positional.push_back(std::move(argument));
    }
    return negated ? make_with(ExprKind::negation, at, std::move(expr)) : std::move(expr);
  }
  bool starts_test_argument() const {
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

  // jinja2 refuses a template that names an unknown filter or test, unless the name stands in a
  // branch that may never run (an if block or an inline if): then only running it is an error.
  struct Use {
    Position at;
    std::string message;
  };
  class Soft {
   public:
    Soft(Parser& parser, bool soft)
        : parser_(parser), outer_(std::exchange(parser.in_soft_, soft)) {}
    Soft(const Soft&) = delete;
    Soft& operator=(const Soft&) = delete;
    ~Soft() { parser_.in_soft_ = outer_; }

   private:
    Parser& parser_;
    bool outer_;
  };
  void use_unknown(Position at, std::string message) {
    if (!in_soft_) unknown_uses_.push_back({at, std::move(message)});
  }

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int nesting_ = 0;
  int loops_ = 0;  // open for blocks that break and continue may leave
  bool in_soft_ = false;
  std::vector<Use> unknown_uses_;
  std::set<std::string>
      special_names_;  // of caller, varargs, kwargs, those read in the current macro
  bool failed_ = false;
  std::string message_;
};

}  // namespace

Result<Program> parse_program(std::string_view source) {
  auto tokens = tokenize(source);
  if (!tokens) return std::move(tokens).error();
  return Parser(std::move(*tokens)).run();
}

}  // namespace lowbit::jinja
