// SPDX-License-Identifier: Apache-2.0
// Python's two ways to fill a template string: 'x %s' % value and 'x {}'.format(value), with the
// parts of their small languages that make sense for strings and numbers.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "lowbit/model/jinja_runtime.h"

namespace lowbit::jinja {

namespace {

constexpr int max_width = 10'000;  // of one field

/// How one value is to be laid out: [[fill]align][sign][#][0][width][,][.precision][type].
struct Spec {
  std::string fill = " ";
  char align = 0;  // < > ^ or =, 0 for the type's own
  char sign = '-';
  bool alternate = false, zero = false, commas = false;
  int width = 0, precision = -1;
  char type = 0;
};

int read_number(std::string_view text, std::size_t& at) {
  int value = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    value = std::min(value * 10 + (text[at++] - '0'), max_width);
  }
  return value;
}

void append_padded(Text& out, const Spec& spec, const Text& body, char own_align) {
  const auto n = static_cast<int>(count_code_points(body.bytes()));
  const int missing = std::max(spec.width - n, 0);
  const char align = spec.align ? spec.align : own_align;
  const int left = align == '>' || align == '=' ? missing : align == '^' ? missing / 2 : 0;
  const bool signed_body =
      align == '=' && !body.empty() && (body.bytes()[0] == '-' || body.bytes()[0] == '+');
  if (signed_body) out.append(body, 0, 1);
  for (int i = 0; i < left; ++i) out.append(spec.fill, true);
  out.append(body, signed_body ? 1 : 0, body.n_bytes());
  for (int i = left; i < missing; ++i) out.append(spec.fill, true);
}

std::string with_commas(std::string digits) {
  const std::size_t begin = !digits.empty() && (digits[0] == '-' || digits[0] == '+') ? 1 : 0;
  std::size_t end = std::min(digits.find_first_of(".e"), digits.size());
  while (end > begin + 3) {
    end -= 3;
    digits.insert(end, 1, ',');
  }
  return digits;
}

/// The digits of a number; nothing if the type letter does not fit it.
std::optional<std::string> number_digits(const Value& value, const Spec& spec) {
  const auto integer = value.integer();
  std::string digits;
  switch (spec.type) {
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
    case 'b': {
      if (!integer) return std::nullopt;
      const char type = spec.type == 'i' || spec.type == 'u' ? 'd' : spec.type;
      digits = fmt::format(fmt::runtime(fmt::format("{{:{}{}}}", spec.alternate ? "#" : "", type)),
                           *integer);
      break;
    }
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
    case '%': {
      const double number = *value.number() * (spec.type == '%' ? 100 : 1);
      const int precision = spec.precision < 0 ? 6 : spec.precision;
      const char type = spec.type == '%' ? 'f' : spec.type;
      digits = fmt::format(fmt::runtime(fmt::format("{{:.{{}}{}}}", type)), number, precision);
      if (spec.type == '%') digits += '%';
      break;
    }
    case 0:
      if (!integer && spec.precision >= 0) {
        digits = fmt::format("{:.{}g}", *value.number(), spec.precision);
      } else {
        digits = integer ? std::to_string(*integer) : format_real(*value.number());
      }
      break;
    default:
      return std::nullopt;
  }
  if (spec.commas) digits = with_commas(std::move(digits));
  if (spec.sign != '-' && digits[0] != '-') digits = fmt::format("{}{}", spec.sign, digits);
  return digits;
}

Text cut(const Text& text, int precision) {
  if (precision < 0) return text;
  return text.slice(0, byte_offset(text.bytes(), static_cast<std::size_t>(precision)));
}

// ---- % ----

class PercentFormatter {
 public:
  PercentFormatter(Runtime& rt, const Text& format, const Value& values)
      : rt_(rt), format_(format) {
    if (const List* list = values.list(); list != nullptr && list->kind == ListKind::tuple) {
      values_ = list->items;
    } else {
      values_.push_back(values);
      whole_ = values.dict() || values.list() || values.is_undefined();
    }
  }

  Value run() {
    const std::string& bytes = format_.bytes();
    std::size_t at = 0;
    while (at < bytes.size() && !rt_.failed() && !out_.overflowed()) {
      const std::size_t percent = std::min(bytes.find('%', at), bytes.size());
      out_.append(format_, at, percent);
      at = percent;
      if (at < bytes.size()) at = field(at + 1);
    }
    if (rt_.failed()) return {};
    if (used_ < values_.size() && !by_name_ && !(whole_ && values_.size() == 1)) {
      return rt_.fail("'%' is given more values than the string has fields");
    }
    return rt_.text(std::move(out_));
  }

