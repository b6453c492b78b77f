// SPDX-License-Identifier: Apache-2.0
// The filters of jinja2 that chat templates use, with tojson as transformers redefines it. Filters
// that give a generator in jinja2 give one here: it can be walked once, has no length and is always
// true.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_set>

#include "lowbit/model/jinja_runtime.h"

namespace lowbit::jinja {

namespace {

using Filter = Value (*)(Runtime&, const Value& input, const Arguments&);
template <std::size_t N>
using Names = std::array<std::string_view, N>;
template <std::size_t N>
using Bound = std::array<const Value*, N>;

bool is_true(const Value* argument, bool absent = false) {
  return argument == nullptr ? absent : argument->truthy();
}

bool without_arguments(Runtime& rt, std::string_view name, const Arguments& arguments) {
  Bound<1> none{};
  if (!arguments.positional.empty() || !arguments.named.empty()) {
    rt.fail(fmt::format("{} takes no arguments", name));
    return false;
  }
  return rt.bind(name, arguments, Names<1>{""}, 0, none);
}

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
  Text source = rt.str(input);
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

// ---- lists ----

Value length(Runtime& rt, const Value& input, const Arguments& arguments) {
  return without_arguments(rt, "length", arguments) ? rt.length(input) : Value();
}

Value to_list(Runtime& rt, const Value& input, const Arguments& arguments) {
  return without_arguments(rt, "list", arguments) ? rt.list(rt.iterate(input)) : Value();
}

Value first(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "first", arguments)) return {};
  if (const List* list = input.list()) {
    const std::size_t i = list->kind == ListKind::generator ? list->n_consumed++ : 0;
    if (i < list->items.size()) return list->items[i];
    list->n_consumed = list->items.size();
  } else if (input.text() && !input.text()->empty()) {
    return rt.item(input, std::int64_t{0});
  } else {
    const std::vector<Value> items = rt.iterate(input);
    if (!items.empty()) return items[0];
  }
  return rt.undefined("there is no first item, the sequence is empty");
}

Value last(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "last", arguments)) return {};
  if (const List* list = input.list()) {
    if (!list->sized()) return rt.fail("a generator has no last item: make it a list first");
    if (!list->items.empty()) return list->items.back();
  } else if (input.text() && !input.text()->empty()) {
    return rt.item(input, std::int64_t{-1});
  } else {
    const std::vector<Value> items = rt.iterate(input);
    if (!items.empty()) return items.back();
  }
  return rt.undefined("there is no last item, the sequence is empty");
}

Value reverse(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "reverse", arguments)) return {};
  const Value none = None{};
  if (input.text()) return rt.slice(input, none, none, std::int64_t{-1});
  std::vector<Value> items = rt.iterate(input);
  std::reverse(items.begin(), items.end());
  const bool was_generator = input.list() && !input.list()->sized();
  return rt.list(std::move(items), was_generator ? ListKind::list : ListKind::generator);
}

Value dict_items(Runtime& rt, const Dict& dict, ListKind kind) {
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries) {
    if (rt.failed()) return {};
    items.push_back(rt.list({key, value}, ListKind::tuple));
  }
  return rt.list(std::move(items), kind);
}

Value items(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!without_arguments(rt, "items", arguments)) return {};
  if (input.is_undefined()) return rt.list({}, ListKind::generator);
  if (!input.dict()) return rt.fail(fmt::format("items needs a dict, not a {}", input.type_name()));
  return dict_items(rt, *input.dict(), ListKind::generator);
}

Value fold_case(Runtime& rt, const Value& value, bool case_sensitive) {
  return value.text() && !case_sensitive ? rt.text(map_case(*value.text(), Case::lower)) : value;
}

