// SPDX-License-Identifier: Apache-2.0
// Walks the tree. Scopes follow jinja2: if blocks share the scope around them; for bodies (each
// turn anew), macros, call, filter, set and with blocks have their own, from which assignments do
// not escape.
#include <fmt/format.h>

#include <algorithm>

#include "lowbit/model/jinja_runtime.h"

namespace lowbit::jinja {

namespace {

constexpr int max_recursion = 1000;  // nodes under evaluation at once: bounds the stack
constexpr std::size_t max_kept = std::size_t{1}
                                 << 18;  // macros, and scopes of recursive loops, in one render

enum class Flow : unsigned char { next, break_loop, continue_loop };

class Interpreter final : public Runtime {
 public:
  Interpreter(Scope& variables, std::int64_t now)
      : Runtime(now), scope_(std::make_shared<Scope>(nullptr)) {
    scope_->variables = std::move(variables.variables);
  }

  Text run(const Program& program) {
    execute_all(program.body);
    return std::move(out_);
  }

 private:
  class Depth {
   public:
    explicit Depth(Interpreter& owner) : owner_(owner) {
      if (++owner_.depth_ > max_recursion) owner_.fail("the template calls itself too deeply");
    }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;
    ~Depth() { --owner_.depth_; }

   private:
    Interpreter& owner_;
  };

  /// A scope inside the current one, for as long as it lives.
  class InnerScope {
   public:
    explicit InnerScope(Interpreter& owner) : InnerScope(owner, owner.scope_) {}
    InnerScope(Interpreter& owner, const ScopePtr& parent) : owner_(owner), outer_(owner.scope_) {
      owner_.scope_ = std::make_shared<Scope>(parent);
    }
    InnerScope(const InnerScope&) = delete;
    InnerScope& operator=(const InnerScope&) = delete;
    ~InnerScope() { owner_.scope_ = std::move(outer_); }

   private:
    Interpreter& owner_;
    ScopePtr outer_;
  };

  /// Runs `work` with its output caught.
  template <class Work>
  Text capture(const Work& work) {
    Text outer = std::exchange(out_, Text());
    work();
    return std::exchange(out_, std::move(outer));
  }

  void emit(const Text& text) {
    charge(1);
    out_.append(text);
    if (out_.overflowed())
      fail(fmt::format("the output grows beyond {} MB", Text::max_bytes >> 20));
  }

  // ---- statements ----

  Flow execute_all(const Body& body) {
    for (const auto& stmt : body) {
      const Flow flow = execute(*stmt);
      if (failed() || flow != Flow::next) return flow;
    }
    return Flow::next;
  }

  Flow execute(const Stmt& stmt) {
    const Depth depth(*this);
    at_ = stmt.at;
    if (!charge(1)) return Flow::next;
    switch (stmt.kind) {
      case StmtKind::data:
        emit(stmt.text);
        break;
      case StmtKind::output:
        output(stmt);
        break;
      case StmtKind::branch:
        return branch(stmt);
      case StmtKind::loop:
        loop(stmt, evaluate(*stmt.expr), 0);
        break;
      case StmtKind::assign:
        assign(*stmt.target, evaluate(*stmt.expr));
        break;
      case StmtKind::assign_block:
        return assign_block(stmt);
      case StmtKind::macro:
        scope_->set(stmt.name, make_macro(stmt));
        break;
      case StmtKind::call_block:
        call_block(stmt);
        break;
      case StmtKind::filter_block:
        return filter_block(stmt);
      case StmtKind::with:
        return with(stmt);
      case StmtKind::scope:
        return inner(stmt.bodies[0]);
      case StmtKind::break_loop:
        return Flow::break_loop;
      case StmtKind::continue_loop:
        return Flow::continue_loop;
    }
    return Flow::next;
  }

  void output(const Stmt& stmt) {
    const Value value = evaluate(*stmt.expr);
    if (const Text* text = value.text()) {
      emit(*text);
    } else if (!failed()) {
      emit(str(value));
    }
  }

  Flow inner(const Body& body) {
    const InnerScope scope(*this);
    return execute_all(body);
  }

