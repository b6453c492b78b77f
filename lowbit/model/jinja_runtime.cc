// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/jinja_runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>

namespace lowbit::jinja {

namespace {

constexpr int max_value_depth = 200;  // nesting of lists and dicts
constexpr std::size_t max_value_weight =
    4'000'000;  // nodes of one value when shared parts are counted every time

std::string too_long() {
  return fmt::format("a string grows beyond {} MB", Text::max_bytes >> 20);
}

}  // namespace

Value* Scope::find_here(std::string_view name) {
  for (auto& [key, value] : variables) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Scope::set(std::string_view name, Value value) {
  if (Value* known = find_here(name)) {
    *known = std::move(value);
  } else {
    variables.emplace_back(name, std::move(value));
  }
}

// ---- errors and limits ----

Value Runtime::fail(std::string message) {
  if (!failed_) message_ = fmt::format("{}: {}", describe(at_), message);
  failed_ = true;
  return {};
}

bool Runtime::charge(std::size_t n_steps) {
  n_steps_ += n_steps;
  if (n_steps_ > max_steps) fail("the template runs too long");
  if (memory_.used > Memory::max_bytes) {
    fail(fmt::format("the template uses more than {} MB of memory", Memory::max_bytes >> 20));
  }
  return !failed_;
}

// ---- making values ----

Value Runtime::text(Text value) {
  if (value.overflowed()) {
    return fail(too_long());
  }
  auto shared = std::make_shared<const SharedText>(std::move(value), &memory_);
  Value result(std::move(shared));
  return charge(result.weight()) ? result : Value();
}

Value Runtime::list(std::vector<Value> items, ListKind kind) {
  if (items.size() > max_items) return fail(fmt::format("a list grows beyond {} items", max_items));
  charge(1 + items.size() / 4);
  auto made = std::make_shared<const List>(kind, std::move(items), &memory_);
  if (made->depth > max_value_depth) return fail("lists are nested too deeply");
  if (made->weight > max_value_weight) return fail("a list holds too much");
  return failed_ ? Value() : Value(std::move(made));
}

Value Runtime::texts(std::vector<Text> parts, ListKind kind) {
  std::vector<Value> items;
  items.reserve(std::min(parts.size(), max_items));
  for (Text& part : parts) {
    if (failed_) return {};
    items.push_back(text(std::move(part)));
  }
  return list(std::move(items), kind);
}

Value Runtime::dict(std::vector<std::pair<Value, Value>> entries) {
  for (const auto& [key, value] : entries) {
    if (!hash_key(key))
      return fail(fmt::format("a {} cannot be the key of a dict", key.type_name()));
  }
  charge(1 + entries.size());
  auto made = std::make_shared<const Dict>(std::move(entries), &memory_);
  if (made->depth > max_value_depth) return fail("dicts are nested too deeply");
  if (made->weight > max_value_weight) return fail("a dict holds too much");
  return failed_ ? Value() : Value(std::move(made));
}

Value Runtime::undefined(std::string reason) const {
  return Undefined{std::make_shared<const std::string>(std::move(reason))};
}

Namespace* Runtime::make_namespace(std::vector<std::pair<std::string, Value>> fields) {
  for (const auto& [name, value] : fields) {
    if (!name.empty() && name[0] == '_') {
      fail(fmt::format(
          "a namespace cannot have the field '{}': names must not start with an underscore", name));
    }
  }
  charge(1 + fields.size());
  constexpr std::size_t max_namespaces = 1 << 18;
  if (namespaces_.size() >= max_namespaces) fail("the template makes too many namespaces");
  return &namespaces_.emplace_back(Namespace{std::move(fields)});
}

// ---- Python's operations ----

Text Runtime::str(const Value& value) {
  if (value.text()) return charge(value.weight()) ? *value.text() : Text();
  Text out;
  if (charge(value.weight())) print(value, out);
  if (out.overflowed()) fail(too_long());
  return out;
}

Text Runtime::repr(const Value& value) {
  Text out;
  if (charge(value.weight())) print_repr(value, out);
  return out;
}

bool Runtime::equal(const Value& a, const Value& b) {
  return charge(std::min(a.weight(), b.weight())) && jinja::equal(a, b);
}

bool Runtime::less(const Value& a, const Value& b) {
  if (!charge(std::min(a.weight(), b.weight()))) return false;
  for (const Value* side : {&a, &b}) {
    if (side->is_undefined()) {
      attribute(*side, "");  // fails with the reason
      return false;
    }
  }
  const auto result = jinja::less(a, b);
  if (!result) fail(fmt::format("a {} and a {} cannot be ordered", a.type_name(), b.type_name()));
  return result.value_or(false);
}

bool Runtime::contains(const Value& container, const Value& item) {
  if (const Text* text = container.text()) {
    if (!item.text()) {
      fail(fmt::format("'in' needs a string on the left of a string, not a {}", item.type_name()));
      return false;
    }
    return charge(container.weight()) &&
           text->bytes().find(item.text()->bytes()) != std::string::npos;
  }
  if (const Dict* dict = container.dict()) {
    if (!hash_key(item)) fail(fmt::format("a {} cannot be the key of a dict", item.type_name()));
    return dict->find(item) != nullptr;
  }
  for (const Value& value : iterate(container)) {
    if (failed_) return false;
    if (equal(value, item)) return true;
  }
  return false;
}

std::vector<Value> Runtime::iterate(const Value& value) {
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (const List* list = value.list()) {
    charge(list->items.size());
    if (list->kind != ListKind::generator) return list->items;
    items.assign(list->items.begin() + static_cast<std::ptrdiff_t>(list->n_consumed),
                 list->items.end());
    list->n_consumed = list->items.size();
  } else if (const Dict* dict = value.dict()) {
    charge(dict->entries.size());
    for (const auto& entry : dict->entries) items.push_back(entry.first);
  } else if (const Text* text = value.text()) {
    for (std::size_t i = 0; i < text->n_bytes() && !failed_;) {
      const std::size_t n = code_point_bytes(text->bytes(), i);
      items.push_back(this->text(text->slice(i, i + n)));
      i += n;
      if (items.size() > max_items) fail(fmt::format("a list grows beyond {} items", max_items));
    }
  } else {
    fail(fmt::format("a {} cannot be iterated over", value.type_name()));
  }
  return items;
}

Value Runtime::length(const Value& value) {
  const auto count = [](std::size_t n) { return Value(static_cast<std::int64_t>(n)); };
  if (value.is_undefined()) return count(0);
  if (const Text* text = value.text()) {
    return charge(value.weight()) ? count(count_code_points(text->bytes())) : Value();
  }
  if (const List* list = value.list(); list != nullptr && list->sized())
    return count(list->items.size());
  if (const Dict* dict = value.dict()) return count(dict->entries.size());
  if (const Loop* loop = value.loop()) return count(loop->items.size());
  return fail(fmt::format("a {} has no length", value.type_name()));
}

Value Runtime::unsupported(std::string_view op, const Value& a, const Value& b) {
  for (const Value* side : {&a, &b}) {
    if (const Undefined* u = side->undefined()) {
      return fail(u->reason ? *u->reason : "a value is undefined");
    }
  }
  return fail(fmt::format("'{}' does not work on a {} and a {}", op, a.type_name(), b.type_name()));
}

Value Runtime::repeat(const Value& value, std::int64_t n) {
  n = std::max<std::int64_t>(n, 0);
  if (const Text* part = value.text()) {
    if (n > 0 && part->n_bytes() > Text::max_bytes / static_cast<std::size_t>(n))
      return fail(too_long());
    const std::size_t n_bytes = part->n_bytes() * static_cast<std::size_t>(n);
    Text out = part->slice(0, n == 0 ? 0 : part->n_bytes());
    while (out.n_bytes() < n_bytes)
      out.append(Text(out), 0, std::min(out.n_bytes(), n_bytes - out.n_bytes()));
    return text(std::move(out));
  }
  const List& part = *value.list();
  std::vector<Value> items;
  const std::size_t n_items = part.items.size();
  if (n_items > 0 && static_cast<std::size_t>(n) > max_items / n_items) {
    return fail(fmt::format("a list grows beyond {} items", max_items));
  }
  for (std::int64_t i = 0; i < n && n_items > 0; ++i) {
    items.insert(items.end(), part.items.begin(), part.items.end());
  }
  return list(std::move(items), part.kind);
}

namespace {

bool is_concatenable(const List* list) {
  return list != nullptr && (list->kind == ListKind::list || list->kind == ListKind::tuple);
}

std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
  const std::int64_t q = a / b;
  return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}

std::int64_t floor_remainder(std::int64_t a, std::int64_t b) {
  const std::int64_t r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

double floor_modulo(double a, double b) {
  const double r = std::fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

}  // namespace

Value Runtime::arithmetic(std::string_view op, const Value& a, const Value& b) {
  if (!charge(1)) return {};
  if (op == "%" && a.text()) return percent_format(*this, *a.text(), b);
  if (op == "+" && a.text() && b.text()) {
    const bool markup = a.text()->is_markup() || b.text()->is_markup();
    Text sum =
        markup && !a.text()->is_markup() ? escape_html(*a.text()).as_markup(true) : *a.text();
    sum.append(markup && !b.text()->is_markup() ? escape_html(*b.text()) : *b.text());
    return text(std::move(sum));
  }
  if (op == "+" && is_concatenable(a.list()) && is_concatenable(b.list()) &&
      a.list()->kind == b.list()->kind) {
    std::vector<Value> items = a.list()->items;
    items.insert(items.end(), b.list()->items.begin(), b.list()->items.end());
    return list(std::move(items), a.list()->kind);
  }
  if (op == "*") {
    if ((a.text() || is_concatenable(a.list())) && b.integer()) return repeat(a, *b.integer());
    if ((b.text() || is_concatenable(b.list())) && a.integer()) return repeat(b, *a.integer());
  }
  const auto x = a.number(), y = b.number();
  if (!x || !y) return unsupported(op, a, b);
  const bool divides = op == "/" || op == "//" || op == "%";
  if (divides && *y == 0) return fail("division by zero");
  const auto i = a.integer(), j = b.integer();
  if (op == "/") return *x / *y;
  if (i && j && !(op == "**" && *j < 0)) {
    std::int64_t result = 0;
    bool overflow = false;
    if (op == "+") overflow = __builtin_add_overflow(*i, *j, &result);
    if (op == "-") overflow = __builtin_sub_overflow(*i, *j, &result);
    if (op == "*") overflow = __builtin_mul_overflow(*i, *j, &result);
    if (op == "//" || op == "%") {
      overflow = *j == -1 && *i == INT64_MIN;
      if (!overflow) result = op == "%" ? floor_remainder(*i, *j) : floor_divide(*i, *j);
    }
    if (op == "**") {
      result = 1;
      const bool is_small = *i >= -1 && *i <= 1;  // such powers repeat
      const std::int64_t n = is_small ? (*j == 0 ? 0 : 2 - *j % 2) : *j;
      for (std::int64_t k = 0; k < n && !overflow; ++k)
        overflow = __builtin_mul_overflow(result, *i, &result);
    }
    if (overflow) return fail("the result does not fit into 64 bits");
    return result;
  }
  if (op == "+") return *x + *y;
  if (op == "-") return *x - *y;
  if (op == "*") return *x * *y;
  if (op == "//") return std::floor(*x / *y);
  if (op == "%") return floor_modulo(*x, *y);
  return power(*x, *y);
}

/// Whole exponents only: libm's pow differs between CPUs, and no template needs it.
Value Runtime::power(double base, double exponent) {
  constexpr double max_exponent = 1024;
  if (exponent != std::floor(exponent) || std::abs(exponent) > max_exponent) {
    return fail("'**' needs a small whole exponent");
  }
  if (base == 0 && exponent < 0) return fail("division by zero");
  double result = 1;
  for (double k = 0; k < std::abs(exponent); ++k) result *= base;
  return exponent < 0 ? 1 / result : result;
}

std::int64_t Runtime::integer(const Value& value, std::string_view what) {
  if (const auto i = value.integer()) return *i;
  fail(fmt::format("{} must be an integer, not a {}", what, value.type_name()));
  return 0;
}

// ---- lookups ----

Value Runtime::attribute(const Value& object, const std::string& name) {
  if (const Undefined* u = object.undefined())
    return fail(u->reason ? *u->reason : "a value is undefined");
  if (name.rfind("__", 0) == 0) {
    return undefined(fmt::format("the attribute '{}' is not for templates", name));
  }
  switch (find_method(object, name)) {
    case MethodKind::usable:
      return Value(std::make_shared<const Method>(Method{object, name}));
    case MethodKind::changes_value:
      return undefined(fmt::format(
          "'{}' would change a {} in place, which the sandbox of chat templates forbids", name,
          object.type_name()));
    case MethodKind::absent:
      break;
  }
  if (const Dict* dict = object.dict()) {
    if (const Value* found = dict->find(name)) return *found;
  } else if (Namespace* space = object.name_space()) {
    for (const auto& [key, value] : space->fields) {
      if (key == name) return value;
    }
  } else if (const Loop* loop = object.loop()) {
    const auto index = static_cast<std::int64_t>(loop->index),
               n = static_cast<std::int64_t>(loop->items.size());
    if (name == "index") return index + 1;
    if (name == "index0") return index;
    if (name == "revindex") return n - index;
    if (name == "revindex0") return n - index - 1;
    if (name == "first") return index == 0;
    if (name == "last") return index + 1 == n;
    if (name == "length") return n;
    if (name == "depth") return std::int64_t{loop->depth0} + 1;
    if (name == "depth0") return std::int64_t{loop->depth0};
    if (name == "previtem")
      return index > 0 ? loop->items[loop->index - 1] : undefined("there is no previous item");
    if (name == "nextitem")
      return index + 1 < n ? loop->items[loop->index + 1] : undefined("there is no next item");
  } else if (const Macro* macro = object.macro()) {
    if (name == "name") return text(macro->stmt->name);
  }
  return undefined(fmt::format("a {} has no attribute '{}'", object.type_name(), name));
}

Value Runtime::item(const Value& object, const Value& key) {
  if (const Undefined* u = object.undefined())
    return fail(u->reason ? *u->reason : "a value is undefined");
  if (const Dict* dict = object.dict()) {
    if (const Value* found = dict->find(key)) return *found;
  }
  if (const auto index = key.integer()) {
    if (const Text* text = object.text()) {
      const auto n = *length(object).integer();
      const std::int64_t i = *index < 0 ? *index + n : *index;
      if (i < 0 || i >= n) return undefined("the string has no such character");
      const std::size_t begin = byte_offset(text->bytes(), static_cast<std::size_t>(i));
      return this->text(text->slice(begin, begin + code_point_bytes(text->bytes(), begin)));
    }
    if (const List* list = object.list(); list != nullptr && list->indexable()) {
      const auto n = static_cast<std::int64_t>(list->items.size());
      const std::int64_t i = *index < 0 ? *index + n : *index;
      if (i < 0 || i >= n)
        return undefined(fmt::format("the {} has no item {}", object.type_name(), *index));
      return list->items[static_cast<std::size_t>(i)];
    }
  }
  if (key.text() && !object.dict()) return attribute(object, key.text()->bytes());
  if (key.text() && find_method(object, key.text()->bytes()) != MethodKind::absent) {
    return attribute(object, key.text()->bytes());
  }
  if (key.text()) return undefined(fmt::format("the dict has no key '{}'", key.text()->bytes()));
  return undefined(fmt::format("a {} has no such item", object.type_name()));
}

Value Runtime::item_path(const Value& object, const Value* name) {
  if (name == nullptr || name->is_none()) return object;
  if (!name->text()) return item(object, *name);
  Value value = object;
  for (const Text& part : split(*name->text(), ".", -1)) {
    if (failed_) return {};
    const std::string& word = part.bytes();
    const bool is_index = !word.empty() && word.size() < 10 &&
                          word.find_first_not_of("0123456789") == std::string::npos;
    value = item(value, is_index ? Value(std::int64_t{std::stol(word)}) : text(part));
  }
  return value;
}

Value Runtime::slice(const Value& object, const Value& first, const Value& last,
                     const Value& step) {
  if (const Undefined* u = object.undefined())
    return fail(u->reason ? *u->reason : "a value is undefined");
  const Text* text = object.text();
  const List* list = object.list();
  const bool sliceable = text != nullptr || (list != nullptr && list->indexable());
  for (const Value* bound : {&first, &last, &step}) {
    if (!sliceable || (!bound->is_none() && !bound->integer())) {
      return fail(fmt::format("a {} has no such slice", object.type_name()));
    }
  }
  const std::int64_t n =
      text ? length(object).integer().value_or(0) : static_cast<std::int64_t>(list->items.size());
  const std::int64_t by = step.is_none() ? 1 : *step.integer();
  if (by == 0) return fail("the step of a slice cannot be zero");
  const auto clamp = [&](const Value& bound, std::int64_t absent) {
    if (bound.is_none()) return absent;
    std::int64_t i = *bound.integer();
    if (i < 0) i = i < -n ? -1 : i + n;
    if (by > 0) return std::clamp<std::int64_t>(i, 0, n);
    return std::clamp<std::int64_t>(i, -1, n - 1);
  };
  const std::int64_t begin = clamp(first, by > 0 ? 0 : n - 1), end = clamp(last, by > 0 ? n : -1);

  if (text != nullptr && by == 1) {
    if (begin >= end) return this->text(Text());
    const std::size_t from = byte_offset(text->bytes(), static_cast<std::size_t>(begin));
    const std::string_view rest = std::string_view(text->bytes()).substr(from);
    return this->text(
        text->slice(from, from + byte_offset(rest, static_cast<std::size_t>(end - begin))));
  }
  const std::vector<Value> all = text ? iterate(object) : std::vector<Value>();
  const std::vector<Value>& items = text ? all : list->items;
  std::vector<Value> picked;
  Text joined;
  for (std::int64_t i = begin; (by > 0 ? i < end : i > end) && !failed_; i += by) {
    const Value& value = items[static_cast<std::size_t>(i)];
    if (text)
      joined.append(*value.text());
    else
      picked.push_back(value);
    if (by > n || by < -n) break;  // the next index would leave the range, or overflow
  }
  return text ? this->text(std::move(joined)) : this->list(std::move(picked), list->kind);
}

bool Runtime::bind_all(std::string_view callee, const Arguments& arguments,
                       const std::string_view* names, std::size_t n_names, std::size_t n_required,
                       const Value** bound) {
  std::fill(bound, bound + n_names, nullptr);
  if (arguments.positional.size() > n_names) {
    fail(fmt::format("{} takes at most {} arguments, {} given", callee, n_names,
                     arguments.positional.size()));
    return false;
  }
  for (std::size_t i = 0; i < arguments.positional.size(); ++i) bound[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto* found = std::find(names, names + n_names, std::string_view(name));
    if (found == names + n_names || name.empty()) {
      fail(fmt::format("{} has no argument named '{}'", callee, name));
      return false;
    }
    if (bound[found - names] != nullptr) {
      fail(fmt::format("{} is given its argument '{}' twice", callee, name));
      return false;
    }
    bound[found - names] = &value;
  }
  for (std::size_t i = 0; i < n_required; ++i) {
    if (bound[i] == nullptr) {
      fail(fmt::format("{} needs {} arguments", callee, n_required));
      return false;
    }
  }
  return true;
}

std::string Runtime::strftime(const std::string& format) {
  std::tm calendar{};
  const std::time_t seconds = now_;
  gmtime_r(&seconds, &calendar);
  constexpr std::size_t max_format = 1000,
                        max_expansion = 64;  // bytes, and bytes per format character
  if (format.empty() || format.size() > max_format) {
    if (!format.empty())
      fail(fmt::format("the format of a date is longer than {} characters", max_format));
    return {};
  }
  std::string out(format.size() * max_expansion, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &calendar));
  return out;
}

}  // namespace lowbit::jinja
