// SPDX-License-Identifier: Apache-2.0
#include "lowbit/io/json.h"

#include <algorithm>
#include <unordered_set>

#include "lowbit/base/byte_reader.h"

namespace lowbit {
namespace {

/// Deepest nesting of brackets outside strings.
int depth_of(std::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '{' || c == '[') deepest = std::max(deepest, ++depth);
    if (c == '}' || c == ']') --depth;
  }
  return deepest;
}

}  // namespace

Result<Json> parse_json_object(std::string_view text) {
  constexpr int max_depth = 64;
  if (depth_of(text) > max_depth) return Error("its JSON is nested too deeply; it is damaged");
  std::unordered_set<std::string> keys;
  std::string doubled;
  const auto see = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key && depth == 1) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.insert(key).second) doubled = key;
    }
    return true;
  };
  Json json = Json::parse(text, see, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Error("its JSON is broken; the file is damaged, get it again");
  if (!json.is_object()) return Error("its JSON is not an object");
  if (!doubled.empty()) return Error(shown(doubled) + " occurs twice; the file is damaged");
  return json;
}

std::string to_text(const Json& json, int indent) {
  return json.dump(indent, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace lowbit
