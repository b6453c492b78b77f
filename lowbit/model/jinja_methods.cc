// SPDX-License-Identifier: Apache-2.0
// The methods of Python's str, list, tuple, dict and numbers that templates may call. Those that
// would change a list or dict in place are known too, so that the error can say why they are
// refused.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lowbit/model/jinja_runtime.h"

namespace lowbit::jinja {

namespace {

using Call = Value (*)(Runtime&, const Value& self, const Arguments&);
struct Row {
  std::string_view name;
  Call call;
};

bool given(const Value* value) {
  return value != nullptr && !value->is_none();
}

const Text& text_argument(Runtime& rt, const Value& value, std::string_view method) {
  static const Text empty;
  if (value.text()) return *value.text();
  rt.fail(fmt::format("{} needs a string, not a {}", method, value.type_name()));
  return empty;
}

// ---- str ----

template <bool left, bool right>
Value strip(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<1> a{};
  if (!rt.bind("strip", arguments, Names<1>{""}, 0, a)) return {};
  const Text& text = *self.text();
  const std::string_view characters =
      given(a[0]) ? text_argument(rt, *a[0], "strip").bytes() : std::string_view();
  const ByteRange kept =
      strip_range(text.bytes(), left, right, given(a[0]) ? &characters : nullptr);
  return rt.text(text.slice(kept.begin, kept.end));
}

template <bool from_right>
Value split_text(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("split", arguments, Names<2>{"sep", "maxsplit"}, 0, a)) return {};
  const std::int64_t limit = a[1] ? rt.integer(*a[1], "maxsplit") : -1;
  if (!given(a[0])) {
    return rt.texts(from_right ? split_space_right(*self.text(), limit)
                               : split_space(*self.text(), limit));
  }
  const std::string& separator = text_argument(rt, *a[0], "split").bytes();
  if (separator.empty()) return rt.fail("split needs a separator that is not empty");
  return rt.texts(from_right ? split_right(*self.text(), separator, limit)
                             : split(*self.text(), separator, limit));
}

Value lines(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<1> a{};
  if (!rt.bind("splitlines", arguments, Names<1>{"keepends"}, 0, a)) return {};
  return rt.texts(split_lines(*self.text(), a[0] != nullptr && a[0]->truthy()));
}

template <bool at_end>
Value partition(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<1> a{};
  if (!rt.bind("partition", arguments, Names<1>{""}, 1, a)) return {};
  const Text& text = *self.text();
  const std::string& separator = text_argument(rt, *a[0], "partition").bytes();
  if (separator.empty()) return rt.fail("partition needs a separator that is not empty");
  const std::size_t at = at_end ? text.bytes().rfind(separator) : text.bytes().find(separator);
  std::vector<Text> parts(3);
  if (at == std::string::npos) {
    parts[at_end ? 2 : 0] = text;
  } else {
    parts[0] = text.slice(0, at);
    parts[1] = text.slice(at, at + separator.size());
    parts[2] = text.slice(at + separator.size(), text.n_bytes());
  }
  return rt.texts(std::move(parts), ListKind::tuple);
}

/// The part of self that the arguments `start` and `end` select, as bytes.
ByteRange sub_range(Runtime& rt, const Text& text, const Value* start, const Value* end) {
  const std::string& bytes = text.bytes();
  if (!given(start) && !given(end)) return {0, bytes.size()};
  const auto n = static_cast<std::int64_t>(count_code_points(bytes));
  const auto offset = [&](const Value* bound, std::int64_t absent) {
    std::int64_t i = given(bound) ? rt.integer(*bound, "a position in a string") : absent;
    if (i < 0) i = i < -n ? 0 : i + n;
    return i > n ? bytes.size() + 1 : byte_offset(bytes, static_cast<std::size_t>(i));
  };
  return {offset(start, 0), std::min(offset(end, n), bytes.size())};
}

template <bool at_end>
Value starts_or_ends(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<3> a{};
  const std::string_view name = at_end ? "endswith" : "startswith";
  if (!rt.bind(name, arguments, Names<3>{"", "", ""}, 1, a)) return {};
  const ByteRange range = sub_range(rt, *self.text(), a[1], a[2]);
  if (range.begin > range.end || rt.failed()) return false;
  const std::string_view part =
      std::string_view(self.text()->bytes()).substr(range.begin, range.end - range.begin);
  const auto matches = [&](const Value& affix) {
    const std::string& bytes = text_argument(rt, affix, name).bytes();
    return bytes.size() <= part.size() &&
           part.substr(at_end ? part.size() - bytes.size() : 0, bytes.size()) == bytes;
  };
  if (const List* list = a[0]->list(); list != nullptr && list->kind == ListKind::tuple) {
    return std::any_of(list->items.begin(), list->items.end(), matches);
  }
  return matches(*a[0]);
}

enum class Seek { find, index };
template <Seek seek, bool from_right>
Value find_text(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<3> a{};
  if (!rt.bind("find", arguments, Names<3>{"", "", ""}, 1, a)) return {};
  const std::string& bytes = self.text()->bytes();
  const std::string& wanted = text_argument(rt, *a[0], "find").bytes();
  const ByteRange range = sub_range(rt, *self.text(), a[1], a[2]);
  if (rt.failed()) return {};
  std::size_t at = std::string::npos;
  if (range.begin <= range.end) {
    const std::string_view part =
        std::string_view(bytes).substr(range.begin, range.end - range.begin);
    at = from_right ? part.rfind(wanted) : part.find(wanted);
  }
  if (at != std::string::npos) {
    return static_cast<std::int64_t>(
        count_code_points(std::string_view(bytes).substr(0, range.begin + at)));
  }
  if (seek == Seek::index) return rt.fail("the substring was not found");
  return std::int64_t{-1};
}

Value count_text(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<3> a{};
  if (!rt.bind("count", arguments, Names<3>{"", "", ""}, 1, a)) return {};
  const std::string& wanted = text_argument(rt, *a[0], "count").bytes();
  const ByteRange range = sub_range(rt, *self.text(), a[1], a[2]);
  if (range.begin > range.end || rt.failed()) return std::int64_t{0};
  const std::string_view part =
      std::string_view(self.text()->bytes()).substr(range.begin, range.end - range.begin);
  if (wanted.empty()) return static_cast<std::int64_t>(count_code_points(part)) + 1;
  std::int64_t n = 0;
  for (std::size_t at = part.find(wanted); at != std::string::npos;
       at = part.find(wanted, at + wanted.size()))
    ++n;
  return n;
}

Value replace_text(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<3> a{};
  if (!rt.bind("replace", arguments, Names<3>{"", "", "count"}, 2, a)) return {};
  const std::int64_t limit = a[2] ? rt.integer(*a[2], "the count of replace") : -1;
  const Text &from = text_argument(rt, *a[0], "replace"), &to = text_argument(rt, *a[1], "replace");
  return rt.failed() ? Value() : rt.text(replace(*self.text(), from, to, limit));
}

template <bool at_end>
Value remove_affix(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<1> a{};
  if (!rt.bind("removeprefix", arguments, Names<1>{""}, 1, a)) return {};
  const Text& text = *self.text();
  const std::size_t n = text_argument(rt, *a[0], "removeprefix").n_bytes();
  Arguments affix;
  affix.positional.push_back(*a[0]);
  if (!starts_or_ends<at_end>(rt, self, affix).truthy()) return self;
  return rt.text(at_end ? text.slice(0, text.n_bytes() - n) : text.slice(n, text.n_bytes()));
}

Value join_texts(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<1> a{};
  if (!rt.bind("join", arguments, Names<1>{""}, 1, a)) return {};
  Text out;
  bool first = true;
  for (const Value& item : rt.iterate(*a[0])) {
    if (!first) out.append(*self.text());
    first = false;
    out.append(text_argument(rt, item, "join"));
    if (rt.failed() || out.overflowed()) break;
  }
  return rt.text(std::move(out));
}

enum class Side { left, right, center };
template <Side side>
Value pad(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("ljust, rjust or center", arguments, Names<2>{"", ""}, 1, a)) return {};
  const Text fill = a[1] ? text_argument(rt, *a[1], "the fill character") : Text(" ", true);
  if (count_code_points(fill.bytes()) != 1)
    return rt.fail("the fill character must be one character");
  const auto n = static_cast<std::int64_t>(count_code_points(self.text()->bytes()));
  const std::int64_t width = rt.integer(*a[0], "the width");
  if (width <= n) return self;
  if (width > static_cast<std::int64_t>(Text::max_bytes)) return rt.fail("the width is too large");
  const std::int64_t missing = width - n;
  // str.center puts the odd one left where both the padding and the width are odd.
  const std::int64_t left = side == Side::left    ? 0
                            : side == Side::right ? missing
                                                  : missing / 2 + (missing & width & 1);
  Text out;
  for (std::int64_t i = 0; i < left; ++i) out.append(fill);
  out.append(*self.text());
  for (std::int64_t i = left; i < missing; ++i) out.append(fill);
  return rt.text(std::move(out));
}

