// SPDX-License-Identifier: Apache-2.0
// What must hold for any bytes given as a schema: it is refused with a sentence or compiles, soon;
// and what the grammar lets through satisfies the schema. One function, for libFuzzer
// (schema_fuzz.cc) and for the mutations of the unit tests.
#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/grammar/configurations.h"
#include "lowbit/grammar/json_schema.h"
#include "lowbit/grammar/schema_document.h"
#include "lowbit/grammar/schema_validator.h"

namespace lowbit {

/// A schema, and after a zero byte what chooses the way through it. Returns what went wrong.
inline std::optional<std::string> fuzz_schema(std::string_view input) {
  const std::size_t end = std::min(input.find('\0'), input.size());
  const std::string_view choices = input.substr(std::min(end + 1, input.size()));
  const Json schema = Json::parse(input.substr(0, end), nullptr, false);
  if (schema.is_discarded()) return std::nullopt;
  const auto grammar = compile_json_schema(schema);
  if (!grammar) {
    if (grammar.error().message().empty()) return "refused without a word";
    return std::nullopt;
  }
  Configurations configurations(*grammar);
  Configurations::Id place = configurations.start();
  std::string text;
  for (const char choice : choices) {
    std::vector<unsigned char> bytes;
    for (int byte = 0; byte < 256; ++byte) {
      const auto next = static_cast<unsigned char>(byte);
      if (configurations.next(place, next) != Configurations::dead) bytes.push_back(next);
    }
    if (bytes.empty()) {
      if (!configurations.is_accepting(place)) return "a dead end after " + text;
      break;
    }
    unsigned char byte = bytes[static_cast<unsigned char>(choice) % bytes.size()];
    if (choice % 2 != 0) {  // texts should end now and then
      for (const unsigned char closing : {'"', '}', ']'}) {
        if (configurations.next(place, closing) == Configurations::dead) continue;
        byte = closing;
        break;
      }
    }
    text += static_cast<char>(byte);
    place = configurations.next(place, byte);
  }
  if (!configurations.is_accepting(place)) return std::nullopt;
  const Json value = Json::parse(text, nullptr, false);
  if (value.is_discarded()) return "no JSON: " + text;
  if (!SchemaValidator(schema).validates(value)) return "does not satisfy the schema: " + text;
  return std::nullopt;
}

}  // namespace lowbit