/// Sorts by keys in Python's way: stable, also in reverse.
std::vector<Value> sorted(Runtime& rt, std::vector<Value> values, const std::vector<Value>& keys,
                          bool descending) {
  std::vector<std::size_t> order(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::vector<std::size_t> buffer(order.size());
  // A merge sort of our own: std::stable_sort may misbehave when less() is no order, as with NaN.
  for (std::size_t width = 1; width < order.size() && !rt.failed(); width *= 2) {
    for (std::size_t begin = 0; begin < order.size(); begin += 2 * width) {
      const std::size_t middle = std::min(begin + width, order.size()),
                        end = std::min(begin + 2 * width, order.size());
      std::size_t i = begin, k = middle;
      for (std::size_t out = begin; out < end; ++out) {
        const bool take_right =
            k < end && (i == middle || (descending ? rt.less(keys[order[i]], keys[order[k]])
                                                   : rt.less(keys[order[k]], keys[order[i]])));
        buffer[out] = take_right ? order[k++] : order[i++];
      }
    }
    order.swap(buffer);
  }
  std::vector<Value> result;
  for (std::size_t i : order) result.push_back(std::move(values[i]));
  return result;
}

Value sort(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<3> a{};
  if (!rt.bind("sort", arguments, Names<3>{"reverse", "case_sensitive", "attribute"}, 0, a))
    return {};
  std::vector<Value> values = rt.iterate(input), keys;
  std::vector<Value> paths;
  if (a[2] && a[2]->text()) {
    for (const Text& path : split(*a[2]->text(), ",", -1)) paths.push_back(rt.text(path));
  }
  for (const Value& value : values) {
    if (rt.failed()) return {};
    if (paths.empty()) {
      keys.push_back(fold_case(rt, rt.item_path(value, a[2]), is_true(a[1])));
      continue;
    }
    std::vector<Value> parts;
    for (const Value& path : paths)
      parts.push_back(fold_case(rt, rt.item_path(value, &path), is_true(a[1])));
    keys.push_back(rt.list(std::move(parts)));
  }
  return rt.list(sorted(rt, std::move(values), keys, is_true(a[0])));
}

Value dict_sort(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<3> a{};
  if (!rt.bind("dictsort", arguments, Names<3>{"case_sensitive", "by", "reverse"}, 0, a)) return {};
  const std::string by = a[1] ? rt.str(*a[1]).bytes() : "key";
  if (by != "key" && by != "value") return rt.fail("dictsort can only sort by 'key' or 'value'");
  if (input.is_undefined()) return rt.attribute(input, "items");
  if (!input.dict())
    return rt.fail(fmt::format("dictsort needs a dict, not a {}", input.type_name()));
  const Value pairs = dict_items(rt, *input.dict(), ListKind::list);
  if (rt.failed()) return {};
  std::vector<Value> keys;
  for (const auto& [key, value] : input.dict()->entries) {
    keys.push_back(fold_case(rt, by == "key" ? key : value, is_true(a[0])));
  }
  return rt.list(sorted(rt, pairs.list()->items, keys, is_true(a[2])));
}

Value unique(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("unique", arguments, Names<2>{"case_sensitive", "attribute"}, 0, a)) return {};
  std::unordered_set<std::string> seen;
  std::vector<Value> kept;
  for (const Value& value : rt.iterate(input)) {
    if (rt.failed()) return {};
    const auto key = hash_key(fold_case(rt, rt.item_path(value, a[1]), is_true(a[0])));
    if (!key) return rt.fail(fmt::format("unique: a {} cannot be hashed", value.type_name()));
    if (seen.insert(*key).second) kept.push_back(value);
  }
  return rt.list(std::move(kept), ListKind::generator);
}

template <bool want_max>
Value extreme(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind(want_max ? "max" : "min", arguments, Names<2>{"case_sensitive", "attribute"}, 0, a))
    return {};
  Value best, best_key;
  bool first = true;
  for (const Value& value : rt.iterate(input)) {
    if (rt.failed()) return {};
    Value key = fold_case(rt, rt.item_path(value, a[1]), is_true(a[0]));
    if (first || (want_max ? rt.less(best_key, key) : rt.less(key, best_key))) {
      best = value;
      best_key = std::move(key);
    }
    first = false;
  }
  return first ? rt.undefined("there is no smallest or largest item, the sequence is empty") : best;
}

Value batch(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("batch", arguments, Names<2>{"linecount", "fill_with"}, 1, a)) return {};
  const std::int64_t n = rt.integer(*a[0], "the size of a batch");
  std::vector<Value> rows, row;
  for (Value& value : rt.iterate(input)) {
    if (rt.failed()) return {};
    if (static_cast<std::int64_t>(row.size()) == n) rows.push_back(rt.list(std::exchange(row, {})));
    row.push_back(std::move(value));
  }
  if (!row.empty()) {
    const bool fill = a[1] && !a[1]->is_none();
    if (fill && n > static_cast<std::int64_t>(max_items))
      return rt.fail("batch: the size is too large");
    while (fill && static_cast<std::int64_t>(row.size()) < n) row.push_back(*a[1]);
    rows.push_back(rt.list(std::move(row)));
  }
  return rt.list(std::move(rows), ListKind::generator);
}

Value slice_columns(Runtime& rt, const Value& input, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("slice", arguments, Names<2>{"slices", "fill_with"}, 1, a)) return {};
  const std::int64_t n = rt.integer(*a[0], "the number of slices");
  const std::vector<Value> values = rt.iterate(input);
  if (n <= 0 || n > static_cast<std::int64_t>(max_items))
    return rt.fail("slice: the number of slices is out of range");
  const auto n_slices = static_cast<std::size_t>(n), per_slice = values.size() / n_slices,
             with_extra = values.size() % n_slices;
  std::vector<Value> columns;
  auto at = values.begin();
  for (std::size_t i = 0; i < n_slices && !rt.failed(); ++i) {
    const std::size_t n_here = per_slice + (i < with_extra ? 1 : 0);
    std::vector<Value> column(at, at + static_cast<std::ptrdiff_t>(n_here));
    at += static_cast<std::ptrdiff_t>(n_here);
    if (a[1] && !a[1]->is_none() && i >= with_extra) column.push_back(*a[1]);
    columns.push_back(rt.list(std::move(column)));
  }
  return rt.list(std::move(columns), ListKind::generator);
}

