// SPDX-License-Identifier: Apache-2.0
// Statements: text, output and the blocks between tags.
#include "lowbit/model/jinja_parser.h"

#include <set>

#include "lowbit/model/jinja_expression_parser.h"

namespace lowbit::jinja {

namespace {

class Parser : private ExpressionParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

  Result<Program> run() {
    Program program;
    program.body = parse_body({});
    if (!failed_ && !unknown_uses_.empty()) fail(unknown_uses_[0].at, unknown_uses_[0].message);
    if (failed_) return Error(message_);
    return program;
  }

 private:
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

  int loops_ = 0;  // open for blocks that break and continue may leave
};

}  // namespace

Result<Program> parse_program(std::string_view source) {
  auto tokens = tokenize(source);
  if (!tokens) return std::move(tokens).error();
  return Parser(std::move(*tokens)).run();
}

}  // namespace lowbit::jinja
