// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/jinja_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <utility>

namespace lowbit::jinja {

bool Text::trusted_at(std::size_t position) const {
  const auto flip = std::upper_bound(flips_.begin(), flips_.end(), position);
  return first_trusted_ == ((flip - flips_.begin()) % 2 == 0);
}

void Text::append(std::string_view bytes, bool trusted) {
  if (bytes.empty()) return;
  if (bytes.size() > max_bytes - bytes_.size()) {
    overflowed_ = true;
    return;
  }
  if (bytes_.empty()) {
    first_trusted_ = trusted;
  } else if (trusted_at_end() != trusted) {
    flips_.push_back(bytes_.size());
  }
  bytes_ += bytes;
}

void Text::append(const Text& other, std::size_t begin, std::size_t end) {
  overflowed_ = overflowed_ || other.overflowed_;
  auto flip = std::upper_bound(other.flips_.begin(), other.flips_.end(), begin);
  bool trusted = other.first_trusted_ == ((flip - other.flips_.begin()) % 2 == 0);
  while (begin < end) {
    const std::size_t stop = flip == other.flips_.end() ? end : std::min(*flip++, end);
    append(std::string_view(other.bytes_).substr(begin, stop - begin), trusted);
    trusted = !trusted;
    begin = stop;
  }
}

Text Text::slice(std::size_t begin, std::size_t end) const {
  Text part;
  part.append(*this, begin, end);
  part.markup_ = markup_;
  return part;
}

Text Text::as_markup(bool markup) const& {
  Text copy = *this;
  copy.markup_ = markup;
  return copy;
}

// ---- code points ----

namespace {

struct Decoded {
  char32_t code_point;
  std::size_t n_bytes;
};

Decoded decode(std::string_view text, std::size_t position) {
  utf8proc_int32_t code_point = -1;
  const auto* data =
      static_cast<const utf8proc_uint8_t*>(static_cast<const void*>(text.data())) + position;
  const auto n_left = static_cast<utf8proc_ssize_t>(text.size() - position);
  if (*data < 0x80) return {*data, 1};
  const utf8proc_ssize_t n = utf8proc_iterate(data, n_left, &code_point);
  if (n < 1 || code_point < 0) return {0xfffd, 1};
  return {static_cast<char32_t>(code_point), static_cast<std::size_t>(n)};
}

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

}  // namespace

std::size_t code_point_bytes(std::string_view text, std::size_t position) {
  return decode(text, position).n_bytes;
}

char32_t decode_code_point(std::string_view text, std::size_t position) {
  return decode(text, position).code_point;
}

void append_code_point(std::string& text, char32_t code_point) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  text.append(bytes, bytes + n);
}

std::size_t count_code_points(std::string_view text) {
  std::size_t n = 0;
  for (std::size_t i = 0; i < text.size(); i += code_point_bytes(text, i)) ++n;
  return n;
}

std::size_t byte_offset(std::string_view text, std::size_t index) {
  std::size_t offset = 0;
  while (index > 0 && offset < text.size()) {
    offset += code_point_bytes(text, offset);
    --index;
  }
  return offset;
}

std::size_t previous_code_point(std::string_view text, std::size_t end) {
  constexpr std::size_t longest = 4;  // bytes of one code point
  for (std::size_t back = std::min(longest, end); back > 1; --back) {
    if (code_point_bytes(text, end - back) == back) return end - back;
  }
  return end - 1;
}

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool is_printable(char32_t c) {
  if (c == U' ') return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool is_letter(char32_t c) {
  const utf8proc_category_t kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}
bool is_decimal_digit(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_ND;
}
bool is_upper(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LU;
}
bool is_lower(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LL;
}

ByteRange strip_range(std::string_view text, bool left, bool right,
                      const std::string_view* characters) {
  const auto removable = [&](std::size_t position) {
    if (characters == nullptr) return is_space(decode_code_point(text, position));
    return characters->find(text.substr(position, code_point_bytes(text, position))) !=
           std::string_view::npos;
  };
  ByteRange range{0, text.size()};
  while (left && range.begin < range.end && removable(range.begin)) {
    range.begin += code_point_bytes(text, range.begin);
  }
  while (right && range.end > range.begin) {
    const std::size_t last = previous_code_point(text, range.end);
    if (!removable(last)) break;
    range.end = last;
  }
  return range;
}

// ---- case ----

namespace {

void append_mapped(Text& out, const Text& text, std::size_t position, Case to) {
  const Decoded c = decode(text.bytes(), position);
  const bool trusted = text.trusted_at(position);
  constexpr char32_t sharp_s = 0xdf;
  if (c.code_point == sharp_s && to == Case::upper) return out.append("SS", trusted);
  const auto code = static_cast<utf8proc_int32_t>(c.code_point);
  const utf8proc_int32_t mapped =
      to == Case::upper ? utf8proc_toupper(code) : utf8proc_tolower(code);
  if (mapped == code) return out.append(text, position, position + c.n_bytes);
  std::string bytes;
  append_code_point(bytes, static_cast<char32_t>(mapped));
  out.append(bytes, trusted);
}

}  // namespace

Text map_case(const Text& text, Case to) {
  Text out;
  for (std::size_t i = 0; i < text.n_bytes(); i += code_point_bytes(text.bytes(), i)) {
    append_mapped(out, text, i, to);
  }
  return out;
}

Text capitalize(const Text& text) {
  Text out;
  for (std::size_t i = 0; i < text.n_bytes(); i += code_point_bytes(text.bytes(), i)) {
    append_mapped(out, text, i, i == 0 ? Case::upper : Case::lower);
  }
  return out;
}

Text title_case(const Text& text) {
  Text out;
  bool inside_word = false;
  for (std::size_t i = 0; i < text.n_bytes(); i += code_point_bytes(text.bytes(), i)) {
    append_mapped(out, text, i, inside_word ? Case::lower : Case::upper);
    const char32_t c = decode_code_point(text.bytes(), i);
    inside_word = is_upper(c) || is_lower(c);
  }
  return out;
}

// ---- replace and split ----

Text replace(const Text& text, const Text& from, const Text& to, long long limit) {
  Text out;
  const std::string& bytes = text.bytes();
  std::size_t begin = 0;
  if (from.empty()) {  // between all code points, and at both ends
    while (limit != 0) {
      out.append(to);
      if (limit > 0) --limit;
      if (begin == bytes.size() || out.overflowed()) break;
      const std::size_t n = code_point_bytes(bytes, begin);
      out.append(text, begin, begin + n);
      begin += n;
    }
  }
  while (limit != 0 && !from.empty() && !out.overflowed()) {
    const std::size_t found = bytes.find(from.bytes(), begin);
    if (found == std::string::npos) break;
    out.append(text, begin, found);
    out.append(to);
    begin = found + from.n_bytes();
    if (limit > 0) --limit;
  }
  if (begin < bytes.size()) out.append(text, begin, bytes.size());
  return out;
}

Text escape_html(const Text& text) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 5> table{
      {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}}};
  Text out = text;
  for (const auto& [from, to] : table) out = replace(out, Text(from, true), Text(to, true));
  return out;
}

