// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "lowbit/model/jinja_parser.h"
#include "lowbit/model/jinja_runtime.h"

namespace lowbit {

namespace {

using Json = nlohmann::ordered_json;
using jinja::Value;

constexpr std::size_t max_source_bytes = std::size_t{4} << 20;
constexpr int max_json_depth = 150;

/// Role words become part of special tokens in some templates ('<|' + role + '|>'), and are no
/// user's text.
constexpr std::array<std::string_view, 9> role_words{"system",    "developer", "user",
                                                     "assistant", "tool",      "function",
                                                     "ipython",   "model",     "observation"};

class Importer {
 public:
  explicit Importer(bool trusted) : trusted_(trusted) {}

  Value value(const Json& json, int depth = 0) {
    if (depth > max_json_depth)
      error = fmt::format("nested more than {} levels deep", max_json_depth);
    if (!error.empty()) return {};
    switch (json.type()) {
      case Json::value_t::null:
        return jinja::None{};
      case Json::value_t::boolean:
        return json.get<bool>();
      case Json::value_t::number_integer:
        return json.get<std::int64_t>();
      case Json::value_t::number_unsigned:
        return unsigned_number(json.get<std::uint64_t>());
      case Json::value_t::number_float:
        return json.get<double>();
      case Json::value_t::string:
        return string(json.get_ref<const std::string&>(), trusted_);
      case Json::value_t::array:
        return array(json, depth);
      case Json::value_t::object:
        return object(json, depth);
      default:
        error = "a value is no JSON";
        return {};
    }
  }

  std::string error;

 private:
  Value unsigned_number(std::uint64_t number) {
    if (number > INT64_MAX) error = fmt::format("the number {} does not fit into 64 bits", number);
    return static_cast<std::int64_t>(number);
  }

  Value string(const std::string& bytes, bool trusted) {
    jinja::Text text(bytes, trusted);
    if (text.overflowed())
      error = fmt::format("a string is longer than {} MB", jinja::Text::max_bytes >> 20);
    return Value(std::make_shared<const jinja::SharedText>(std::move(text), nullptr));
  }

  Value array(const Json& json, int depth) {
    std::vector<Value> items;
    if (json.size() > jinja::max_items)
      error = fmt::format("an array has more than {} items", jinja::max_items);
    for (const Json& item : json) items.push_back(value(item, depth + 1));
    return Value(
        std::make_shared<const jinja::List>(jinja::ListKind::list, std::move(items), nullptr));
  }

  Value object(const Json& json, int depth) {
    std::vector<std::pair<Value, Value>> entries;
    for (const auto& [key, field] : json.items()) {
      const bool is_role = key == "role" && field.is_string() &&
                           std::find(role_words.begin(), role_words.end(),
                                     field.get_ref<const std::string&>()) != role_words.end();
      entries.emplace_back(
          string(key, trusted_),
          is_role ? string(field.get_ref<const std::string&>(), true) : value(field, depth + 1));
    }
    return Value(std::make_shared<const jinja::Dict>(std::move(entries), nullptr));
  }

  bool trusted_;
};

bool comes_from_tokenizer(std::string_view name) {
  constexpr std::string_view suffix = "_token";
  return name.size() > suffix.size() && name.substr(name.size() - suffix.size()) == suffix;
}

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string_view source) {
  if (source.size() > max_source_bytes) {
    return Error(fmt::format("chat template: it is longer than {} MB", max_source_bytes >> 20));
  }
  auto program = jinja::parse_program(source);
  if (!program) return std::move(program).error().in("chat template");
  return ChatTemplate(std::make_shared<const jinja::Program>(std::move(*program)));
}

Result<MarkedText> ChatTemplate::render(const Json& variables) const {
  if (!variables.is_object()) return Error("chat template: the variables must be a JSON object");
  jinja::Scope scope(nullptr);
  std::int64_t now = std::chrono::duration_cast<std::chrono::seconds>(
                         std::chrono::system_clock::now().time_since_epoch())
                         .count();
  scope.set("tools", jinja::None{});
  scope.set("documents", jinja::None{});
  scope.set("add_generation_prompt", false);
  for (const auto& [name, json] : variables.items()) {
    if (name == "strftime_now" && json.is_number_integer()) {
      now = json.get<std::int64_t>();
      continue;
    }
    Importer importer(comes_from_tokenizer(name));
    scope.set(name, importer.value(json));
    if (!importer.error.empty())
      return Error(fmt::format("chat template: variable '{}': {}", name, importer.error));
  }
  std::string error;
  const jinja::Text out = jinja::run_program(*program_, scope, now, error);
  if (!error.empty()) return Error("chat template: " + error);
  MarkedText marked;
  out.for_each_run([&](std::string_view run, bool trusted) { marked.append(run, trusted); });
  return marked;
}

}  // namespace lowbit
