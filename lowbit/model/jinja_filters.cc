// SPDX-License-Identifier: Apache-2.0
// The filters of jinja2 that chat templates use, with tojson as transformers redefines it. Filters
// that give a generator in jinja2 give one here: it can be walked once, has no length and is always
// true.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "lowbit/model/jinja_filters.h"

namespace lowbit::jinja {

bool is_true(const Value* argument) {
  return argument != nullptr && argument->truthy();
}

bool without_arguments(Runtime& rt, std::string_view name, const Arguments& arguments) {
  if (arguments.positional.empty() && arguments.named.empty()) return true;
  rt.fail(fmt::format("{} takes no arguments", name));
  return false;
}

namespace {

// ---- strings ----

template <Case to>
Value change_case(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, to == Case::upper ? "upper" : "lower", arguments)) return {};
  return rt.text(map_case(rt.str(input), to));
}

Value trim(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<1> a{};
  if (!rt.bind("trim", arguments, Names<1>{"chars"}, 0, a)) return {};
  const Text text = rt.str(input);
  const bool with_chars = a[0] != nullptr && !a[0]->is_none();
  if (with_chars && !a[0]->text()) return rt.fail("trim: the characters must be a string");
  const std::string_view chars =
      with_chars ? std::string_view(a[0]->text()->bytes()) : std::string_view();
  const ByteRange kept = strip_range(text.bytes(), true, true, with_chars ? &chars : nullptr);
  return rt.text(text.slice(kept.begin, kept.end));
}

Value replace_all(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<3> a{};
  if (!rt.bind("replace", arguments, Names<3>{"old", "new", "count"}, 2, a)) return {};
  const std::int64_t limit =
      a[2] && !a[2]->is_none() ? rt.integer(*a[2], "the count of replace") : -1;
  return rt.text(replace(rt.str(input), rt.str(*a[0]), rt.str(*a[1]), limit));
}

Value indent(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<3> a{};
  if (!rt.bind("indent", arguments, Names<3>{"width", "first", "blank"}, 0, a)) return {};
  constexpr std::int64_t default_width = 4;
  Value indentation;
  if (a[0] && a[0]->text())
    indentation = *a[0];
  else
    indentation = rt.arithmetic("*", rt.text(" "), a[0] ? *a[0] : Value(default_width));
  if (!indentation.text()) return rt.fail("indent: the width must be an integer or a string");
  if (input.is_undefined()) return rt.attribute(input, "");
  if (!input.text())
    return rt.fail(fmt::format("indent needs a string, not a {}", input.type_name()));
  Text source = *input.text();
  source.append("\n", true);  // so that a last line without text counts too
  Text out;
  const std::vector<Text> lines = split_lines(source);
  for (std::size_t i = 0; i < lines.size() && !out.overflowed(); ++i) {
    if (i > 0) out.append("\n", true);
    const bool indented = i == 0 ? is_true(a[1]) : (is_true(a[2]) || !lines[i].empty());
    if (indented) out.append(*indentation.text());
    out.append(lines[i]);
  }
  return rt.text(std::move(out));
}

Value join(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("join", arguments, Names<2>{"d", "attribute"}, 0, a)) return {};
  const Text separator = a[0] ? rt.str(*a[0]) : Text();
  Text out;
  bool first = true;
  for (const Value& item : rt.iterate(input)) {
    if (rt.failed() || out.overflowed()) break;
    if (!first) out.append(separator);
    first = false;
    out.append(rt.str(a[1] ? rt.item_path(item, a[1]) : item));
  }
  return rt.text(std::move(out));
}

template <bool also_markup>
Value escape(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "escape", arguments)) return {};
  const Text text = rt.str(input);
  return rt.text((text.is_markup() && !also_markup ? text : escape_html(text)).as_markup(true));
}

Value safe(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "safe", arguments)) return {};
  return rt.text(rt.str(input).as_markup(true));
}

Value as_string(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "string", arguments)) return {};
  return input.text() ? input : rt.text(rt.str(input));
}

template <Text (*change)(const Text&)>
Value change_text(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "this filter", arguments)) return {};
  return rt.text(change(rt.str(input)));
}