  Flow branch(const Stmt& stmt) {
    for (std::size_t i = 0; i < stmt.conditions.size(); ++i) {
      const bool taken = evaluate(*stmt.conditions[i]).truthy();
      if (failed()) return Flow::next;
      if (taken) return execute_all(stmt.bodies[i]);
    }
    return stmt.bodies.size() > stmt.conditions.size() ? execute_all(stmt.bodies.back())
                                                       : Flow::next;
  }

  void loop(const Stmt& stmt, const Value& sequence, int depth0) {
    at_ = stmt.expr->at;
    auto state = std::make_shared<Loop>();
    state->depth0 = depth0;
    for (Value& item : iterate(sequence)) {
      if (failed()) return;
      if (passes(stmt, item)) state->items.push_back(std::move(item));
    }
    for (const Value& item : state->items)
      state->nesting = std::max(state->nesting, item.depth() + 1);
    if (stmt.recursive) {
      state->recursive_for = &stmt;
      if (kept_scopes_.empty() || kept_scopes_.back() != scope_) kept_scopes_.push_back(scope_);
      if (kept_scopes_.size() > max_kept) fail("the template runs too many recursive loops");
      state->scope = kept_scopes_.size() - 1;
    }
    for (; state->index < state->items.size() && !failed(); ++state->index) {
      const InnerScope scope(*this);
      scope_->set("loop", Value(std::shared_ptr<const Loop>(state)));
      assign(*stmt.target, state->items[state->index]);
      if (execute_all(stmt.bodies[0]) == Flow::break_loop) break;
    }
    if (state->items.empty() && stmt.bodies.size() > 1) inner(stmt.bodies[1]);
  }

  bool passes(const Stmt& stmt, const Value& item) {
    if (stmt.conditions.empty()) return true;
    const InnerScope scope(*this);
    assign(*stmt.target, item);
    return evaluate(*stmt.conditions[0]).truthy();
  }

  void assign(const Expr& target, const Value& value) {
    if (failed()) return;
    at_ = target.at;
    if (target.kind == ExprKind::name) return scope_->set(target.name, value);
    if (target.kind == ExprKind::tuple) {
      const std::vector<Value> items = iterate(value);
      if (!failed() && items.size() != target.parts.size()) {
        fail(fmt::format("{} values cannot be assigned to {} names", items.size(),
                         target.parts.size()));
      }
      for (std::size_t i = 0; i < target.parts.size() && !failed(); ++i)
        assign(*target.parts[i], items[i]);
      return;
    }
    const Value object = lookup(target.name);
    Namespace* space = object.name_space();
    if (space == nullptr) {
      fail(fmt::format("'{}' is no namespace, so its field '{}' cannot be set", target.name,
                       target.attribute));
    } else if (target.attribute[0] == '_') {
      fail(fmt::format(
          "a namespace cannot have the field '{}': names must not start with an underscore",
          target.attribute));
    } else {
      set_field(*space, target.attribute, value);
    }
  }
  static void set_field(Namespace& space, const std::string& name, const Value& value) {
    for (auto& [key, field] : space.fields) {
      if (key == name) {
        field = value;
        return;
      }
    }
    space.fields.emplace_back(name, value);
  }

  Flow assign_block(const Stmt& stmt) {
    Flow flow = Flow::next;
    Text body = capture([&] { flow = inner(stmt.bodies[0]); });
    Value value = text(std::move(body));
    if (stmt.expr) value = with_input(std::move(value), *stmt.expr);
    assign(*stmt.target, value);
    return flow;
  }

  Flow filter_block(const Stmt& stmt) {
    Flow flow = Flow::next;
    Text body = capture([&] { flow = inner(stmt.bodies[0]); });
    const Value value = with_input(text(std::move(body)), *stmt.expr);
    if (!failed()) emit(str(value));
    return flow;
  }

  /// A chain of filters whose innermost input is a block's text.
  Value with_input(Value input, const Expr& filters) {
    Value outer = std::exchange(block_input_, std::move(input));
    Value result = evaluate(filters);
    block_input_ = std::move(outer);
    return result;
  }

  Flow with(const Stmt& stmt) {
    std::vector<Value> values;
    for (const ExprPtr& expr : stmt.conditions) values.push_back(evaluate(*expr));
    const InnerScope scope(*this);
    for (std::size_t i = 0; i < values.size(); ++i) assign(*stmt.targets[i], values[i]);
    return execute_all(stmt.bodies[0]);
  }