Value zero_fill(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<1> a{};
  if (!rt.bind("zfill", arguments, Names<1>{""}, 1, a)) return {};
  const Text& text = *self.text();
  const auto n = static_cast<std::int64_t>(count_code_points(text.bytes()));
  const std::int64_t width = rt.integer(*a[0], "the width");
  if (width > static_cast<std::int64_t>(Text::max_bytes)) return rt.fail("the width is too large");
  const std::size_t n_sign =
      !text.empty() && (text.bytes()[0] == '-' || text.bytes()[0] == '+') ? 1 : 0;
  Text out = text.slice(0, n_sign);
  out.append(std::string(static_cast<std::size_t>(std::max<std::int64_t>(width - n, 0)), '0'),
             true);
  out.append(text, n_sign, text.n_bytes());
  return rt.text(std::move(out));
}

template <Text (*change)(const Text&)>
Value change_text(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<1> none{};
  if (!arguments.positional.empty()) return rt.fail("this method takes no arguments");
  if (!rt.bind("this method", arguments, Names<1>{""}, 0, none)) return {};
  return rt.text(change(*self.text()));
}
Text upper(const Text& text) {
  return map_case(text, Case::upper);
}
Text lower(const Text& text) {
  return map_case(text, Case::lower);
}

/// All characters satisfy the check, and there is one at least.
template <bool (*check)(char32_t)>
Value all_characters(Runtime&, const Value& self, const Arguments&) {
  const std::string& bytes = self.text()->bytes();
  for (std::size_t i = 0; i < bytes.size(); i += code_point_bytes(bytes, i)) {
    if (!check(decode_code_point(bytes, i))) return false;
  }
  return !bytes.empty();
}
bool is_letter_or_digit(char32_t c) {
  return is_letter(c) || is_decimal_digit(c);
}
bool is_ascii(char32_t c) {
  return c < 0x80;
}