// ---- filters that take filters or tests ----

/// `arguments` without its first n positional ones.
Arguments rest_of(const Arguments& arguments, std::size_t n) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<std::ptrdiff_t>(n));
  return rest;
}

Value map(Runtime& rt, const Value& input, const Arguments& arguments) {
  std::vector<Value> mapped;
  if (!input.truthy()) return rt.list({}, ListKind::generator);
  if (arguments.positional.empty()) {
    Bound<2> a{};
    if (!rt.bind("map", arguments, Names<2>{"attribute", "default"}, 1, a)) return {};
    for (const Value& item : rt.iterate(input)) {
      if (rt.failed()) return {};
      Value value = rt.item_path(item, a[0]);
      mapped.push_back(value.is_undefined() && a[1] && !a[1]->is_none() ? *a[1] : std::move(value));
    }
    return rt.list(std::move(mapped), ListKind::generator);
  }
  const std::string name = rt.str(arguments.positional[0]).bytes();
  const Arguments rest = rest_of(arguments, 1);
  for (const Value& item : rt.iterate(input)) {
    if (rt.failed()) return {};
    mapped.push_back(rt.apply_filter(name, item, rest));
  }
  return rt.list(std::move(mapped), ListKind::generator);
}

template <bool wanted, bool by_attribute>
Value choose(Runtime& rt, const Value& input, const Arguments& arguments) {
  if (!input.truthy()) return rt.list({}, ListKind::generator);
  constexpr std::size_t n_before_test = by_attribute ? 1 : 0;
  if (arguments.positional.size() < n_before_test)
    return rt.fail("selectattr and rejectattr need the name of an attribute");
  const bool has_test = arguments.positional.size() > n_before_test;
  const std::string name = has_test ? rt.str(arguments.positional[n_before_test]).bytes() : "";
  const Arguments rest = rest_of(arguments, has_test ? n_before_test + 1 : n_before_test);
  std::vector<Value> kept;
  for (const Value& item : rt.iterate(input)) {
    if (rt.failed()) return {};
    const Value subject = by_attribute ? rt.item_path(item, &arguments.positional[0]) : item;
    const bool holds = has_test ? rt.apply_test(name, subject, rest) : subject.truthy();
    if (holds == wanted) kept.push_back(item);
  }
  return rt.list(std::move(kept), ListKind::generator);
}

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

struct Row {
  std::string_view name;
  Filter filter;
};
constexpr std::array filters{Row{"abs", absolute},
                             Row{"attr", attribute_only},
                             Row{"batch", batch},
                             Row{"capitalize", change_text<capitalize>},
                             Row{"center", center},
                             Row{"count", length},
                             Row{"d", default_value},
                             Row{"default", default_value},
                             Row{"dictsort", dict_sort},
                             Row{"e", escape<false>},
                             Row{"escape", escape<false>},
                             Row{"first", first},
                             Row{"float", to_real},
                             Row{"forceescape", escape<true>},
                             Row{"format", format},
                             Row{"indent", indent},
                             Row{"int", to_integer},
                             Row{"items", items},
                             Row{"join", join},
                             Row{"last", last},
                             Row{"length", length},
                             Row{"list", to_list},
                             Row{"lower", change_case<Case::lower>},
                             Row{"map", map},
                             Row{"max", extreme<true>},
                             Row{"min", extreme<false>},
                             Row{"reject", choose<false, false>},
                             Row{"rejectattr", choose<false, true>},
                             Row{"replace", replace_all},
                             Row{"reverse", reverse},
                             Row{"round", round_number},
                             Row{"safe", safe},
                             Row{"select", choose<true, false>},
                             Row{"selectattr", choose<true, true>},
                             Row{"slice", slice_columns},
                             Row{"sort", sort},
                             Row{"string", as_string},
                             Row{"sum", sum},
                             Row{"title", change_text<title_words>},
                             Row{"tojson", to_json},
                             Row{"trim", trim},
                             Row{"truncate", truncate},
                             Row{"unique", unique},
                             Row{"upper", change_case<Case::upper>},
                             Row{"wordcount", word_count}};

const Row* find_filter(std::string_view name) {
  const auto* found = std::find_if(filters.begin(), filters.end(),
                                   [&](const Row& row) { return row.name == name; });
  return found == filters.end() ? nullptr : found;
}

}  // namespace

bool is_filter(std::string_view name) {
  return find_filter(name) != nullptr;
}

Value Runtime::apply_filter(const std::string& name, const Value& input,
                            const Arguments& arguments) {
  const Row* row = find_filter(name);
  if (row == nullptr) return fail(fmt::format("unknown filter '{}'", name));
  if (!charge(1)) return {};
  return row->filter(*this, input, arguments);
}

}  // namespace lowbit::jinja
