// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/utf8.h"

#include <cstring>

namespace lowbit {
namespace {

constexpr std::string_view replacement = "\xef\xbf\xbd";  // U+FFFD
constexpr std::uint64_t high_bits = 0x8080808080808080u;

std::uint8_t byte_at(std::string_view text, std::size_t i) {
  return static_cast<std::uint8_t>(text[i]);
}

}  // namespace

Utf8Char utf8_front(std::string_view text) {
  const std::uint8_t lead = byte_at(text, 0);
  if (lead < 0x80) return {1, Utf8Kind::valid};
  const std::size_t n_bytes = lead >= 0xc2 && lead <= 0xdf   ? 2
                              : lead >= 0xe0 && lead <= 0xef ? 3
                              : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                             : 0;
  if (n_bytes == 0) return {1, Utf8Kind::invalid};
  // Only the second byte has a narrower range: against overlong forms (E0, F0), surrogates (ED) and
  // values above U+10FFFF (F4).
  std::uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  std::uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (std::size_t i = 1; i < n_bytes; ++i) {
    if (i == text.size()) return {i, Utf8Kind::incomplete};
    const std::uint8_t byte = byte_at(text, i);
    if (byte < low || byte > high) return {i, Utf8Kind::invalid};
    low = 0x80;
    high = 0xbf;
  }
  return {n_bytes, Utf8Kind::valid};
}

std::size_t utf8_valid_bytes(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t word = 0;
    if (text.size() - at >= sizeof word) {
      std::memcpy(&word, text.data() + at, sizeof word);
      if ((word & high_bits) == 0) {
        at += sizeof word;
        continue;
      }
    }
    const Utf8Char front = utf8_front(text.substr(at));
    if (front.kind != Utf8Kind::valid) break;
    at += front.n_bytes;
  }
  return at;
}

char32_t utf8_code_point(std::string_view text) {
  const std::size_t n_bytes = utf8_front(text).n_bytes;
  if (n_bytes == 1) return byte_at(text, 0);
  char32_t value = byte_at(text, 0) & (0x7fu >> n_bytes);
  for (std::size_t i = 1; i < n_bytes; ++i) value = value << 6 | (byte_at(text, i) & 0x3fu);
  return value;
}

std::string utf8_take(std::string& bytes, bool final) {
  std::string text;
  std::string_view rest = bytes;
  while (!rest.empty()) {
    const std::size_t n_valid = utf8_valid_bytes(rest);
    text += rest.substr(0, n_valid);
    rest.remove_prefix(n_valid);
    if (rest.empty()) break;
    const Utf8Char fault = utf8_front(rest);
    if (fault.kind == Utf8Kind::incomplete && !final) break;
    text += replacement;
    rest.remove_prefix(fault.n_bytes);
  }
  bytes.erase(0, bytes.size() - rest.size());
  return text;
}

}  // namespace lowbit