 private:
  Value next() {
    if (used_ >= values_.size())
      return rt_.fail("'%' is given fewer values than the string has fields");
    return values_[used_++];
  }

  std::size_t field(std::size_t at) {
    const std::string& bytes = format_.bytes();
    Spec spec;
    std::optional<Value> value;
    if (at < bytes.size() && bytes[at] == '(') {
      const std::size_t close = bytes.find(')', at);
      const Dict* dict = values_.size() == 1 ? values_[0].dict() : nullptr;
      if (close == std::string::npos || dict == nullptr)
        return stop("'%(name)s' needs a dict of values");
      const Value* found = dict->find(std::string_view(bytes).substr(at + 1, close - at - 1));
      if (found == nullptr)
        return stop("the dict on the right of '%' lacks a name that the string uses");
      value = *found;
      by_name_ = true;
      at = close + 1;
    }
    for (; at < bytes.size(); ++at) {
      if (bytes[at] == '-')
        spec.align = '<';
      else if (bytes[at] == '0')
        spec.zero = true;
      else if (bytes[at] == '+')
        spec.sign = '+';
      else if (bytes[at] == ' ' && spec.sign == '-')
        spec.sign = ' ';
      else if (bytes[at] == '#')
        spec.alternate = true;
      else if (bytes[at] != ' ')
        break;
    }
    spec.width = read_number(bytes, at);
    if (at < bytes.size() && bytes[at] == '.') spec.precision = read_number(bytes, ++at);
    if (at >= bytes.size()) return stop("the string on the left of '%' ends inside a field");
    spec.type = bytes[at];
    if (spec.type == '%') {
      out_.append("%", true);
      return at + 1;
    }
    if (!value) value = next();
    if (!rt_.failed()) put(spec, *value);
    return at + 1;
  }

  std::size_t stop(std::string message) {
    rt_.fail(std::move(message));
    return format_.n_bytes();
  }

  void put(Spec spec, const Value& value) {
    if (spec.type == 's' || spec.type == 'r') {
      const Text text = spec.type == 's' ? rt_.str(value) : rt_.repr(value);
      return append_padded(out_, spec, cut(text, spec.precision), '>');
    }
    if (!value.number()) {
      rt_.fail(fmt::format("'%{}' needs a number, not a {}", spec.type, value.type_name()));
      return;
    }
    const bool whole_type = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
    const bool fits = std::abs(*value.number()) < 9e18;
    const Value number = whole_type && value.is_real() && fits
                             ? Value(static_cast<std::int64_t>(*value.number()))
                             : value;
    const auto digits = number_digits(number, spec);
    if (!digits) {
      rt_.fail(fmt::format("'%{}' does not fit a {}", spec.type, value.type_name()));
      return;
    }
    if (spec.zero && spec.align == 0) {
      spec.fill.assign(1, '0');
      spec.align = '=';
    }
    append_padded(out_, spec, Text(*digits, true), '>');
  }

  Runtime& rt_;
  const Text& format_;
  std::vector<Value> values_;
  bool whole_ = false, by_name_ = false;
  std::size_t used_ = 0;
  Text out_;
};

// ---- str.format ----

class BraceFormatter {
 public:
  BraceFormatter(Runtime& rt, const Text& format, const Arguments& arguments)
      : rt_(rt), format_(format), arguments_(arguments) {}

  Value run() {
    const std::string& bytes = format_.bytes();
    std::size_t at = 0;
    while (at < bytes.size() && !rt_.failed() && !out_.overflowed()) {
      const std::size_t brace = std::min(bytes.find_first_of("{}", at), bytes.size());
      out_.append(format_, at, brace);
      at = brace;
      if (at >= bytes.size()) break;
      if (at + 1 < bytes.size() && bytes[at + 1] == bytes[at]) {
        out_.append(format_, at, at + 1);
        at += 2;
      } else if (bytes[at] == '}') {
        return rt_.fail("format: a single '}' in the string, write '}}'");
      } else {
        const std::size_t close = bytes.find('}', at);
        if (close == std::string::npos)
          return rt_.fail("format: a '{' in the string is not closed, write '{{'");
        field(bytes.substr(at + 1, close - at - 1));
        at = close + 1;
      }
    }
    return rt_.failed() ? Value() : rt_.text(std::move(out_));
  }