Text title_words(
    const Text& text) {  // unlike str.title, only white space and opening brackets start words
  Text out;
  bool starts = true;
  for (std::size_t i = 0; i < text.n_bytes();) {
    const std::size_t n = code_point_bytes(text.bytes(), i);
    out.append(map_case(text.slice(i, i + n), starts ? Case::upper : Case::lower));
    const char32_t c = decode_code_point(text.bytes(), i);
    starts = is_space(c) || c == U'-' || c == U'(' || c == U'{' || c == U'[' || c == U'<';
    i += n;
  }
  return out;
}

Value center(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<1> a{};
  if (!rt.bind("center", arguments, Names<1>{"width"}, 0, a)) return {};
  constexpr std::int64_t default_width = 80;
  Arguments method_arguments;
  method_arguments.positional.push_back(a[0] ? *a[0] : Value(default_width));
  return call_method(rt, Method{rt.text(rt.str(input)), "center"}, method_arguments);
}

Value truncate(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<4> a{};
  if (!rt.bind("truncate", arguments, Names<4>{"length", "killwords", "end", "leeway"}, 0, a))
    return {};
  constexpr std::int64_t default_length = 255, default_leeway = 5;
  const std::int64_t length = a[0] ? rt.integer(*a[0], "the length") : default_length;
  const std::int64_t leeway =
      a[3] && !a[3]->is_none() ? rt.integer(*a[3], "the leeway") : default_leeway;
  const Text text = rt.str(input), end = a[2] ? rt.str(*a[2]) : Text("...", true);
  const auto n = static_cast<std::int64_t>(count_code_points(text.bytes()));
  const std::int64_t kept = length - static_cast<std::int64_t>(count_code_points(end.bytes()));
  if (kept < 0 || leeway < 0)
    return rt.fail("truncate: the length must hold the end, and the leeway be positive");
  if (n <= length + leeway) return rt.text(text);
  Text out = text.slice(0, byte_offset(text.bytes(), static_cast<std::size_t>(kept)));
  if (!is_true(a[1])) {
    const std::size_t space = out.bytes().rfind(' ');
    if (space != std::string::npos) out = out.slice(0, space);
  }
  out.append(end);
  return rt.text(std::move(out));
}

Value word_count(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "wordcount", arguments)) return {};
  const Text text = rt.str(input);
  std::int64_t n = 0;
  bool inside = false;
  for (std::size_t i = 0; i < text.n_bytes(); i += code_point_bytes(text.bytes(), i)) {
    const char32_t c = decode_code_point(text.bytes(), i);
    const bool is_word = is_letter(c) || is_decimal_digit(c) || c == U'_';
    n += is_word && !inside;
    inside = is_word;
  }
  return n;
}

Value format(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    return rt.fail("format takes arguments with names or without, not both");
  }
  if (arguments.named.empty()) {
    return percent_format(rt, rt.str(input), rt.list(arguments.positional, ListKind::tuple));
  }
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [name, value] : arguments.named) entries.emplace_back(rt.text(name), value);
  return percent_format(rt, rt.str(input), rt.dict(std::move(entries)));
}

// ---- JSON ----

Value to_json(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<4> a{};
  if (!rt.bind("tojson", arguments, Names<4>{"ensure_ascii", "indent", "separators", "sort_keys"},
               0, a))
    return {};
  JsonStyle style;
  style.ascii = is_true(a[0]);
  style.sort_keys = is_true(a[3]);
  if (a[1] && !a[1]->is_none()) {
    if (a[1]->text()) {
      style.indent = *a[1]->text();
    } else {
      constexpr std::int64_t max_indent = 1000;
      const std::int64_t width =
          std::clamp<std::int64_t>(rt.integer(*a[1], "the indent of tojson"), 0, max_indent);
      style.indent = Text(std::string(static_cast<std::size_t>(width), ' '), true);
    }
  }
  style.item_separator = Text(style.indent ? "," : ", ", true);
  style.key_separator = Text(": ", true);
  if (a[2] && !a[2]->is_none()) {
    const std::vector<Value> given = rt.iterate(*a[2]);
    if (given.size() != 2 || !given[0].text() || !given[1].text())
      return rt.fail("tojson: the separators must be two strings");
    style.item_separator = *given[0].text();
    style.key_separator = *given[1].text();
  }
  Text out;
  std::string culprit;
  if (!rt.charge(input.weight())) return {};
  if (!print_json(input, style, out, culprit)) {
    if (const Undefined* u = input.undefined(); u && u->reason)
      return rt.fail("tojson: " + *u->reason);
    return rt.fail(fmt::format("tojson: a {} cannot be written as JSON", culprit));
  }
  return rt.text(std::move(out));
}

