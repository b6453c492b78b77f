// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/schema_document.h"

#include <algorithm>
#include <array>
#include <utility>

#include "lowbit/grammar/string_format.h"

namespace lowbit {
namespace {

constexpr std::size_t max_document_depth = 128, max_document_values = 100'000;
constexpr std::size_t max_chain = 64, max_alternatives = 256;
constexpr std::size_t max_steps = 2'000'000, max_pending = 1000;

enum class Shape {
  annotation,
  types,
  list,
  any,
  schema,
  schemas,
  map,
  count,
  number,
  multiple,
  names,
  pattern,
  format,
  reference,
  flag_off
};

struct Keyword {
  std::string_view name;
  Shape shape;
};

// clang-format off
constexpr Keyword keywords[] = {
    {"type", Shape::types}, {"enum", Shape::list}, {"const", Shape::any},
    {"properties", Shape::map}, {"required", Shape::names}, {"additionalProperties", Shape::schema},
    {"items", Shape::schema}, {"prefixItems", Shape::schemas},
    {"minItems", Shape::count}, {"maxItems", Shape::count}, {"uniqueItems", Shape::flag_off},
    {"minLength", Shape::count}, {"maxLength", Shape::count},
    {"pattern", Shape::pattern}, {"format", Shape::format},
    {"minimum", Shape::number}, {"maximum", Shape::number},
    {"exclusiveMinimum", Shape::number}, {"exclusiveMaximum", Shape::number},
    {"multipleOf", Shape::multiple},
    {"$ref", Shape::reference}, {"allOf", Shape::schemas}, {"anyOf", Shape::schemas},
    {"oneOf", Shape::schemas},
    {"$defs", Shape::annotation}, {"definitions", Shape::annotation},
    {"title", Shape::annotation}, {"description", Shape::annotation},
    {"default", Shape::annotation}, {"examples", Shape::annotation}, {"$schema", Shape::annotation},
    {"$id", Shape::annotation}, {"$comment", Shape::annotation}, {"deprecated", Shape::annotation},
    {"readOnly", Shape::annotation}, {"writeOnly", Shape::annotation},
    {"discriminator", Shape::annotation},
};
// clang-format on

constexpr std::array<std::string_view, 7> known_types{"null",   "boolean", "integer", "number",
                                                      "string", "array",   "object"};

bool is_schema(const Json& value) {
  return value.is_object() || value.is_boolean();
}

bool is_type(const Json& value) {
  return value.is_string() && std::find(known_types.begin(), known_types.end(),
                                        value.get_ref<const std::string&>()) != known_types.end();
}

bool is_count(const Json& value) {
  if (value.is_number_unsigned()) return true;
  return value.is_number_integer() && value.get<std::int64_t>() >= 0;
}

// What the value of a keyword must be; empty if it is that.
std::string_view complaint(Shape shape, const Json& value) {
  const auto all = [&](auto is_good) {
    return std::all_of(value.begin(), value.end(), [&](const Json& v) { return is_good(v); });
  };
  switch (shape) {
    case Shape::types:
      if (is_type(value)) return {};
      return value.is_array() && !value.empty() && all(is_type)
                 ? std::string_view()
                 : "must be null, boolean, integer, number, string, array or object, or a list of "
                   "them";
    case Shape::list:
      return value.is_array() && !value.empty() ? std::string_view()
                                                : "must be a list of at least one value";
    case Shape::schema:
      return is_schema(value) ? std::string_view() : "must be a schema (an object or a boolean)";
    case Shape::schemas:
      return value.is_array() && !value.empty() && all(is_schema)
                 ? std::string_view()
                 : "must be a list of at least one schema";
    case Shape::map:
      return value.is_object() && all(is_schema) ? std::string_view()
                                                 : "must be an object of schemas";
    case Shape::count:
      return is_count(value) ? std::string_view() : "must be a whole number that is not negative";
    case Shape::number:
      return value.is_number() ? std::string_view() : "must be a number";
    case Shape::multiple:
      return value.is_number() && value.get<double>() > 0 ? std::string_view()
                                                          : "must be a number above 0";
    case Shape::names:
      return value.is_array() && all([](const Json& v) { return v.is_string(); })
                 ? std::string_view()
                 : "must be a list of property names";
    case Shape::pattern:
    case Shape::reference:
      return value.is_string() ? std::string_view() : "must be a string";
    case Shape::format:
      return value.is_string() && find_string_format(value.get_ref<const std::string&>())
                 ? std::string_view()
                 : "names a format that is not supported (date, time, date-time, uuid, email, "
                   "hostname, ipv4 and uri are)";
    case Shape::flag_off:
      return value == Json(false) ? std::string_view() : "is not supported unless it is false";
    case Shape::annotation:
    case Shape::any:
      return {};
  }
  return {};
}

std::string escaped_pointer(std::string_view key) {
  std::string escaped;
  for (const char c : key) {
    if (c == '~')
      escaped += "~0";
    else if (c == '/')
      escaped += "~1";
    else
      escaped += c;
  }
  return escaped;
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// One step of a pointer in a URI fragment: %XX, then ~1 and ~0.
std::string unescaped_pointer(std::string_view step) {
  std::string bytes;
  for (std::size_t i = 0; i < step.size(); ++i) {
    const bool is_percent = step[i] == '%' && i + 2 < step.size() && hex_value(step[i + 1]) >= 0 &&
                            hex_value(step[i + 2]) >= 0;
    if (is_percent) {
      bytes += static_cast<char>(hex_value(step[i + 1]) * 16 + hex_value(step[i + 2]));
      i += 2;
    } else {
      bytes += step[i];
    }
  }
  std::string plain;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const bool is_escape =
        bytes[i] == '~' && i + 1 < bytes.size() && (bytes[i + 1] == '0' || bytes[i + 1] == '1');
    plain += is_escape ? (bytes[++i] == '0' ? '~' : '/') : bytes[i];
  }
  return plain;
}

}  // namespace

std::vector<std::string_view> type_names(const Json& type) {
  if (type.is_string()) return {type.get_ref<const std::string&>()};
  std::vector<std::string_view> names;
  for (const Json& name : type) names.push_back(name.get_ref<const std::string&>());
  return names;
}

Status SchemaDocument::check_size() const {
  if (!is_schema(*root_)) return Error("a schema must be an object or a boolean");
  std::vector<std::pair<const Json*, std::size_t>> pending{{root_, 0}};
  std::size_t n_values = 0;
  while (!pending.empty()) {
    const auto [value, depth] = pending.back();
    pending.pop_back();
    if (++n_values > max_document_values) {
      return Error("the schema has more than " + std::to_string(max_document_values) + " values");
    }
    if (depth > max_document_depth) {
      return Error("the schema is nested deeper than " + std::to_string(max_document_depth) +
                   " levels");
    }
    if (!value->is_structured()) continue;
    for (const Json& child : *value) pending.push_back({&child, depth + 1});
  }
  return ok();
}

std::string SchemaDocument::place(const Json& schema) const {
  const auto known = places_.find(&schema);
  return known != places_.end() ? known->second : "#";
}

Result<const Json*> SchemaDocument::resolve(const std::string& reference) {
  if (!reference.starts_with('#')) {
    return Error("the $ref \"" + reference +
                 "\" leads out of the schema; only \"#/...\" is supported");
  }
  std::string_view rest = std::string_view(reference).substr(1);
  const Json* at = root_;
  const Error missing("the $ref \"" + reference + "\" leads nowhere");
  if (!rest.empty() && rest[0] != '/') return missing;
  while (!rest.empty()) {
    rest.remove_prefix(1);
    const std::size_t end = std::min(rest.find('/'), rest.size());
    const std::string step = unescaped_pointer(rest.substr(0, end));
    rest.remove_prefix(end);
    if (at->is_object()) {
      const auto child = at->find(step);
      if (child == at->end()) return missing;
      at = &*child;
    } else if (at->is_array()) {
      const bool is_number = !step.empty() && step.size() < 7 &&
                             step.find_first_not_of("0123456789") == std::string::npos;
      if (!is_number || std::stoul(step) >= at->size()) return missing;
      at = &(*at)[std::stoul(step)];
    } else {
      return missing;
    }
  }
  if (!is_schema(*at)) return Error("the $ref \"" + reference + "\" leads to what is no schema");
  places_.try_emplace(at, reference);
  return at;
}

Status SchemaDocument::check(const Json& schema) {
  if (!checked_.insert(&schema).second) return ok();
  const std::string here = place(schema);
  for (const auto& [name, value] : schema.items()) {
    const auto* keyword = std::find_if(std::begin(keywords), std::end(keywords),
                                       [&](const Keyword& k) { return k.name == name; });
    if (keyword == std::end(keywords)) {
      return Error("the keyword \"" + name.substr(0, 80) + "\" at " + here + " is not supported");
    }
    if (const std::string_view wrong = complaint(keyword->shape, value); !wrong.empty()) {
      return Error("\"" + name + "\" at " + here + " " + std::string(wrong));
    }
    if (keyword->shape == Shape::schema) {
      places_.try_emplace(&value, here + "/" + name);
    } else if (keyword->shape == Shape::schemas) {
      for (std::size_t i = 0; i < value.size(); ++i) {
        places_.try_emplace(&value[i], here + "/" + name + "/" + std::to_string(i));
      }
    } else if (keyword->shape == Shape::map) {
      for (const auto& [key, child] : value.items()) {
        places_.try_emplace(&child, here + "/" + name + "/" + escaped_pointer(key));
      }
    }
  }
  return ok();
}

Result<std::vector<Conjunction>> SchemaDocument::alternatives(const Conjunction& conjunction) {
  std::vector<Pending> pending;
  for (const Json* schema : conjunction) pending.push_back({schema, false, {}});
  std::vector<Conjunction> results;
  if (auto status = expand(std::move(pending), {}, results); !status) {
    return std::move(status).error();
  }
  return results;
}

Status SchemaDocument::expand(std::vector<Pending> pending, Conjunction done,
                              std::vector<Conjunction>& results) {
  while (!pending.empty()) {
    n_steps_ += pending.size();
    Pending next = std::move(pending.front());
    pending.erase(pending.begin());
    if (next.is_choice) {
      for (const Json& choice : *next.schema) {
        std::vector<Pending> rest{{&choice, false, next.by}};
        rest.insert(rest.end(), pending.begin(), pending.end());
        if (auto status = expand(std::move(rest), done, results); !status) return status;
      }
      return ok();
    }
    const Json& schema = *next.schema;
    if (schema.is_boolean()) {
      if (!schema.get<bool>()) return ok();
      continue;
    }
    if (std::find(next.by.begin(), next.by.end(), &schema) != next.by.end()) {
      return Error("the schema at " + place(schema) + " refers to itself with nothing in between");
    }
    if (n_steps_ > max_steps || pending.size() > max_pending || next.by.size() > max_chain) {
      return Error("the schema at " + place(schema) +
                   " combines too many schemas with $ref, allOf, anyOf and oneOf");
    }
    if (std::find(done.begin(), done.end(), &schema) != done.end()) continue;
    if (auto status = check(schema); !status) return status;
    done.push_back(&schema);

    std::vector<const Json*> by = std::move(next.by);
    by.push_back(&schema);
    std::vector<Pending> found;
    if (const auto reference = schema.find("$ref"); reference != schema.end()) {
      auto target = resolve(reference->get_ref<const std::string&>());
      if (!target) return std::move(target).error().in(place(schema));
      found.push_back({*target, false, by});
    }
    if (const auto all = schema.find("allOf"); all != schema.end()) {
      for (const Json& part : *all) found.push_back({&part, false, by});
    }
    for (const char* choice : {"anyOf", "oneOf"}) {
      if (const auto any = schema.find(choice); any != schema.end()) {
        found.push_back({&*any, true, by});
      }
    }
    pending.insert(pending.begin(), found.begin(), found.end());
  }
  if (std::find(results.begin(), results.end(), done) != results.end()) return ok();
  results.push_back(std::move(done));
  if (results.size() > max_alternatives) {
    return Error("a schema has more than " + std::to_string(max_alternatives) + " alternatives");
  }
  return ok();
}

}  // namespace lowbit
