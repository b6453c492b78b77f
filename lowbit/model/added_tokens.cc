// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "lowbit/model/utf8.h"

namespace lowbit {
namespace {

// Unicode's White_Space beyond ASCII (PropList.txt).
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

// \w of regular expressions: letters, marks, digits and connectors.
bool is_word(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool is_ascii_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

bool is_valid_front(std::string_view text) {
  return !text.empty() && utf8_front(text).kind == Utf8Kind::valid;
}

// Bytes of the valid character at the end of text; 0 if there is none.
std::size_t last_char_bytes(std::string_view text) {
  constexpr std::size_t max_char_bytes = 4;
  for (std::size_t n = 1; n <= std::min(max_char_bytes, text.size()); ++n) {
    const std::string_view tail = text.substr(text.size() - n);
    if (is_valid_front(tail)) return utf8_front(tail).n_bytes == n ? n : 0;
  }
  return 0;
}

bool begins_with_word(std::string_view text) {
  return is_valid_front(text) && is_word(utf8_code_point(text));
}

bool ends_with_word(std::string_view text) {
  const std::size_t n_bytes = last_char_bytes(text);
  return n_bytes > 0 && is_word(utf8_code_point(text.substr(text.size() - n_bytes)));
}

std::size_t leading_space_bytes(std::string_view text) {
  std::size_t n_bytes = 0;
  while (is_valid_front(text.substr(n_bytes)) && is_space(utf8_code_point(text.substr(n_bytes)))) {
    n_bytes += utf8_front(text.substr(n_bytes)).n_bytes;
  }
  return n_bytes;
}

std::size_t trailing_space_bytes(std::string_view text) {
  std::size_t end = text.size();
  while (const std::size_t n_bytes = last_char_bytes(text.substr(0, end))) {
    if (!is_space(utf8_code_point(text.substr(end - n_bytes)))) break;
    end -= n_bytes;
  }
  return text.size() - end;
}

}  // namespace

bool is_markup(std::string_view content) {
  return std::any_of(content.begin(), content.end(), is_ascii_punctuation);
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  const auto same = [](const AddedToken& a, const AddedToken& b) { return a.content == b.content; };
  tokens_.erase(std::unique(tokens_.begin(), tokens_.end(), same), tokens_.end());
  for (const AddedToken& token : tokens_) {
    is_first_byte_[static_cast<std::uint8_t>(token.content[0])] = true;
  }
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto token = std::lower_bound(
      tokens_.begin(), tokens_.end(), content,
      [](const AddedToken& a, std::string_view wanted) { return a.content < wanted; });
  return token != tokens_.end() && token->content == content ? &*token : nullptr;
}

const AddedToken* AddedTokens::longest_at(std::string_view text, std::size_t at,
                                          std::size_t trusted_end) const {
  const AddedToken* longest = nullptr;
  auto first = tokens_.begin(), last = tokens_.end();  // those whose first n_bytes stand at `at`
  for (std::size_t n_bytes = 0; first != last; ++n_bytes) {
    if (first->content.size() == n_bytes) {
      if (!first->markup || at + n_bytes <= trusted_end) longest = &*first;
      if (++first == last) break;
    }
    if (at + n_bytes == text.size()) break;
    const auto byte = [n_bytes](const AddedToken& token) {
      return static_cast<std::uint8_t>(token.content[n_bytes]);
    };
    const auto wanted = static_cast<std::uint8_t>(text[at + n_bytes]);
    first = std::partition_point(first, last,
                                 [&](const AddedToken& token) { return byte(token) < wanted; });
    last = std::partition_point(first, last,
                                [&](const AddedToken& token) { return byte(token) == wanted; });
  }
  return longest;
}

void AddedTokens::split(std::string_view text, std::span<const TrustedRange> trusted,
                        std::vector<Segment>& segments) const {
  std::size_t done = 0, range = 0;
  for (std::size_t at = tokens_.empty() ? text.size() : 0; at < text.size();) {
    if (!is_first_byte_[static_cast<std::uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    while (range < trusted.size() && trusted[range].end <= at) ++range;
    const bool is_trusted = range < trusted.size() && trusted[range].begin <= at;
    const AddedToken* found = longest_at(text, at, is_trusted ? trusted[range].end : 0);
    if (found == nullptr) {
      ++at;
      continue;
    }
    const AddedToken& token = *found;
    std::size_t begin = at, end = at + token.content.size();
    at = end;
    if (token.single_word &&
        (ends_with_word(text.substr(0, begin)) || begins_with_word(text.substr(end)))) {
      continue;
    }
    if (token.lstrip) begin -= trailing_space_bytes(text.substr(done, begin - done));
    if (token.rstrip) end += leading_space_bytes(text.substr(end));
    if (begin > done) segments.push_back({done, begin, no_token});
    segments.push_back({begin, end, token.id});
    at = done = end;
  }
  if (done < text.size()) segments.push_back({done, text.size(), no_token});
}

}  // namespace lowbit