template <Case wanted>
Value is_one_case(Runtime& rt, const Value& self, const Arguments&) {
  return rt.apply_test(wanted == Case::upper ? "upper" : "lower", self, {});
}

Value format_text(Runtime& rt, const Value& self, const Arguments& arguments) {
  return brace_format(rt, *self.text(), arguments);
}

constexpr std::array text_methods{Row{"capitalize", change_text<capitalize>},
                                  Row{"casefold", change_text<lower>},
                                  Row{"center", pad<Side::center>},
                                  Row{"count", count_text},
                                  Row{"endswith", starts_or_ends<true>},
                                  Row{"find", find_text<Seek::find, false>},
                                  Row{"format", format_text},
                                  Row{"index", find_text<Seek::index, false>},
                                  Row{"isalnum", all_characters<is_letter_or_digit>},
                                  Row{"isalpha", all_characters<is_letter>},
                                  Row{"isascii", all_characters<is_ascii>},
                                  Row{"isdecimal", all_characters<is_decimal_digit>},
                                  Row{"isdigit", all_characters<is_decimal_digit>},
                                  Row{"islower", is_one_case<Case::lower>},
                                  Row{"isnumeric", all_characters<is_decimal_digit>},
                                  Row{"isspace", all_characters<is_space>},
                                  Row{"isupper", is_one_case<Case::upper>},
                                  Row{"join", join_texts},
                                  Row{"ljust", pad<Side::left>},
                                  Row{"lower", change_text<lower>},
                                  Row{"lstrip", strip<true, false>},
                                  Row{"partition", partition<false>},
                                  Row{"removeprefix", remove_affix<false>},
                                  Row{"removesuffix", remove_affix<true>},
                                  Row{"replace", replace_text},
                                  Row{"rfind", find_text<Seek::find, true>},
                                  Row{"rindex", find_text<Seek::index, true>},
                                  Row{"rjust", pad<Side::right>},
                                  Row{"rpartition", partition<true>},
                                  Row{"rsplit", split_text<true>},
                                  Row{"rstrip", strip<false, true>},
                                  Row{"split", split_text<false>},
                                  Row{"splitlines", lines},
                                  Row{"startswith", starts_or_ends<false>},
                                  Row{"strip", strip<true, true>},
                                  Row{"title", change_text<title_case>},
                                  Row{"upper", change_text<upper>},
                                  Row{"zfill", zero_fill}};

// ---- list, tuple, dict, numbers ----

Value list_index(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<1> a{};
  if (!rt.bind("index", arguments, Names<1>{""}, 1, a)) return {};
  const std::vector<Value>& items = self.list()->items;
  for (std::size_t i = 0; i < items.size() && !rt.failed(); ++i) {
    if (rt.equal(items[i], *a[0])) return static_cast<std::int64_t>(i);
  }
  return rt.fail("the list does not hold this item");
}

