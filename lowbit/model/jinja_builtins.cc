// SPDX-License-Identifier: Apache-2.0
// The functions a template finds by name: range, dict, namespace, raise_exception and strftime_now.
#include <fmt/format.h>

#include "lowbit/model/jinja_runtime.h"

namespace lowbit::jinja {

namespace {

constexpr std::int64_t max_range = 100'000;

Value call_range(Runtime& rt, const Arguments& arguments) {
  Bound<3> given{};
  if (!rt.bind("range", arguments, Names<3>{"", "", ""}, 1, given)) return {};
  const std::int64_t first = given[1] ? rt.integer(*given[0], "the start of a range") : 0;
  const std::int64_t end = rt.integer(given[1] ? *given[1] : *given[0], "the end of a range");
  const std::int64_t step = given[2] ? rt.integer(*given[2], "the step of a range") : 1;
  if (rt.failed()) return {};
  if (step == 0) return rt.fail("the step of a range cannot be zero");
  constexpr std::int64_t limit = std::int64_t{1} << 60;  // far from overflow in what follows
  for (const std::int64_t bound : {first, end, step}) {
    if (bound > limit || bound < -limit) return rt.fail("a range is too large");
  }
  const std::int64_t n =
      step > 0 ? (end - first + step - 1) / step : (first - end - step - 1) / -step;
  if (n > max_range) return rt.fail(fmt::format("a range holds more than {} numbers", max_range));
  std::vector<Value> items;
  for (std::int64_t i = 0; i < n; ++i) items.emplace_back(first + i * step);
  return rt.list(std::move(items), ListKind::range);
}

Value make_dict(Runtime& rt, const Arguments& arguments) {
  std::vector<std::pair<Value, Value>> entries;
  if (arguments.positional.size() > 1)
    return rt.fail("dict() takes at most one argument without a name");
  for (const Value& given : arguments.positional) {
    if (const Dict* from = given.dict()) {
      entries = from->entries;
      continue;
    }
    if (given.is_undefined()) return rt.attribute(given, "");
    for (const Value& pair : rt.iterate(given)) {
      const std::vector<Value> parts = rt.iterate(pair);
      if (rt.failed()) return {};
      if (parts.size() != 2) return rt.fail("dict() needs pairs of key and value");
      entries.emplace_back(parts[0], parts[1]);
    }
  }
  for (const auto& [name, value] : arguments.named) entries.emplace_back(rt.text(name), value);
  return rt.failed() ? Value() : rt.dict(std::move(entries));
}

Value call_namespace(Runtime& rt, const Arguments& arguments) {
  const Value fields = make_dict(rt, arguments);
  if (rt.failed()) return {};
  std::vector<std::pair<std::string, Value>> named;
  for (const auto& [key, value] : fields.dict()->entries) {
    if (!key.text()) return rt.fail("the names of a namespace's fields must be strings");
    named.emplace_back(key.text()->bytes(), value);
  }
  return Value(rt.make_namespace(std::move(named)));
}

}  // namespace

Value call_builtin(Runtime& rt, Builtin builtin, const Arguments& arguments) {
  Bound<1> one{};
  switch (builtin) {
    case Builtin::range:
      return call_range(rt, arguments);
    case Builtin::dict:
      return make_dict(rt, arguments);
    case Builtin::make_namespace:
      return call_namespace(rt, arguments);
    case Builtin::raise_exception:
      if (!rt.bind("raise_exception", arguments, Names<1>{"message"}, 1, one)) return {};
      return rt.fail(rt.str(*one[0]).bytes());
    case Builtin::strftime_now:
      if (!rt.bind("strftime_now", arguments, Names<1>{"format"}, 1, one)) return {};
      if (!one[0]->text()) return rt.fail("the format of a date must be a string");
      return rt.text(rt.strftime(one[0]->text()->bytes()));
  }
  return {};
}

}  // namespace lowbit::jinja
