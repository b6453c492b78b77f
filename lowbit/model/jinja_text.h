// SPDX-License-Identifier: Apache-2.0
// Strings of the template interpreter: UTF-8 bytes plus, for every byte, whether the template
// (trusted) or a user wrote it. Trust is kept as the positions where it flips, so that the usual
// string, all of one kind, needs no second allocation. Every operation on strings is built from
// append() of ranges, and so carries the marks along without thinking of them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace lowbit::jinja {

class Text {
 public:
  /// Longer strings are refused: append() then only sets overflowed().
  static constexpr std::size_t max_bytes = std::size_t{16} << 20;

  Text() = default;
  Text(std::string_view bytes, bool trusted) { append(bytes, trusted); }

  const std::string& bytes() const { return bytes_; }
  std::size_t n_bytes() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  bool overflowed() const { return overflowed_; }
  bool trusted_at(std::size_t position) const;

  void append(std::string_view bytes, bool trusted);
  void append(const Text& other) { append(other, 0, other.n_bytes()); }
  void append(const Text& other, std::size_t begin, std::size_t end);
  Text slice(std::size_t begin, std::size_t end) const;

  /// The filters safe and escape mark text as HTML. All that means here: plain text added to it is
  /// escaped.
  bool is_markup() const { return markup_; }
  Text as_markup(bool markup) const&;

  /// Calls visit(bytes, trusted) for every maximal run.
  template <class Visit>
  void for_each_run(const Visit& visit) const {
    std::size_t begin = 0;
    bool trusted = first_trusted_;
    for (std::size_t flip : flips_) {
      visit(std::string_view(bytes_).substr(begin, flip - begin), trusted);
      begin = flip;
      trusted = !trusted;
    }
    if (begin < bytes_.size()) visit(std::string_view(bytes_).substr(begin), trusted);
  }

 private:
  bool trusted_at_end() const { return first_trusted_ == (flips_.size() % 2 == 0); }

  std::string bytes_;
  std::vector<std::size_t> flips_;  // ascending, inside (0, n_bytes)
  bool first_trusted_ = true;
  bool overflowed_ = false;
  bool markup_ = false;
};

/// Python indexes strings by code point; bytes that are not UTF-8 count as one code point each.
std::size_t code_point_bytes(std::string_view text, std::size_t position);
char32_t decode_code_point(std::string_view text, std::size_t position);
void append_code_point(std::string& text, char32_t code_point);
std::size_t count_code_points(std::string_view text);
/// Byte offset of code point number `index`; the end of the text if it has fewer.
std::size_t byte_offset(std::string_view text, std::size_t index);
/// Byte offset of the code point that ends at `end` (> 0).
std::size_t previous_code_point(std::string_view text, std::size_t end);

bool is_space(char32_t c);  // str.isspace, and \s of regular expressions
bool is_printable(char32_t c);
bool is_letter(char32_t c);
bool is_decimal_digit(char32_t c);
bool is_upper(char32_t c);
bool is_lower(char32_t c);

/// The part left after removing white space (or the code points of `characters`) from either end.
struct ByteRange {
  std::size_t begin, end;
};
ByteRange strip_range(std::string_view text, bool left, bool right,
                      const std::string_view* characters = nullptr);

/// Case mapping of one code point each, plus the sharp s; the rest of Unicode's special casing is
/// not done.
enum class Case { upper, lower };
Text map_case(const Text& text, Case to);
Text capitalize(const Text& text);
/// A letter that follows a letter becomes lower case, any other letter upper case.
Text title_case(const Text& text);

/// Longer lists are refused by the interpreter; the splits below stop one item later.
inline constexpr std::size_t max_items = std::size_t{1} << 20;

Text escape_html(const Text& text);

/// str.replace; a negative limit means all.
Text replace(const Text& text, const Text& from, const Text& to, long long limit = -1);
std::vector<Text> split_lines(const Text& text, bool keep_ends = false);
std::vector<Text> split(const Text& text, const std::string& separator, long long limit);
std::vector<Text> split_space(const Text& text, long long limit);
std::vector<Text> split_right(const Text& text, const std::string& separator, long long limit);
std::vector<Text> split_space_right(const Text& text, long long limit);

}  // namespace lowbit::jinja
