// SPDX-License-Identifier: Apache-2.0
// A parsed template. Two node types, each with a kind and the few fields the kinds share: the
// interpreter is two switches over them. Nesting is limited while parsing, which bounds every
// recursion over the tree.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lowbit/model/jinja_lexer.h"
#include "lowbit/model/jinja_value.h"

namespace lowbit::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<std::unique_ptr<Stmt>>;

struct ArgumentList {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star, star_star;  // *values and **names, null if absent
};

enum class ExprKind : unsigned char {
  constant,         // constant
  name,             // name
  namespace_field,  // name.attribute; only as the target of set
  list,             // parts
  tuple,            // parts
  dict,             // parts: key, value, key, value, ...
  attribute,        // parts[0].name
  item,             // parts[0][parts[1]]
  slice,            // parts[0][parts[1]:parts[2]:parts[3]], absent bounds null
  call,             // parts[0](arguments)
  filter,           // parts[0] | name(arguments); parts[0] is null when a block supplies the value
  test,             // parts[0] is name(arguments)
  negation,         // not parts[0]
  minus,            // -parts[0]
  plus,             // +parts[0]
  arithmetic,       // parts[0] name parts[1], name one of + - * / // % **
  concatenation,    // parts[0] ~ parts[1] ~ ...
  comparison,       // parts[0] operators[0] parts[1] operators[1] parts[2] ...
  both,             // parts[0] and parts[1]
  either,           // parts[0] or parts[1]
  conditional,      // parts[1] if parts[0] else parts[2], which may be null
};

struct Expr {
  ExprKind kind;
  Position at;
  std::string name;
  std::string attribute;
  Value constant;
  std::vector<ExprPtr> parts;
  std::vector<std::string> operators;
  ArgumentList arguments;
  int depth = 1;  // nesting of this tree
};

enum class StmtKind : unsigned char {
  data,          // text
  output,        // expr
  branch,        // conditions[i]: bodies[i]; one body more if there is an else
  loop,          // for target in expr if condition: bodies[0], else bodies[1]
  assign,        // set target = expr
  assign_block,  // set target | expr (a chain of filters or null): bodies[0]
  macro,         // name, parameters, defaults: bodies[0]
  call_block,    // call(parameters) expr (a call): bodies[0]
  filter_block,  // filter expr (a chain of filters): bodies[0]
  with,          // targets = conditions: bodies[0]
  scope,         // bodies[0] in a scope of its own ({% generation %})
  break_loop,
  continue_loop,
};

struct Stmt {
  StmtKind kind;
  Position at;
  Text text;
  std::string name;
  ExprPtr expr, target;
  std::vector<ExprPtr> targets, conditions;
  std::vector<Body> bodies;
  bool recursive = false;
  // of macros and call blocks
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  bool reads_caller = false, reads_varargs = false, reads_kwargs = false;
};

struct Program {
  Body body;
};

}  // namespace lowbit::jinja
