// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/byte_alphabet.h"

#include <array>
#include <cstdint>

namespace lowbit {
namespace {

constexpr unsigned n_byte_values = 256;
constexpr unsigned n_shifted = 68;
constexpr unsigned n_code_points = n_byte_values + n_shifted;
constexpr std::int16_t no_byte = -1;

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct Alphabet {
  std::array<std::uint16_t, n_byte_values> letter{};  // code points, all below U+0800
  std::array<std::int16_t, n_code_points> byte{};
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte.fill(no_byte);
  unsigned next = n_byte_values;
  for (unsigned byte = 0; byte < n_byte_values; ++byte) {
    const unsigned letter = stands_for_itself(byte) ? byte : next++;
    alphabet.letter[byte] = static_cast<std::uint16_t>(letter);
    alphabet.byte[letter] = static_cast<std::int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet alphabet = make_alphabet();
static_assert(alphabet.letter[' '] == 0x120 && alphabet.byte[n_code_points - 1] == 0xad);

}  // namespace

void append_as_letters(std::string_view bytes, std::string& letters) {
  for (const char c : bytes) {
    const unsigned letter = alphabet.letter[static_cast<std::uint8_t>(c)];
    if (letter < 0x80) {
      letters += static_cast<char>(letter);
    } else {
      letters += static_cast<char>(0xc0 | letter >> 6);
      letters += static_cast<char>(0x80 | (letter & 0x3f));
    }
  }
}

bool append_as_bytes(std::string_view letters, std::string& bytes) {
  const std::size_t n_before = bytes.size();
  for (std::size_t i = 0; i < letters.size(); ++i) {
    unsigned letter = static_cast<std::uint8_t>(letters[i]);
    if (letter >= 0x80) {
      // Letters are below U+0800: two bytes, 110xxxxx 10xxxxxx.
      const unsigned next = i + 1 < letters.size() ? static_cast<std::uint8_t>(letters[i + 1]) : 0;
      letter = (letter & 0xe0) == 0xc0 && (next & 0xc0) == 0x80
                   ? (letter & 0x1f) << 6 | (next & 0x3f)
                   : n_code_points;
      ++i;
    }
    if (letter >= n_code_points || alphabet.byte[letter] == no_byte) {
      bytes.resize(n_before);
      return false;
    }
    bytes += static_cast<char>(alphabet.byte[letter]);
  }
  return true;
}

}  // namespace lowbit