  Value make_macro(const Stmt& stmt) {
    if (macros_.size() >= max_kept) return fail("the template makes too many macros");
    return Value(static_cast<const Macro*>(&macros_.emplace_back(Macro{&stmt, scope_})));
  }

  void call_block(const Stmt& stmt) {
    const Value caller = make_macro(stmt);
    const Expr& expr = *stmt.expr;
    const Value callee = evaluate(*expr.parts[0]);
    Arguments arguments = evaluate_arguments(expr.arguments);
    arguments.named.emplace_back("caller", caller);
    at_ = expr.at;
    if (failed()) return;
    const Value result = call(callee, std::move(arguments));
    if (!failed()) emit(str(result));
  }

  // ---- expressions ----

  Value lookup(const std::string& name) {
    for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
      for (const auto& [key, value] : scope->variables) {
        if (key == name) return value;
      }
    }
    if (name == "namespace") return Builtin::make_namespace;
    if (name == "raise_exception") return Builtin::raise_exception;
    if (name == "range") return Builtin::range;
    if (name == "strftime_now") return Builtin::strftime_now;
    if (name == "dict") return Builtin::dict;
    return undefined(fmt::format("'{}' is undefined", name));
  }

  Value evaluate(const Expr& expr) {
    const Depth depth(*this);
    if (!charge(1)) return {};
    switch (expr.kind) {
      case ExprKind::constant:
        return expr.constant;
      case ExprKind::name:
        at_ = expr.at;
        return lookup(expr.name);
      case ExprKind::attribute:
        return evaluate_attribute(expr);
      case ExprKind::item:
        return evaluate_item(expr);
      case ExprKind::slice:
        return evaluate_slice(expr);
      case ExprKind::call:
        return evaluate_call(expr);
      case ExprKind::filter:
        return evaluate_filter(expr);
      case ExprKind::test:
        return evaluate_test(expr);
      case ExprKind::list:
        return list(evaluate_parts(expr));
      case ExprKind::tuple:
        return list(evaluate_parts(expr), ListKind::tuple);
      case ExprKind::dict:
        return evaluate_dict(expr);
      case ExprKind::negation:
        return !evaluate(*expr.parts[0]).truthy();
      case ExprKind::minus:
        return evaluate_sign(expr, "-");
      case ExprKind::plus:
        return evaluate_sign(expr, "+");
      case ExprKind::arithmetic:
        return evaluate_arithmetic(expr);
      case ExprKind::concatenation:
        return evaluate_concatenation(expr);
      case ExprKind::comparison:
        return evaluate_comparison(expr);
      case ExprKind::both: {
        Value left = evaluate(*expr.parts[0]);
        return left.truthy() ? evaluate(*expr.parts[1]) : left;
      }
      case ExprKind::either: {
        Value left = evaluate(*expr.parts[0]);
        return left.truthy() ? left : evaluate(*expr.parts[1]);
      }
      case ExprKind::conditional:
        if (evaluate(*expr.parts[0]).truthy()) return evaluate(*expr.parts[1]);
        if (expr.parts[2]) return evaluate(*expr.parts[2]);
        return undefined("an inline if was false and has no else");
      case ExprKind::namespace_field:
        break;  // only a target
    }
    return {};
  }

  std::vector<Value> evaluate_parts(const Expr& expr) {
    std::vector<Value> values;
    for (const ExprPtr& part : expr.parts) values.push_back(evaluate(*part));
    at_ = expr.at;
    return values;
  }

