// SPDX-License-Identifier: Apache-2.0
// Vocabularies of any size for tests and benchmarks, made like byte-level BPE's: all bytes, then
// words with and without a space before them, numbers, runs of spaces, punctuation of programs, and
// pieces of characters. The same size gives the same tokens everywhere.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace lowbit {

/// The last token is empty and stands for the end. n_tokens is above 300.
inline std::vector<std::string> synthetic_vocabulary(std::size_t n_tokens) {
  std::mt19937 random(7);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  std::vector<std::string> tokens;
  std::unordered_set<std::string> known;
  const auto add = [&](std::string token) {
    if (tokens.size() + 1 < n_tokens && known.insert(token).second) tokens.push_back(token);
  };
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  for (const char* token :
       {"\":",  "\": ",    "\": \"",   "\",",          "\", \"",  "\"}", "\"]",
        "{\"",  "[\"",     "{}",       "[]",           "},",      "],",  "}}",
        "true", "false",   "null",     "\n  ",         "\n    ",  "\\n", "\\u00",
        "\\\"", "\\ud83d", "\xF0\x9F", "\xF0\x9F\x98", "\x98\x80"}) {
    add(token);
  }
  constexpr std::string_view letters = "eeeetttaaooiinnsshhrrddllccuummwwffggyyppbbvvkkjxqz";
  constexpr std::string_view marks = "\"\"\"{}[]():,;.<>/\\=+-*_'!?#&|\n\t ";
  const std::string_view wide[] = {"\xC3\xA9", "\xC3\xBC", "\xD0\xB8", "\xE4\xBD\xA0",
                                   "\xF0\x9F\x98\x80"};
  while (tokens.size() + 1 < n_tokens) {
    std::string token;
    const std::size_t kind = below(100);
    if (kind < 80) {
      if (below(2) == 0) token += ' ';
      for (std::size_t i = 2 + below(9); i > 0; --i) token += letters[below(letters.size())];
      if (below(4) == 0) token[token.size() - 1] = static_cast<char>(token.back() & ~0x20);
      if (kind < 2) token += marks[below(marks.size())];
    } else if (kind < 84) {
      for (std::size_t i = 1 + below(6); i > 0; --i) token += static_cast<char>('0' + below(10));
    } else if (kind < 86) {
      token = std::string(1 + below(80), ' ');
    } else if (kind < 91) {
      for (std::size_t i = 2 + below(4); i > 0; --i) token += marks[below(marks.size())];
    } else {
      for (std::size_t i = 1 + below(5); i > 0; --i) token += wide[below(std::size(wide))];
      if (below(4) == 0) token.pop_back();  // a broken character
      if (below(8) == 0) token.erase(0, 1);
    }
    if (!token.empty()) add(std::move(token));
  }
  tokens.emplace_back();
  return tokens;
}

}  // namespace lowbit