// ---- numbers ----

Value absolute(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "abs", arguments)) return {};
  if (const auto i = input.integer())
    return *i < 0 ? rt.arithmetic("-", std::int64_t{0}, input) : Value(*i);
  if (const auto d = input.number()) return std::abs(*d);
  return rt.fail(fmt::format("abs needs a number, not a {}", input.type_name()));
}

/// A number as Python's int() and float() read it: white space around, a sign, single underscores
/// between digits.
std::string number_text(const Text& text) {
  const ByteRange kept = strip_range(text.bytes(), true, true);
  std::string digits = text.bytes().substr(kept.begin, kept.end - kept.begin);
  const auto is_digit = [&](std::size_t i) {
    return i < digits.size() && std::isalnum(static_cast<unsigned char>(digits[i])) != 0;
  };
  for (std::size_t i = digits.size(); i-- > 0;) {
    if (digits[i] == '_' && i > 0 && is_digit(i - 1) && is_digit(i + 1)) digits.erase(i, 1);
  }
  if (!digits.empty() && digits[0] == '+' && digits.size() > 1 && digits[1] != '-')
    digits.erase(0, 1);
  return digits;
}

std::optional<double> read_real(const Text& text) {
  const std::string digits = number_text(text);
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.empty() || end != digits.data() + digits.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) return HUGE_VAL;
  return error == std::errc() ? std::optional(value) : std::nullopt;
}

std::optional<std::int64_t> read_integer(const Text& text, int base) {
  std::string digits = number_text(text);
  const bool negative = !digits.empty() && digits[0] == '-';
  std::size_t begin = negative ? 1 : 0;
  if (digits.size() > begin + 2 && digits[begin] == '0') {
    const char marker = static_cast<char>(digits[begin + 1] | 0x20);
    const int marked = marker == 'x' ? 16 : marker == 'o' ? 8 : marker == 'b' ? 2 : 0;
    if (marked != 0 && (marked == base || base == 0)) {
      digits.erase(begin, 2);
      base = marked;
    }
  }
  std::int64_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, base == 0 ? 10 : base);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size())
    return std::nullopt;
  return value;
}

std::optional<std::int64_t> truncated(double d) {
  constexpr double limit = 9.2e18;  // just inside 64 bits
  if (!(std::abs(d) < limit)) return std::nullopt;
  return static_cast<std::int64_t>(d);
}

Value to_integer(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("int", arguments, Names<2>{"default", "base"}, 0, a)) return {};
  const Value fallback = a[0] ? *a[0] : Value(std::int64_t{0});
  if (input.is_undefined()) return rt.attribute(input, "");
  constexpr int decimal = 10, max_base = 36;
  const std::int64_t base = a[1] ? rt.integer(*a[1], "the base of int") : decimal;
  if (base < 0 || base == 1 || base > max_base) return fallback;
  std::optional<double> real = input.number();
  if (const auto i = input.integer()) return *i;
  if (const Text* text = input.text()) {
    if (const auto i = read_integer(*text, static_cast<int>(base))) return *i;
    real = read_real(*text);
  }
  const auto whole = real ? truncated(*real) : std::nullopt;
  return whole ? Value(*whole) : fallback;
}

Value to_real(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<1> a{};
  if (!rt.bind("float", arguments, Names<1>{"default"}, 0, a)) return {};
  if (input.is_undefined()) return rt.attribute(input, "");
  if (const auto d = input.number()) return *d;
  if (input.text()) {
    if (const auto d = read_real(*input.text())) return *d;
  }
  return a[0] ? *a[0] : Value(0.0);
}