  Value evaluate_attribute(const Expr& expr) {
    const Value object = evaluate(*expr.parts[0]);
    at_ = expr.at;
    return failed() ? Value() : attribute(object, expr.name);
  }
  Value evaluate_item(const Expr& expr) {
    const Value object = evaluate(*expr.parts[0]);
    const Value key = evaluate(*expr.parts[1]);
    at_ = expr.at;
    return failed() ? Value() : item(object, key);
  }
  Value evaluate_slice(const Expr& expr) {
    const Value object = evaluate(*expr.parts[0]);
    std::array<Value, 3> bounds;
    for (std::size_t i = 0; i < bounds.size(); ++i) {
      bounds[i] = expr.parts[i + 1] ? evaluate(*expr.parts[i + 1]) : Value(None{});
    }
    at_ = expr.at;
    return failed() ? Value() : slice(object, bounds[0], bounds[1], bounds[2]);
  }
  Value evaluate_dict(const Expr& expr) {
    std::vector<std::pair<Value, Value>> entries;
    for (std::size_t i = 0; i + 1 < expr.parts.size(); i += 2) {
      Value key = evaluate(*expr.parts[i]);
      entries.emplace_back(std::move(key), evaluate(*expr.parts[i + 1]));
    }
    at_ = expr.at;
    return failed() ? Value() : dict(std::move(entries));
  }
  Value evaluate_sign(const Expr& expr, std::string_view sign) {
    const Value value = evaluate(*expr.parts[0]);
    at_ = expr.at;
    if (failed()) return {};
    if (value.is_real()) return sign == "-" ? -*value.number() : *value.number();
    return arithmetic(sign, std::int64_t{0}, value);
  }
  Value evaluate_arithmetic(const Expr& expr) {
    const Value left = evaluate(*expr.parts[0]);
    const Value right = evaluate(*expr.parts[1]);
    at_ = expr.at;
    return failed() ? Value() : arithmetic(expr.name, left, right);
  }
  Value evaluate_concatenation(const Expr& expr) {
    Text joined;
    for (const ExprPtr& part : expr.parts) {
      const Value value = evaluate(*part);
      if (failed()) return {};
      joined.append(str(value));
    }
    at_ = expr.at;
    return text(std::move(joined));
  }

  bool compare(const std::string& op, const Value& left, const Value& right) {
    if (op == "==") return equal(left, right);
    if (op == "!=") return !equal(left, right);
    if (op == "<") return less(left, right);
    if (op == ">") return less(right, left);
    if (op == "<=") return less(left, right) || equal(left, right);
    if (op == ">=") return less(right, left) || equal(left, right);
    return contains(right, left) == (op == "in");
  }
  Value evaluate_comparison(const Expr& expr) {
    Value left = evaluate(*expr.parts[0]);
    bool holds = true;
    for (std::size_t i = 0; i < expr.operators.size() && holds && !failed(); ++i) {
      Value right = evaluate(*expr.parts[i + 1]);
      at_ = expr.at;
      holds = !failed() && compare(expr.operators[i], left, right);
      left = std::move(right);
    }
    return holds;
  }

  Arguments evaluate_arguments(const ArgumentList& list) {
    Arguments arguments;
    for (const ExprPtr& expr : list.positional) arguments.positional.push_back(evaluate(*expr));
    for (const auto& [name, expr] : list.named) arguments.named.emplace_back(name, evaluate(*expr));
    if (list.star) {
      for (Value& value : iterate(evaluate(*list.star)))
        arguments.positional.push_back(std::move(value));
    }
    if (list.star_star) {
      const Value more = evaluate(*list.star_star);
      if (!more.dict() && !failed()) fail("'**' needs a dict");
      if (const Dict* dict = more.dict()) {
        for (const auto& [key, value] : dict->entries) {
          if (!key.text())
            fail("names of arguments must be strings");
          else
            arguments.named.emplace_back(key.text()->bytes(), value);
        }
      }
    }
    return arguments;
  }

  Value evaluate_call(const Expr& expr) {
    const Value callee = evaluate(*expr.parts[0]);
    Arguments arguments = evaluate_arguments(expr.arguments);
    at_ = expr.at;
    return failed() ? Value() : call(callee, std::move(arguments));
  }
  Value evaluate_filter(const Expr& expr) {
    const Value input = expr.parts[0] ? evaluate(*expr.parts[0]) : block_input_;
    const Arguments arguments = evaluate_arguments(expr.arguments);
    at_ = expr.at;
    return failed() ? Value() : apply_filter(expr.name, input, arguments);
  }
  Value evaluate_test(const Expr& expr) {
    const Value input = evaluate(*expr.parts[0]);
    const Arguments arguments = evaluate_arguments(expr.arguments);
    at_ = expr.at;
    return failed() ? Value() : Value(apply_test(expr.name, input, arguments));
  }

  // ---- calls ----

