// SPDX-License-Identifier: Apache-2.0
// What filters, tests, methods and the interpreter share: the state of one render and Python's
// operations on values. Errors are sticky: fail() keeps the first one with the position of the node
// at work and returns undefined; every loop looks at failed(), so that expressions need no error
// paths of their own.
//
// All work is charged in steps (a node, an item, 256 bytes of text), so hostile templates end.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lowbit/model/jinja_ast.h"
#include "lowbit/model/jinja_value.h"

namespace lowbit::jinja {

inline constexpr std::size_t max_steps = 5'000'000;

struct Scope {
  explicit Scope(std::shared_ptr<Scope> p) : parent(std::move(p)) {}
  Value* find_here(std::string_view name);
  void set(std::string_view name, Value value);

  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string, Value>> variables;
};
using ScopePtr = std::shared_ptr<Scope>;

struct Namespace {
  std::vector<std::pair<std::string, Value>> fields;
};

/// A macro block, or the body of a call block, with the scope it was defined in.
struct Macro {
  const Stmt* stmt;
  ScopePtr scope;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

class Runtime {
 public:
  explicit Runtime(std::int64_t now) : now_(now) {}
  virtual ~Runtime() = default;
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // ---- errors and limits ----
  Value fail(std::string message);
  bool failed() const { return failed_; }
  const std::string& message() const { return message_; }
  bool charge(std::size_t n_steps);  // false once failed

  // ---- making values ----
  Value text(Text value);
  Value text(std::string_view trusted_text) { return text(Text(trusted_text, true)); }
  Value list(std::vector<Value> items, ListKind kind = ListKind::list);
  Value texts(std::vector<Text> parts, ListKind kind = ListKind::list);
  Value dict(std::vector<std::pair<Value, Value>> entries);  // fails on unhashable keys
  Value undefined(std::string reason) const;
  Namespace* make_namespace(std::vector<std::pair<std::string, Value>> fields);

  // ---- Python's operations ----
  Text str(const Value& value);
  Text repr(const Value& value);
  bool equal(const Value& a, const Value& b);
  bool less(const Value& a, const Value& b);  // fails where Python has no order
  bool contains(const Value& container, const Value& item);
  /// The items of anything iterable; consumes a generator. Fails otherwise.
  std::vector<Value> iterate(const Value& value);
  Value length(const Value& value);
  Value arithmetic(std::string_view op, const Value& a, const Value& b);
  Value slice(const Value& object, const Value& first, const Value& last, const Value& step);
  /// object.name and object[key] in jinja2's sense: each falls back to the other, then to
  /// undefined.
  Value attribute(const Value& object, const std::string& name);
  Value item(const Value& object, const Value& key);
  /// item() along "a.b.0"; an absent `name` gives the object itself.
  Value item_path(const Value& object, const Value* name);

  virtual Value call(const Value& callee, Arguments arguments) = 0;
  Value apply_filter(const std::string& name, const Value& input, const Arguments& arguments);
  bool apply_test(const std::string& name, const Value& input, const Arguments& arguments);

  /// Files arguments under the parameters' names; absent ones are null. Parameters named "" are
  /// positional only.
  template <std::size_t N>
  bool bind(std::string_view callee, const Arguments& arguments,
            const std::array<std::string_view, N>& names, std::size_t n_required,
            std::array<const Value*, N>& bound) {
    return bind_all(callee, arguments, names.data(), N, n_required, bound.data());
  }
  /// Integer arguments; fail otherwise.
  std::int64_t integer(const Value& value, std::string_view what);

  std::string strftime(const std::string& format);

 protected:
  Position at_;  // of the node at work, for errors
  Memory memory_;
  std::deque<Namespace> namespaces_;  // these three live until the render ends
  std::deque<Macro> macros_;
  std::vector<ScopePtr> kept_scopes_;

 private:
  bool bind_all(std::string_view callee, const Arguments& arguments, const std::string_view* names,
                std::size_t n_names, std::size_t n_required, const Value** bound);
  Value unsupported(std::string_view op, const Value& a, const Value& b);
  Value repeat(const Value& value, std::int64_t n);
  Value power(double base, double exponent);

  std::int64_t now_;  // seconds since 1970, in the time zone to print
  std::size_t n_steps_ = 0;
  bool failed_ = false;
  std::string message_;
};

template <std::size_t N>
using Names = std::array<std::string_view, N>;
template <std::size_t N>
using Bound = std::array<const Value*, N>;

bool is_filter(std::string_view name);
bool is_test(std::string_view name);

enum class MethodKind : std::uint8_t { absent, usable, changes_value };
MethodKind find_method(const Value& object, std::string_view name);
Value call_method(Runtime& runtime, const Method& method, const Arguments& arguments);

Value call_builtin(Runtime& runtime, Builtin builtin, const Arguments& arguments);

/// format % values, and str.format.
Value percent_format(Runtime& runtime, const Text& format, const Value& values);
Value brace_format(Runtime& runtime, const Text& format, const Arguments& arguments);

/// Runs a program; the result is its output.
Text run_program(const Program& program, Scope& variables, std::int64_t now, std::string& error);

}  // namespace lowbit::jinja
