// SPDX-License-Identifier: Apache-2.0
// UTF-8 one character at a time, with the two ways to fail kept apart: bytes that can never be a
// character, and bytes that wait for more (a character split over two tokens).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lowbit {

enum class Utf8Kind : std::uint8_t { valid, invalid, incomplete };

struct Utf8Char {
  std::size_t n_bytes;  // of the character, or of the longest part that could have begun one
  Utf8Kind kind;
};

/// The character at the front of text, which is not empty. Rejects overlong forms, surrogates and
/// values above U+10FFFF.
Utf8Char utf8_front(std::string_view text);

/// Bytes of the longest front part that is valid UTF-8.
std::size_t utf8_valid_bytes(std::string_view text);

/// The code point of the valid character at the front of text.
char32_t utf8_code_point(std::string_view text);

/// Moves every whole character from the front of `bytes` to the returned text. Each part that can
/// never be a character becomes one U+FFFD (the rule of the Unicode standard, 3.9 "maximal
/// subpart"); a tail that waits for more bytes stays in `bytes`, or becomes U+FFFD too if `final`.
std::string utf8_take(std::string& bytes, bool final);

}  // namespace lowbit