  Value call(const Value& callee, Arguments arguments) override {
    if (failed()) return {};
    if (const Undefined* u = callee.undefined())
      return fail(u->reason ? *u->reason : "a value is undefined");
    if (const Method* method = callee.method()) return call_method(*this, *method, arguments);
    if (const Macro* macro = callee.macro()) return call_macro(*macro, std::move(arguments));
    if (const Loop* again = callee.loop()) return call_loop(*again, arguments);
    if (const Builtin* builtin = callee.builtin()) return call_builtin(*this, *builtin, arguments);
    return fail(fmt::format("a {} cannot be called", callee.type_name()));
  }

  Value call_loop(const Loop& again, const Arguments& arguments) {
    const auto* stmt = static_cast<const Stmt*>(again.recursive_for);
    if (stmt == nullptr) return fail("loop() needs a loop marked 'recursive'");
    if (arguments.positional.size() != 1 || !arguments.named.empty())
      return fail("loop() takes one argument");
    const Depth depth(*this);
    const ScopePtr outer = std::exchange(scope_, kept_scopes_[again.scope]);
    Text body = capture([&] { loop(*stmt, arguments.positional[0], again.depth0 + 1); });
    scope_ = outer;
    return text(std::move(body));
  }

  /// Removes a named argument and returns it.
  static std::optional<Value> take(Arguments& arguments, std::string_view name) {
    auto& named = arguments.named;
    const auto found =
        std::find_if(named.begin(), named.end(), [&](const auto& a) { return a.first == name; });
    if (found == named.end()) return std::nullopt;
    Value value = std::move(found->second);
    named.erase(found);
    return value;
  }

  Value call_macro(const Macro& macro, Arguments arguments) {
    const Depth depth(*this);
    const Stmt& stmt = *macro.stmt;
    const InnerScope scope(*this, macro.scope);
    const std::size_t n = stmt.parameters.size();
    std::vector<std::size_t> missing;
    for (std::size_t i = 0; i < n; ++i) {
      std::optional<Value> value;
      if (i < arguments.positional.size())
        value = arguments.positional[i];
      else
        value = take(arguments, stmt.parameters[i]);
      if (value)
        scope_->set(stmt.parameters[i], std::move(*value));
      else
        missing.push_back(i);
    }
    if (stmt.reads_caller) {
      auto caller = take(arguments, "caller");
      scope_->set("caller", caller ? std::move(*caller)
                                   : undefined("this macro was not called by a call block"));
    }
    if (!bind_rest(stmt, arguments)) return {};
    const std::size_t first_default = n - stmt.defaults.size();
    for (std::size_t i : missing) {
      const std::string& name = stmt.parameters[i];
      scope_->set(name, i >= first_default
                            ? evaluate(*stmt.defaults[i - first_default])
                            : undefined(fmt::format("parameter '{}' was not given", name)));
    }
    Text body = capture([&] { execute_all(stmt.bodies[0]); });
    return failed() ? Value() : text(std::move(body));
  }

  /// varargs and kwargs: what the parameters did not take.
  bool bind_rest(const Stmt& stmt, Arguments& arguments) {
    const std::size_t n = stmt.parameters.size();
    if (stmt.reads_kwargs) {
      std::vector<std::pair<Value, Value>> entries;
      for (auto& [name, value] : arguments.named) entries.emplace_back(text(name), value);
      scope_->set("kwargs", dict(std::move(entries)));
    } else if (!arguments.named.empty()) {
      fail(fmt::format("macro '{}' has no argument named '{}'", stmt.name,
                       arguments.named[0].first));
    }
    std::vector<Value> rest;
    for (std::size_t i = n; i < arguments.positional.size(); ++i)
      rest.push_back(arguments.positional[i]);
    if (stmt.reads_varargs) {
      scope_->set("varargs", list(std::move(rest), ListKind::tuple));
    } else if (!rest.empty()) {
      fail(fmt::format("macro '{}' takes at most {} arguments, {} given", stmt.name, n,
                       arguments.positional.size()));
    }
    return !failed();
  }

  Text out_;
  ScopePtr scope_;
  Value block_input_;
  int depth_ = 0;
};

}  // namespace

Text run_program(const Program& program, Scope& variables, std::int64_t now, std::string& error) {
  Interpreter interpreter(variables, now);
  Text out = interpreter.run(program);
  if (interpreter.failed()) error = interpreter.message();
  return out;
}

}  // namespace lowbit::jinja