 private:
  void field(const std::string& field_text) {
    if (field_text.find('{') != std::string::npos) {
      rt_.fail("format: fields inside of fields are not supported");
      return;
    }
    const std::size_t name_end = std::min(field_text.find_first_of("!:"), field_text.size());
    Value value = look_up(field_text.substr(0, name_end));
    std::size_t at = name_end;
    if (at < field_text.size() && field_text[at] == '!') {
      const char conversion = at + 1 < field_text.size() ? field_text[at + 1] : '\0';
      if (conversion != 'r' && conversion != 's') {
        rt_.fail("format: the conversion must be !r or !s");
        return;
      }
      value = rt_.text(conversion == 'r' ? rt_.repr(value) : rt_.str(value));
      at += 2;
    }
    Spec spec;
    if (at < field_text.size() && field_text[at] == ':' &&
        !read_spec(field_text.substr(at + 1), spec)) {
      rt_.fail(fmt::format("format: the field '{{{}}}' cannot be read", field_text));
    }
    if (!rt_.failed()) put(spec, value);
  }

  /// "0", "name", "" (the next one), each followed by .attribute and [item] any number of times.
  Value look_up(const std::string& path) {
    const std::size_t first_end = std::min(path.find_first_of(".["), path.size());
    Value value = argument(path.substr(0, first_end));
    std::size_t at = first_end;
    while (at < path.size() && !rt_.failed()) {
      const bool is_item = path[at] == '[';
      const std::size_t end =
          is_item ? path.find(']', at) : std::min(path.find_first_of(".[", at + 1), path.size());
      if (end == std::string::npos) return rt_.fail("format: a '[' is not closed");
      const std::string key = path.substr(at + 1, end - at - 1);
      value = is_item ? rt_.item_path(value, &static_cast<const Value&>(rt_.text(key)))
                      : rt_.attribute(value, key);
      at = is_item ? end + 1 : end;
    }
    return value;
  }

  Value argument(const std::string& name) {
    const bool is_number =
        !name.empty() && name.find_first_not_of("0123456789") == std::string::npos;
    if (name.empty() || is_number) {
      std::size_t digits = 0;
      const std::size_t i =
          name.empty() ? next_++ : static_cast<std::size_t>(read_number(name, digits));
      if (i < arguments_.positional.size()) return arguments_.positional[i];
      return rt_.fail("format: there are fewer values than fields");
    }
    for (const auto& [key, value] : arguments_.named) {
      if (key == name) return value;
    }
    return rt_.fail(fmt::format("format: there is no value named '{}'", name));
  }

  static bool is_align(char c) { return c == '<' || c == '>' || c == '^' || c == '='; }

  static bool read_spec(const std::string& text, Spec& spec) {
    std::size_t at = 0;
    const std::size_t n_fill = text.empty() ? 0 : code_point_bytes(text, 0);
    if (n_fill > 0 && n_fill < text.size() && is_align(text[n_fill])) {
      spec.fill = text.substr(0, n_fill);
      spec.align = text[n_fill];
      at = n_fill + 1;
    } else if (!text.empty() && is_align(text[0])) {
      spec.align = text[at++];
    }
    const auto take = [&](char c) { return at < text.size() && text[at] == c && (++at, true); };
    if (at < text.size() && (text[at] == '+' || text[at] == ' ' || text[at] == '-'))
      spec.sign = text[at++];
    spec.alternate = take('#');
    if (take('0') && spec.align == 0) {
      spec.fill.assign(1, '0');
      spec.align = '=';
    }
    spec.width = read_number(text, at);
    spec.commas = take(',');
    if (take('.')) spec.precision = read_number(text, at);
    if (at < text.size()) spec.type = text[at++];
    return at == text.size();
  }

  void put(const Spec& spec, const Value& value) {
    if (value.number() && !value.is_bool() && spec.type != 's') {
      const auto digits = number_digits(value, spec);
      if (digits) return append_padded(out_, spec, Text(*digits, true), '>');
    } else if (spec.type == 0 || spec.type == 's') {
      return append_padded(out_, spec, cut(rt_.str(value), spec.precision), '<');
    }
    rt_.fail(fmt::format("format: '{}' does not fit a {}", spec.type, value.type_name()));
  }

  Runtime& rt_;
  const Text& format_;
  const Arguments& arguments_;
  std::size_t next_ = 0;
  Text out_;
};

}  // namespace

Value percent_format(Runtime& runtime, const Text& format, const Value& values) {
  return PercentFormatter(runtime, format, values).run();
}

Value brace_format(Runtime& runtime, const Text& format, const Arguments& arguments) {
  return BraceFormatter(runtime, format, arguments).run();
}

}  // namespace lowbit::jinja
