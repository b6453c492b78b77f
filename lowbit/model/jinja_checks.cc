// SPDX-License-Identifier: Apache-2.0
// The tests of jinja2, what stands behind `is` (named checks here: a *_test.cc is a unit test).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lowbit/model/jinja_runtime.h"

namespace lowbit::jinja {

namespace {

using Check = bool (*)(Runtime&, const Value& input, const Value* argument);

bool ordered(Runtime& rt, const Value& a, const Value& b, bool or_equal) {
  return rt.less(a, b) || (or_equal && rt.equal(a, b));
}

std::int64_t remainder(Runtime& rt, const Value& input, const Value& divisor) {
  const Value result = rt.arithmetic("%", input, divisor);
  if (input.text()) rt.fail("a string has no remainder");
  const auto number = result.number();
  return number && *number == std::floor(*number) ? static_cast<std::int64_t>(*number) : -1;
}

bool is_iterable(const Value& v) {
  return v.is_undefined() || v.text() || v.list() || v.dict() || v.loop();
}

bool is_one_case(Runtime& rt, const Value& input, Case wanted) {
  const Text text = rt.str(input);
  const std::string& bytes = text.bytes();
  bool has_letter = false;
  for (std::size_t i = 0; i < bytes.size(); i += code_point_bytes(bytes, i)) {
    const char32_t c = decode_code_point(bytes, i);
    if (wanted == Case::upper ? is_lower(c) : is_upper(c)) return false;
    has_letter = has_letter || is_upper(c) || is_lower(c);
  }
  return has_letter;
}

struct Row {
  std::string_view name;
  int n_arguments;
  Check check;
};
constexpr Check equal_to = [](Runtime& rt, const Value& v, const Value* a) {
  return rt.equal(v, *a);
};
constexpr Check not_equal = [](Runtime& rt, const Value& v, const Value* a) {
  return !rt.equal(v, *a);
};
constexpr Check less_than = [](Runtime& rt, const Value& v, const Value* a) {
  return ordered(rt, v, *a, false);
};
constexpr Check at_most = [](Runtime& rt, const Value& v, const Value* a) {
  return ordered(rt, v, *a, true);
};
constexpr Check more_than = [](Runtime& rt, const Value& v, const Value* a) {
  return ordered(rt, *a, v, false);
};
constexpr Check at_least = [](Runtime& rt, const Value& v, const Value* a) {
  return ordered(rt, *a, v, true);
};

constexpr std::array checks{
    Row{"defined", 0, [](Runtime&, const Value& v, const Value*) { return !v.is_undefined(); }},
    Row{"undefined", 0, [](Runtime&, const Value& v, const Value*) { return v.is_undefined(); }},
    Row{"none", 0, [](Runtime&, const Value& v, const Value*) { return v.is_none(); }},
    Row{"boolean", 0, [](Runtime&, const Value& v, const Value*) { return v.is_bool(); }},
    Row{"true", 0,
        [](Runtime&, const Value& v, const Value*) { return v.is_bool() && v.truthy(); }},
    Row{"false", 0,
        [](Runtime&, const Value& v, const Value*) { return v.is_bool() && !v.truthy(); }},
    Row{"integer", 0,
        [](Runtime&, const Value& v, const Value*) { return v.integer() && !v.is_bool(); }},
    Row{"float", 0, [](Runtime&, const Value& v, const Value*) { return v.is_real(); }},
    Row{"number", 0, [](Runtime&, const Value& v, const Value*) { return v.number().has_value(); }},
    Row{"string", 0, [](Runtime&, const Value& v, const Value*) { return v.text() != nullptr; }},
    Row{"mapping", 0, [](Runtime&, const Value& v, const Value*) { return v.dict() != nullptr; }},
    Row{"iterable", 0, [](Runtime&, const Value& v, const Value*) { return is_iterable(v); }},
    Row{"sequence", 0,
        [](Runtime&, const Value& v, const Value*) {
          return v.is_undefined() || v.text() || v.dict() || (v.list() && v.list()->indexable());
        }},
    Row{"callable", 0,
        [](Runtime&, const Value& v, const Value*) { return v.is_callable() || v.is_undefined(); }},
    Row{"sameas", 1, [](Runtime&, const Value& v, const Value* a) { return v.same_object(*a); }},
    Row{"in", 1, [](Runtime& rt, const Value& v, const Value* a) { return rt.contains(*a, v); }},
    Row{"odd", 0,
        [](Runtime& rt, const Value& v, const Value*) {
          return remainder(rt, v, std::int64_t{2}) == 1;
        }},
    Row{"even", 0,
        [](Runtime& rt, const Value& v, const Value*) {
          return remainder(rt, v, std::int64_t{2}) == 0;
        }},
    Row{"divisibleby", 1,
        [](Runtime& rt, const Value& v, const Value* a) { return remainder(rt, v, *a) == 0; }},
    Row{"upper", 0,
        [](Runtime& rt, const Value& v, const Value*) { return is_one_case(rt, v, Case::upper); }},
    Row{"lower", 0,
        [](Runtime& rt, const Value& v, const Value*) { return is_one_case(rt, v, Case::lower); }},
    Row{"escaped", 0,
        [](Runtime&, const Value& v, const Value*) { return v.text() && v.text()->is_markup(); }},
    Row{"filter", 0,
        [](Runtime&, const Value& v, const Value*) {
          return v.text() && is_filter(v.text()->bytes());
        }},
    Row{"test", 0,
        [](Runtime&, const Value& v, const Value*) {
          return v.text() && is_test(v.text()->bytes());
        }},
    Row{"equalto", 1, equal_to},
    Row{"eq", 1, equal_to},
    Row{"==", 1, equal_to},
    Row{"ne", 1, not_equal},
    Row{"!=", 1, not_equal},
    Row{"lt", 1, less_than},
    Row{"lessthan", 1, less_than},
    Row{"<", 1, less_than},
    Row{"le", 1, at_most},
    Row{"<=", 1, at_most},
    Row{"gt", 1, more_than},
    Row{"greaterthan", 1, more_than},
    Row{">", 1, more_than},
    Row{"ge", 1, at_least},
    Row{">=", 1, at_least}};

const Row* find_check(std::string_view name) {
  const auto* found =
      std::find_if(checks.begin(), checks.end(), [&](const Row& row) { return row.name == name; });
  return found == checks.end() ? nullptr : found;
}

}  // namespace

bool is_test(std::string_view name) {
  return find_check(name) != nullptr;
}

bool Runtime::apply_test(const std::string& name, const Value& input, const Arguments& arguments) {
  const Row* row = find_check(name);
  const auto n_given = static_cast<int>(arguments.positional.size() + arguments.named.size());
  if (row == nullptr) {
    fail(fmt::format("unknown test '{}'", name));
  } else if (n_given != row->n_arguments) {
    fail(
        fmt::format("the test '{}' takes {} arguments, {} given", name, row->n_arguments, n_given));
  }
  if (!charge(1)) return false;
  const Value* argument = nullptr;
  if (n_given > 0)
    argument = arguments.positional.empty() ? &arguments.named[0].second : &arguments.positional[0];
  return row->check(*this, input, argument);
}

}  // namespace lowbit::jinja