std::vector<Text> split_lines(const Text& text, bool keep_ends) {
  std::vector<Text> lines;
  const std::string& bytes = text.bytes();
  std::size_t begin = 0;
  for (std::size_t i = 0; i < bytes.size();) {
    const Decoded c = decode(bytes, i);
    const bool is_break = (c.code_point >= 10 && c.code_point <= 13) ||
                          (c.code_point >= 28 && c.code_point <= 30) || c.code_point == 0x85 ||
                          c.code_point == 0x2028 || c.code_point == 0x2029;
    std::size_t end = i + c.n_bytes;
    if (is_break) {
      if (c.code_point == U'\r' && end < bytes.size() && bytes[end] == '\n') ++end;
      lines.push_back(text.slice(begin, keep_ends ? end : i));
      begin = end;
      if (lines.size() > max_items) return lines;
    }
    i = end;
  }
  if (begin < bytes.size()) lines.push_back(text.slice(begin, bytes.size()));
  return lines;
}

std::vector<Text> split(const Text& text, const std::string& separator, long long limit) {
  std::vector<Text> parts;
  std::size_t begin = 0;
  while (limit != 0 && parts.size() <= max_items) {
    const std::size_t found = text.bytes().find(separator, begin);
    if (found == std::string::npos) break;
    parts.push_back(text.slice(begin, found));
    begin = found + separator.size();
    if (limit > 0) --limit;
  }
  parts.push_back(text.slice(begin, text.n_bytes()));
  return parts;
}

std::vector<Text> split_right(const Text& text, const std::string& separator, long long limit) {
  std::vector<Text> parts;
  std::size_t end = text.n_bytes();
  while (limit != 0 && end >= separator.size() && parts.size() <= max_items) {
    const std::size_t found = text.bytes().rfind(separator, end - separator.size());
    if (found == std::string::npos) break;
    parts.push_back(text.slice(found + separator.size(), end));
    end = found;
    if (limit > 0) --limit;
  }
  parts.push_back(text.slice(0, end));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<Text> split_space(const Text& text, long long limit) {
  std::vector<Text> parts;
  const std::string& bytes = text.bytes();
  std::size_t i = 0;
  while (parts.size() <= max_items) {
    while (i < bytes.size() && is_space(decode_code_point(bytes, i)))
      i += code_point_bytes(bytes, i);
    if (i == bytes.size()) return parts;
    std::size_t end = i;
    if (limit == 0) {
      end = bytes.size();
    } else {
      while (end < bytes.size() && !is_space(decode_code_point(bytes, end))) {
        end += code_point_bytes(bytes, end);
      }
    }
    parts.push_back(text.slice(i, end));
    if (limit == 0) return parts;
    i = end;
    if (limit > 0) --limit;
  }
  return parts;
}

std::vector<Text> split_space_right(const Text& text, long long limit) {
  std::vector<Text> parts;
  const std::string& bytes = text.bytes();
  std::size_t end = bytes.size();
  while (parts.size() <= max_items) {
    while (end > 0 && is_space(decode_code_point(bytes, previous_code_point(bytes, end)))) {
      end = previous_code_point(bytes, end);
    }
    if (end == 0) break;
    std::size_t begin = end;
    if (limit == 0) {
      begin = 0;
    } else {
      while (begin > 0 && !is_space(decode_code_point(bytes, previous_code_point(bytes, begin)))) {
        begin = previous_code_point(bytes, begin);
      }
    }
    parts.push_back(text.slice(begin, end));
    if (limit == 0) break;
    end = begin;
    if (limit > 0) --limit;
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace lowbit::jinja