Value list_count(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<1> a{};
  if (!rt.bind("count", arguments, Names<1>{""}, 1, a)) return {};
  std::int64_t n = 0;
  for (const Value& item : self.list()->items) n += rt.equal(item, *a[0]);
  return n;
}

Value same(Runtime&, const Value& self, const Arguments&) {
  return self;
}  // a copy that nobody can tell

Value dict_get(Runtime& rt, const Value& self, const Arguments& arguments) {
  Bound<2> a{};
  if (!rt.bind("get", arguments, Names<2>{"", ""}, 1, a)) return {};
  if (!hash_key(*a[0]))
    return rt.fail(fmt::format("a {} cannot be the key of a dict", a[0]->type_name()));
  if (const Value* found = self.dict()->find(*a[0])) return *found;
  return a[1] ? *a[1] : Value(None{});
}

template <ListKind kind>
Value dict_view(Runtime& rt, const Value& self, const Arguments& arguments) {
  if (!arguments.positional.empty() || !arguments.named.empty())
    return rt.fail("this method takes no arguments");
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict()->entries) {
    if (rt.failed()) return {};
    if (kind == ListKind::keys) items.push_back(key);
    if (kind == ListKind::values) items.push_back(value);
    if (kind == ListKind::items) items.push_back(rt.list({key, value}, ListKind::tuple));
  }
  return rt.list(std::move(items), kind);
}

Value is_whole(Runtime&, const Value& self, const Arguments&) {
  return *self.number() == std::floor(*self.number());
}

Value cycle(Runtime& rt, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty()) return rt.fail("loop.cycle needs something to cycle through");
  return arguments.positional[self.loop()->index % arguments.positional.size()];
}

constexpr std::array tuple_methods{Row{"count", list_count}, Row{"index", list_index}};
constexpr std::array list_methods{Row{"copy", same}, Row{"count", list_count},
                                  Row{"index", list_index}};
constexpr std::array dict_methods{
    Row{"copy", same}, Row{"get", dict_get}, Row{"items", dict_view<ListKind::items>},
    Row{"keys", dict_view<ListKind::keys>}, Row{"values", dict_view<ListKind::values>}};
constexpr std::array real_methods{Row{"is_integer", is_whole}};
constexpr std::array loop_methods{Row{"cycle", cycle}};

constexpr std::array<std::string_view, 8> list_changers{"append", "clear",  "extend",  "insert",
                                                        "pop",    "remove", "reverse", "sort"};
constexpr std::array<std::string_view, 5> dict_changers{"clear", "pop", "popitem", "setdefault",
                                                        "update"};

template <class Rows>
const Row* find_row(const Rows& rows, std::string_view name) {
  const auto found =
      std::find_if(rows.begin(), rows.end(), [&](const Row& row) { return row.name == name; });
  return found == rows.end() ? nullptr : &*found;
}

const Row* find_row_of(const Value& object, std::string_view name) {
  if (object.text()) return find_row(text_methods, name);
  if (object.dict()) return find_row(dict_methods, name);
  if (object.loop()) return find_row(loop_methods, name);
  if (object.is_real()) return find_row(real_methods, name);
  if (const List* list = object.list()) {
    if (list->kind == ListKind::list) return find_row(list_methods, name);
    if (list->kind == ListKind::tuple || list->kind == ListKind::range)
      return find_row(tuple_methods, name);
  }
  return nullptr;
}

template <class Words>
bool holds(const Words& words, std::string_view name) {
  return std::find(words.begin(), words.end(), name) != words.end();
}

}  // namespace

MethodKind find_method(const Value& object, std::string_view name) {
  if (find_row_of(object, name) != nullptr) return MethodKind::usable;
  if (object.dict() && holds(dict_changers, name)) return MethodKind::changes_value;
  const List* list = object.list();
  if (list != nullptr && list->kind == ListKind::list && holds(list_changers, name))
    return MethodKind::changes_value;
  return MethodKind::absent;
}

Value call_method(Runtime& runtime, const Method& method, const Arguments& arguments) {
  const Row* row = find_row_of(method.self, method.name);
  if (row == nullptr)
    return runtime.fail(
        fmt::format("a {} has no method '{}'", method.self.type_name(), method.name));
  if (!runtime.charge(method.self.text() ? method.self.weight() : 1)) return {};
  return row->call(runtime, method.self, arguments);
}

}  // namespace lowbit::jinja
