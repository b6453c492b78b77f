// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/schema_validator.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lowbit/grammar/pattern.h"
#include "lowbit/grammar/string_format.h"

namespace lowbit {
namespace {

constexpr int max_depth = 256;

bool has_type(const Json& value, std::string_view type) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_boolean();
  if (type == "number") return value.is_number();
  if (type == "string") return value.is_string();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  return value.is_number_integer() ||
         (value.is_number_float() && std::trunc(value.get<double>()) == value.get<double>());
}

bool validates_number(const Json& schema, const Json& value) {
  // 64 bits of mantissa where there are as many: integers compare exactly.
  const auto number = value.get<long double>();
  const auto holds = [&](const char* keyword, auto compare) {
    const auto bound = schema.find(keyword);
    return bound == schema.end() || compare(number, bound->get<long double>());
  };
  using Number = long double;
  return holds("minimum", [](Number a, Number b) { return a >= b; }) &&
         holds("maximum", [](Number a, Number b) { return a <= b; }) &&
         holds("exclusiveMinimum", [](Number a, Number b) { return a > b; }) &&
         holds("exclusiveMaximum", [](Number a, Number b) { return a < b; }) &&
         holds("multipleOf", [](Number a, Number b) { return std::fmod(a, b) == 0; });
}

std::uint64_t count_or(const Json& schema, const char* keyword, std::uint64_t otherwise) {
  const auto count = schema.find(keyword);
  return count == schema.end() ? otherwise : count->get<std::uint64_t>();
}

constexpr std::uint64_t unlimited = std::numeric_limits<std::uint64_t>::max();

}  // namespace

bool SchemaValidator::validates(const Json& schema, const Json& value, int depth) {
  if (schema.is_boolean()) return schema.get<bool>();
  if (depth > max_depth) return false;
  const auto part = [&](const Json& s) { return validates(s, value, depth + 1); };
  if (const auto type = schema.find("type"); type != schema.end()) {
    const auto names = type_names(*type);
    if (std::none_of(names.begin(), names.end(),
                     [&](std::string_view name) { return has_type(value, name); })) {
      return false;
    }
  }
  if (const auto list = schema.find("enum"); list != schema.end()) {
    if (std::find(list->begin(), list->end(), value) == list->end()) return false;
  }
  if (const auto constant = schema.find("const"); constant != schema.end() && *constant != value) {
    return false;
  }
  if (const auto reference = schema.find("$ref"); reference != schema.end()) {
    const auto target = document_.resolve(reference->get_ref<const std::string&>());
    if (!target || !part(**target)) return false;
  }
  if (const auto all = schema.find("allOf"); all != schema.end()) {
    if (!std::all_of(all->begin(), all->end(), part)) return false;
  }
  for (const char* keyword : {"anyOf", "oneOf"}) {
    const auto any = schema.find(keyword);
    if (any != schema.end() && std::none_of(any->begin(), any->end(), part)) return false;
  }
  if (value.is_number()) return validates_number(schema, value);
  if (value.is_string()) return validates_string(schema, value.get_ref<const std::string&>());
  if (value.is_array()) return validates_array(schema, value, depth);
  if (value.is_object()) return validates_object(schema, value, depth);
  return true;
}

bool SchemaValidator::validates_string(const Json& schema, const std::string& text) {
  const auto n_chars =
      static_cast<std::uint64_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
      }));
  if (n_chars < count_or(schema, "minLength", 0)) return false;
  if (n_chars > count_or(schema, "maxLength", unlimited)) return false;
  if (const auto pattern = schema.find("pattern"); pattern != schema.end()) {
    if (!matches(pattern->get_ref<const std::string&>(), text)) return false;
  }
  if (const auto format = schema.find("format"); format != schema.end()) {
    const auto pattern = find_string_format(format->get_ref<const std::string&>());
    if (!pattern || !matches(std::string(*pattern), text)) return false;
  }
  return true;
}

bool SchemaValidator::validates_array(const Json& schema, const Json& value, int depth) {
  if (value.size() < count_or(schema, "minItems", 0)) return false;
  if (value.size() > count_or(schema, "maxItems", unlimited)) return false;
  const auto prefix = schema.find("prefixItems"), items = schema.find("items");
  const std::size_t n_prefix = prefix == schema.end() ? 0 : prefix->size();
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (i < n_prefix && !validates((*prefix)[i], value[i], depth + 1)) return false;
    if (i >= n_prefix && items != schema.end() && !validates(*items, value[i], depth + 1)) {
      return false;
    }
  }
  return true;
}

bool SchemaValidator::validates_object(const Json& schema, const Json& value, int depth) {
  if (const auto required = schema.find("required"); required != schema.end()) {
    for (const Json& name : *required) {
      if (!value.contains(name.get_ref<const std::string&>())) return false;
    }
  }
  const auto properties = schema.find("properties"), others = schema.find("additionalProperties");
  for (const auto& [name, member] : value.items()) {
    const bool is_declared = properties != schema.end() && properties->contains(name);
    if (is_declared && !validates((*properties)[name], member, depth + 1)) return false;
    if (!is_declared && others != schema.end() && !validates(*others, member, depth + 1)) {
      return false;
    }
  }
  return true;
}

bool SchemaValidator::matches(const std::string& pattern, const std::string& text) {
  auto known = patterns_.find(pattern);
  if (known == patterns_.end()) {
    auto dfa = compile_pattern(pattern);
    known = patterns_.emplace(pattern, dfa ? *std::move(dfa) : Dfa{}).first;
  }
  return matches_text(known->second, text);
}

}  // namespace lowbit
