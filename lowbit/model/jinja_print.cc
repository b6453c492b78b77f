// SPDX-License-Identifier: Apache-2.0
// Values as text: Python's str() and repr(), and json.dumps. What the printer adds (quotes, commas,
// digits) is trusted; the characters of a string keep their marks, also when they are escaped.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "lowbit/model/jinja_value.h"

namespace lowbit::jinja {

namespace {

// Stops growing by itself once `out` has overflowed; the callers only save time by looking.
template <class Values, class PrintOne>
void print_joined(const Values& values, std::string_view open, std::string_view close, Text& out,
                  const PrintOne& print_one) {
  out.append(open, true);
  bool first = true;
  for (const auto& value : values) {
    if (out.overflowed()) return;
    if (!first) out.append(", ", true);
    first = false;
    print_one(value);
  }
  out.append(close, true);
}

std::string repr_escape(char32_t c, char quote) {
  switch (c) {
    case U'\\':
      return "\\\\";
    case U'\n':
      return "\\n";
    case U'\r':
      return "\\r";
    case U'\t':
      return "\\t";
    default:
      break;
  }
  if (c == static_cast<char32_t>(quote)) return std::string("\\") + quote;
  if (is_printable(c)) return {};
  const auto code = static_cast<std::uint32_t>(c);
  if (c <= 0xff) return fmt::format("\\x{:02x}", code);
  if (c <= 0xffff) return fmt::format("\\u{:04x}", code);
  return fmt::format("\\U{:08x}", code);
}

void print_quoted(const Text& text, Text& out) {
  const std::string& bytes = text.bytes();
  const bool has_single = bytes.find('\'') != std::string::npos;
  const char quote = has_single && bytes.find('"') == std::string::npos ? '"' : '\'';
  out.append(std::string_view(&quote, 1), true);
  for (std::size_t i = 0; i < bytes.size();) {
    const std::size_t n = code_point_bytes(bytes, i);
    const std::string escaped = repr_escape(decode_code_point(bytes, i), quote);
    if (escaped.empty()) {
      out.append(text, i, i + n);
    } else {
      out.append(escaped, text.trusted_at(i));
    }
    i += n;
  }
  out.append(std::string_view(&quote, 1), true);
}

void print_list(const List& list, Text& out) {
  const auto one = [&](const Value& item) { print_repr(item, out); };
  switch (list.kind) {
    case ListKind::list:
      return print_joined(list.items, "[", "]", out, one);
    case ListKind::tuple:
      return print_joined(list.items, "(", list.items.size() == 1 ? ",)" : ")", out, one);
    case ListKind::keys:
      return print_joined(list.items, "dict_keys([", "])", out, one);
    case ListKind::values:
      return print_joined(list.items, "dict_values([", "])", out, one);
    case ListKind::items:
      return print_joined(list.items, "dict_items([", "])", out, one);
    case ListKind::range: {
      const auto n = static_cast<std::int64_t>(list.items.size());
      const std::int64_t first = n == 0 ? 0 : *list.items[0].integer();
      const std::int64_t step = n < 2 ? 1 : *list.items[1].integer() - first;
      const std::string range = fmt::format("range({}, {}", first, first + n * step);
      return out.append(step == 1 ? range + ")" : fmt::format("{}, {})", range, step), true);
    }
    case ListKind::generator:
      return out.append("<generator object>", true);
  }
}

}  // namespace

std::string format_real(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[32];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view all(buffer, static_cast<std::size_t>(end - buffer));
  const std::size_t e = all.find('e');
  const std::string_view mantissa = all.substr(0, e);
  const std::string_view exponent_text = all.substr(e + 1 + (all[e + 1] == '+' ? 1 : 0));
  int exponent = 0;
  std::from_chars(exponent_text.data(), exponent_text.data() + exponent_text.size(), exponent);

  constexpr int first_with_exponent = 16;  // Python switches at 1e16 and below 1e-4
  if (exponent < -4 || exponent >= first_with_exponent) {
    return fmt::format("{}e{}{:02d}", mantissa, exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  std::string digits, text = mantissa[0] == '-' ? "-" : "";
  std::copy_if(mantissa.begin(), mantissa.end(), std::back_inserter(digits),
               [](char c) { return c >= '0' && c <= '9'; });
  if (exponent < 0) {
    return text + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  }
  const auto n_whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= n_whole) {
    return text + digits + std::string(n_whole - digits.size(), '0') + ".0";
  }
  return text + digits.substr(0, n_whole) + "." + digits.substr(n_whole);
}

void print_repr(const Value& value, Text& out) {
  if (value.text()) return print_quoted(*value.text(), out);
  if (value.is_undefined()) return out.append("Undefined", true);
  print(value, out);
}

void print(const Value& value, Text& out) {
  if (const Text* text = value.text()) return out.append(*text);
  if (value.is_undefined()) return;
  if (value.is_none()) return out.append("None", true);
  if (value.is_bool()) return out.append(value.truthy() ? "True" : "False", true);
  if (const auto i = value.integer()) return out.append(std::to_string(*i), true);
  if (const auto d = value.number()) return out.append(format_real(*d), true);
  if (const List* list = value.list()) return print_list(*list, out);
  if (const Dict* dict = value.dict()) {
    return print_joined(dict->entries, "{", "}", out, [&](const auto& entry) {
      print_repr(entry.first, out);
      out.append(": ", true);
      print_repr(entry.second, out);
    });
  }
  out.append(fmt::format("<{}>", value.type_name()), true);
}

// ---- JSON ----

namespace {

class JsonPrinter {
 public:
  JsonPrinter(const JsonStyle& style, Text& out, std::string& culprit)
      : style_(style), out_(out), culprit_(culprit) {}

  bool print_value(const Value& value, int level) {
    if (const Text* text = value.text()) return print_string(*text);
    if (value.is_none()) return literal("null");
    if (value.is_bool()) return literal(value.truthy() ? "true" : "false");
    if (const auto i = value.integer()) return literal(std::to_string(*i));
    if (const auto d = value.number()) return literal(real(*d));
    if (const List* list = value.list();
        list != nullptr && (list->kind == ListKind::list || list->kind == ListKind::tuple)) {
      return print_all(list->items, "[", "]", level,
                       [&](const Value& item) { return print_value(item, level + 1); });
    }
    if (const Dict* dict = value.dict()) return print_dict(*dict, level);
    culprit_ = value.type_name();
    return false;
  }

 private:
  using Entry = std::pair<Value, Value>;

  bool literal(std::string_view text) {
    out_.append(text, true);
    return true;
  }

  static std::string real(double d) {
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
    return format_real(d);
  }

  bool print_dict(const Dict& dict, int level) {
    std::vector<const Entry*> entries;
    for (const Entry& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      bool comparable = true;
      std::stable_sort(entries.begin(), entries.end(), [&](const Entry* a, const Entry* b) {
        const auto is_less = less(a->first, b->first);
        comparable = comparable && is_less.has_value();
        return is_less.value_or(false);
      });
      if (!comparable) {
        culprit_ = "dict with keys of several types";
        return false;
      }
    }
    return print_all(entries, "{", "}", level, [&](const Entry* entry) {
      if (!print_key(entry->first)) return false;
      out_.append(style_.key_separator);
      return print_value(entry->second, level + 1);
    });
  }

  bool print_key(const Value& key) {
    if (key.text()) return print_string(*key.text());
    std::string name;
    if (key.is_none())
      name = "null";
    else if (key.is_bool())
      name = key.truthy() ? "true" : "false";
    else if (key.integer())
      name = std::to_string(*key.integer());
    else if (key.number())
      name = real(*key.number());
    if (name.empty()) {
      culprit_ = key.type_name();
      return false;
    }
    return literal(fmt::format("\"{}\"", name));
  }

  void new_line(int level) {
    out_.append("\n", true);
    for (int i = 0; i < level && !out_.overflowed(); ++i) out_.append(*style_.indent);
  }

  template <class Values, class PrintOne>
  bool print_all(const Values& values, std::string_view open, std::string_view close, int level,
                 const PrintOne& print_one) {
    out_.append(open, true);
    bool first = true;
    for (const auto& value : values) {
      if (out_.overflowed()) return true;
      if (!first) out_.append(style_.item_separator);
      first = false;
      if (style_.indent) new_line(level + 1);
      if (!print_one(value)) return false;
    }
    if (style_.indent && !first) new_line(level);
    return literal(close);
  }

  std::string escape(char32_t c) const {
    switch (c) {
      case U'"':
        return "\\\"";
      case U'\\':
        return "\\\\";
      case U'\n':
        return "\\n";
      case U'\r':
        return "\\r";
      case U'\t':
        return "\\t";
      case U'\f':
        return "\\f";
      case U'\b':
        return "\\b";
      default:
        break;
    }
    constexpr char32_t first_printable = 0x20, last_ascii = 0x7e, last_two_byte_unit = 0xffff;
    const auto code = static_cast<std::uint32_t>(c);
    if (c < first_printable || (style_.ascii && c > last_ascii && c <= last_two_byte_unit)) {
      return fmt::format("\\u{:04x}", code);
    }
    if (style_.ascii && c > last_two_byte_unit) {
      const std::uint32_t offset = code - 0x10000;  // UTF-16 surrogates
      return fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (offset >> 10), 0xdc00 + (offset & 0x3ff));
    }
    return {};
  }

  bool print_string(const Text& text) {
    out_.append("\"", true);
    const std::string& bytes = text.bytes();
    std::size_t pending = 0;  // start of the characters that need no escape
    for (std::size_t i = 0; i < bytes.size();) {
      const std::size_t n = code_point_bytes(bytes, i);
      const std::string escaped = escape(decode_code_point(bytes, i));
      if (!escaped.empty()) {
        out_.append(text, pending, i);
        out_.append(escaped, text.trusted_at(i));
        pending = i + n;
      }
      i += n;
    }
    out_.append(text, pending, bytes.size());
    return literal("\"");
  }

  const JsonStyle& style_;
  Text& out_;
  std::string& culprit_;
};

}  // namespace

bool print_json(const Value& value, const JsonStyle& style, Text& out, std::string& culprit) {
  return JsonPrinter(style, out, culprit).print_value(value, 0);
}

}  // namespace lowbit::jinja
