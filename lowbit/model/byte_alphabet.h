// SPDX-License-Identifier: Apache-2.0
// The alphabet in which byte-level vocabularies are written (GPT-2's): a byte that prints as a
// Latin-1 character stands for itself, the other 68 are written U+0100, U+0101, ... in order (a
// space is U+0120 "Ġ", a newline U+010A "Ċ").
#pragma once

#include <string>
#include <string_view>

namespace lowbit {

/// Appends the letters of bytes.
void append_as_letters(std::string_view bytes, std::string& letters);

/// Appends the bytes that letters stand for; false, with nothing appended, if some character is no
/// letter of the alphabet.
bool append_as_bytes(std::string_view letters, std::string& bytes);

}  // namespace lowbit