Value round_number(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("round", arguments, Names<2>{"precision", "method"}, 0, a)) return {};
  const auto number = input.number();
  if (!number) return rt.fail(fmt::format("round needs a number, not a {}", input.type_name()));
  const std::string method = a[1] ? rt.str(*a[1]).bytes() : "common";
  constexpr std::int64_t max_precision = 300;
  const std::int64_t precision =
      a[0] ? std::clamp(rt.integer(*a[0], "the precision"), -max_precision, max_precision) : 0;
  if (method == "common") {
    if (const auto i = input.integer(); i && precision >= 0) return *i;
    if (precision >= 0)
      return std::strtod(fmt::format("{:.{}f}", *number, precision).c_str(), nullptr);
  } else if (method != "ceil" && method != "floor") {
    return rt.fail("round: the method must be common, ceil or floor");
  }
  double scale = 1;
  for (std::int64_t i = 0; i < std::abs(precision); ++i) scale *= 10;
  const double scaled = precision < 0 ? *number / scale : *number * scale;
  const double rounded = method == "ceil"    ? std::ceil(scaled)
                         : method == "floor" ? std::floor(scaled)
                                             : std::nearbyint(scaled);
  return precision < 0 ? rounded * scale : rounded / scale;
}

Value sum(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("sum", arguments, Names<2>{"attribute", "start"}, 0, a)) return {};
  Value total = a[1] ? *a[1] : Value(std::int64_t{0});
  for (const Value& item : rt.iterate(input)) {
    if (rt.failed()) break;
    total = rt.arithmetic("+", total, rt.item_path(item, a[0]));
  }
  return total;
}

// ---- any value ----

Value attribute_only(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<1> a{};
  if (!rt.bind("attr", arguments, Names<1>{"name"}, 1, a)) return {};
  const std::string name = rt.str(*a[0]).bytes();
  const bool is_key = input.dict() && find_method(input, name) == MethodKind::absent;
  return is_key ? rt.undefined(fmt::format("a dict has no attribute '{}'", name))
                : rt.attribute(input, name);
}

Value default_value(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("default", arguments, Names<2>{"default_value", "boolean"}, 0, a)) return {};
  const bool replaced = input.is_undefined() || (is_true(a[1]) && !input.truthy());
  if (!replaced) return input;
  return a[0] ? *a[0] : rt.text("");
}

constexpr std::array filters{FilterRow{"abs", absolute},
                             FilterRow{"attr", attribute_only},
                             FilterRow{"capitalize", change_text<capitalize>},
                             FilterRow{"center", center},
                             FilterRow{"d", default_value},
                             FilterRow{"default", default_value},
                             FilterRow{"e", escape<false>},
                             FilterRow{"escape", escape<false>},
                             FilterRow{"float", to_real},
                             FilterRow{"forceescape", escape<true>},
                             FilterRow{"format", format},
                             FilterRow{"indent", indent},
                             FilterRow{"int", to_integer},
                             FilterRow{"join", join},
                             FilterRow{"lower", change_case<Case::lower>},
                             FilterRow{"replace", replace_all},
                             FilterRow{"round", round_number},
                             FilterRow{"safe", safe},
                             FilterRow{"string", as_string},
                             FilterRow{"sum", sum},
                             FilterRow{"title", change_text<title_words>},
                             FilterRow{"tojson", to_json},
                             FilterRow{"trim", trim},
                             FilterRow{"truncate", truncate},
                             FilterRow{"upper", change_case<Case::upper>},
                             FilterRow{"wordcount", word_count}};

}  // namespace

std::span<const FilterRow> scalar_filters() {
  return filters;
}

namespace {

const FilterRow* find_filter(std::string_view name) {
  for (const auto rows : {scalar_filters(), list_filters()}) {
    const auto found = std::find_if(rows.begin(), rows.end(),
                                    [&](const FilterRow& row) { return row.name == name; });
    if (found != rows.end()) return &*found;
  }
  return nullptr;
}

}  // namespace

bool is_filter(std::string_view name) {
  return find_filter(name) != nullptr;
}

Value Runtime::apply_filter(const std::string& name, const Value& input,
                            const Arguments& arguments) {
  const FilterRow* row = find_filter(name);
  if (row == nullptr) return fail(fmt::format("unknown filter '{}'", name));
  if (!charge(1)) return {};
  return row->filter(*this, input, arguments);
}

}  // namespace lowbit::jinja
