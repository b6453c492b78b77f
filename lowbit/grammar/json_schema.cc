// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/json_schema.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lowbit/grammar/json_text.h"
#include "lowbit/grammar/number_range.h"
#include "lowbit/grammar/pattern.h"
#include "lowbit/grammar/schema_document.h"
#include "lowbit/grammar/schema_validator.h"
#include "lowbit/grammar/string_format.h"

namespace lowbit {
namespace {

using Node = GrammarBuilder::Node;

// Of all automata of patterns, numbers and lists together: half a second.
constexpr std::size_t max_work = 40'000'000;
constexpr std::size_t max_rules = 5000, max_properties = 256;
constexpr std::uint32_t unlimited = GrammarNode::unlimited;

enum Type : unsigned {
  type_null = 1,
  type_boolean = 2,
  type_integer = 4,
  type_number = 8,
  type_string = 16,
  type_array = 32,
  type_object = 64,
  all_types = 127
};

unsigned types_named(const Json& type) {
  constexpr std::pair<std::string_view, unsigned> names[] = {
      {"null", type_null},     {"boolean", type_boolean}, {"integer", type_integer},
      {"string", type_string}, {"array", type_array},     {"object", type_object}};
  unsigned types = 0;
  for (const std::string_view name : type_names(type)) {
    if (name == "number") types |= type_number | type_integer;
    for (const auto& [known, bit] : names) types |= name == known ? bit : 0;
  }
  return types;
}

unsigned types_implied(const Json& schema) {
  constexpr std::pair<const char*, unsigned> keywords[] = {{"properties", type_object},
                                                           {"required", type_object},
                                                           {"items", type_array},
                                                           {"additionalProperties", type_object},
                                                           {"minItems", type_array},
                                                           {"prefixItems", type_array},
                                                           {"maxItems", type_array},
                                                           {"uniqueItems", type_array},
                                                           {"minLength", type_string},
                                                           {"maxLength", type_string},
                                                           {"pattern", type_string},
                                                           {"format", type_string},
                                                           {"minimum", type_number},
                                                           {"maximum", type_number},
                                                           {"multipleOf", type_number},
                                                           {"exclusiveMinimum", type_number},
                                                           {"exclusiveMaximum", type_number}};
  unsigned types = 0;
  for (const auto& [keyword, type] : keywords) types |= schema.contains(keyword) ? type : 0;
  return types & type_number ? types | type_integer : types;
}

unsigned types_of(const Conjunction& schemas) {
  unsigned types = all_types, implied = 0;
  bool is_said = false;
  for (const Json* schema : schemas) {
    implied |= types_implied(*schema);
    const auto type = schema->find("type");
    if (type == schema->end()) continue;
    is_said = true;
    types &= types_named(*type);
  }
  return is_said || implied == 0 ? types : implied;
}

// Calls f for the value of a keyword in each schema that has it.
template <class F>
void for_each(const Conjunction& schemas, const char* keyword, F f) {
  for (const Json* schema : schemas) {
    if (const auto value = schema->find(keyword); value != schema->end()) f(*value, *schema);
  }
}

struct Counts {
  std::uint32_t min = 0, max = unlimited;
  bool is_possible() const { return min <= max && min < unlimited; }
};

Counts counts_of(const Conjunction& schemas, const char* min, const char* max) {
  const auto clamp = [](const Json& v) {
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(v.get<std::uint64_t>(), unlimited));
  };
  Counts counts;
  for_each(schemas, min,
           [&](const Json& v, auto&) { counts.min = std::max(counts.min, clamp(v)); });
  for_each(schemas, max,
           [&](const Json& v, auto&) { counts.max = std::min(counts.max, clamp(v)); });
  return counts;
}

class SchemaCompiler {
 public:
  SchemaCompiler(GrammarBuilder& builder, const Json& root)
      : builder_(&builder), text_(builder), document_(root), validator_(root), root_(&root) {}

  Result<Node> compile(const Json* beside_root) {
    if (auto status = document_.check_size(); !status) return std::move(status).error();
    Conjunction schemas{root_};
    if (beside_root != nullptr) schemas.push_back(beside_root);
    const Node root = value(schemas);
    while (!waiting_.empty()) {
      const auto [conjunction, rule] = waiting_.back();
      waiting_.pop_back();
      auto body = body_of(*conjunction);
      if (!body) return body;
      builder_->define(rule, *body);
      if (builder_->is_too_large() || rules_.size() > max_rules) {
        return Error("the schema is too large");
      }
    }
    return root;
  }

 private:
  // A value that satisfies all of them. Recursion ends here: a conjunction is compiled once.
  Node value(const Conjunction& schemas) {
    const auto [entry, is_new] = rules_.try_emplace(schemas, 0);
    if (is_new) {
      entry->second = builder_->add_rule();
      builder_->define(entry->second, nothing());
      waiting_.push_back({&entry->first, entry->second});
    }
    return builder_->rule(entry->second);
  }

  Node nothing() { return builder_->choice({}); }

  Result<Node> body_of(const Conjunction& conjunction) {
    auto alternatives = document_.alternatives(conjunction);
    if (!alternatives) return std::move(alternatives).error();
    std::vector<Node> nodes;
    for (const Conjunction& schemas : *alternatives) {
      auto node = alternative(schemas);
      if (!node) return node;
      nodes.push_back(*node);
    }
    return builder_->choice(std::move(nodes));
  }

  Result<Node> alternative(const Conjunction& schemas) {
    const auto is_listed = [](const Json* schema) {
      return schema->contains("enum") || schema->contains("const");
    };
    if (std::any_of(schemas.begin(), schemas.end(), is_listed)) return listed(schemas);
    const unsigned types = types_of(schemas);
    std::vector<Node> nodes;
    if (types & type_null) nodes.push_back(builder_->literal("null"));
    if (types & type_boolean) {
      nodes.push_back(builder_->literal("true"));
      nodes.push_back(builder_->literal("false"));
    }
    if (types & (type_number | type_integer)) {
      auto node = number(schemas, (types & type_number) == 0);
      if (!node) return node;
      nodes.push_back(*node);
    }
    if (types & type_string) {
      auto node = string(schemas);
      if (!node) return node;
      nodes.push_back(*node);
    }
    if (types & type_array) nodes.push_back(array(schemas));
    if (types & type_object) {
      auto node = object(schemas);
      if (!node) return node;
      nodes.push_back(*node);
    }
    return builder_->choice(std::move(nodes));
  }

  // enum and const: those of the values that satisfy everything else too, as they are dumped.
  Result<Node> listed(const Conjunction& schemas) {
    const Json* first = nullptr;
    bool is_const = false;
    for (const Json* schema : schemas) {
      for (const char* keyword : {"const", "enum"}) {
        const auto value = schema->find(keyword);
        if (first != nullptr || value == schema->end()) continue;
        first = &*value;
        is_const = keyword == std::string_view("const");
      }
    }
    // The simple ones, of which there can be thousands, share one automaton.
    Nfa nfa;
    std::vector<Node> nodes;
    const auto add = [&](const Json& value) {
      const bool is_valid = std::all_of(schemas.begin(), schemas.end(), [&](const Json* schema) {
        return validator_.validates(*schema, value);
      });
      if (!is_valid) return;
      if (value.is_structured()) {
        nodes.push_back(fixed(value));
      } else {
        nfa.accept(nfa.add_text(Nfa::start, dumped(value)));
      }
    };
    if (is_const) {
      add(*first);
    } else {
      for (const Json& value : *first) add(value);
    }
    auto dfa =
        nfa.determinize({.n_states = 200'000, .n_work = max_work, .n_work_left = &n_work_left_});
    if (!dfa) return std::move(dfa).error().in("enum at " + document_.place(*schemas[0]));
    nodes.push_back(builder_->text(*std::move(dfa)));
    return builder_->choice(std::move(nodes));
  }

  static std::string dumped(const Json& scalar) {
    return scalar.dump(-1, ' ', false, nlohmann::detail::error_handler_t::replace);
  }

  // One value, with the white space that a printer might put. No deeper than the schema.
  Node fixed(const Json& value) {
    if (!value.is_structured() || value.empty()) return builder_->literal(dumped(value));
    std::vector<Node> nodes{text_.with_space_after(value.is_object() ? "{" : "[")};
    for (auto entry = value.begin(); entry != value.end(); ++entry) {
      if (entry != value.begin()) nodes.push_back(text_.with_space_after(","));
      if (value.is_object()) nodes.push_back(text_.with_space_after(dumped(entry.key()) + ":"));
      nodes.push_back(fixed(*entry));
    }
    nodes.push_back(text_.with_space_before(value.is_object() ? "}" : "]"));
    return builder_->sequence(std::move(nodes));
  }

  Result<Node> number(const Conjunction& schemas, bool is_integer) {
    NumberRange range{.is_integer = is_integer};
    std::string key(is_integer ? "i" : "n");
    Status status = ok();
    const auto add_bound = [&](const char* keyword, bool is_min, bool is_exclusive) {
      for_each(schemas, keyword, [&](const Json& value, const Json& schema) {
        auto decimal = decimal_of(value);
        if (!decimal) {
          status = std::move(decimal).error().in("\"" + std::string(keyword) + "\" at " +
                                                 document_.place(schema));
          return;
        }
        std::optional<NumberBound>& bound = is_min ? range.min : range.max;
        const NumberBound added{*std::move(decimal), is_exclusive};
        if (!bound || is_tighter(added, *bound, is_min)) bound = added;
      });
    };
    add_bound("minimum", true, false);
    add_bound("exclusiveMinimum", true, true);
    add_bound("maximum", false, false);
    add_bound("exclusiveMaximum", false, true);
    for_each(schemas, "multipleOf", [&](const Json& value, const Json& schema) {
      const double divisor = value.get<double>();
      if (divisor > max_multiple_of || std::trunc(divisor) != divisor) {
        status = Error("\"multipleOf\" at " + document_.place(schema) +
                       " must be a whole number of at most " + std::to_string(max_multiple_of) +
                       ": no other can be held while generating");
        return;
      }
      const auto all = std::lcm<std::uint64_t>(range.multiple_of.value_or(1),
                                               static_cast<std::uint64_t>(divisor));
      if (all > max_multiple_of) {
        status = Error("\"multipleOf\" at " + document_.place(schema) +
                       " and those beside it have too large a common multiple");
        return;
      }
      range.multiple_of = static_cast<std::uint32_t>(all);
    });
    if (!status) return std::move(status).error();
    for (const auto* bound : {&range.min, &range.max}) {
      key += ' ';
      if (!*bound) continue;
      const Decimal& value = (*bound)->value;
      key += std::string((*bound)->is_exclusive ? "<" : "=") + (value.is_negative ? "-" : "") +
             value.whole + "." + value.fraction;
    }
    key += ' ' + std::to_string(range.multiple_of.value_or(0));
    if (const auto known = numbers_.find(key); known != numbers_.end()) return known->second;
    auto dfa = numbers_in(range, &n_work_left_);
    if (!dfa) return std::move(dfa).error().in("the number at " + document_.place(*schemas[0]));
    return numbers_[key] = builder_->text(*std::move(dfa));
  }

  Result<Node> string(const Conjunction& schemas) {
    const Counts counts = counts_of(schemas, "minLength", "maxLength");
    if (!counts.is_possible()) return nothing();
    std::vector<std::pair<std::string, const Json*>> patterns;
    for_each(schemas, "pattern", [&](const Json& value, const Json& schema) {
      patterns.emplace_back(value.get_ref<const std::string&>(), &schema);
    });
    for_each(schemas, "format", [&](const Json& value, const Json& schema) {
      patterns.emplace_back(*find_string_format(value.get_ref<const std::string&>()), &schema);
    });
    if (patterns.empty()) return text_.string(counts.min, counts.max);

    std::string key = std::to_string(counts.min) + " " + std::to_string(counts.max);
    for (const auto& [pattern, schema] : patterns)
      key += " " + std::to_string(pattern.size()) + ":" + pattern;
    if (const auto known = strings_.find(key); known != strings_.end()) return known->second;
    std::optional<Dfa> all;
    for (const auto& [pattern, schema] : patterns) {
      auto dfa = compile_pattern(pattern, &n_work_left_);
      if (dfa && all) dfa = intersect(*all, *dfa, {.n_work_left = &n_work_left_});
      if (!dfa) return std::move(dfa).error().in("\"pattern\" at " + document_.place(*schema));
      all = *std::move(dfa);
    }
    const std::string place = "the string at " + document_.place(*patterns[0].second);
    if (counts.min > 0 || counts.max != unlimited) {
      std::optional<std::uint64_t> max;
      if (counts.max != unlimited) max = counts.max;
      auto lengths = texts_of_length(counts.min, max);
      if (lengths) lengths = intersect(*all, *lengths, {.n_work_left = &n_work_left_});
      if (!lengths) return std::move(lengths).error().in(place);
      all = *std::move(lengths);
    }
    auto bytes = json_string_of(*all, &n_work_left_);
    if (!bytes) return std::move(bytes).error().in(place);
    return strings_[key] = builder_->text(*std::move(bytes));
  }

  Node array(const Conjunction& schemas) {
    const Counts counts = counts_of(schemas, "minItems", "maxItems");
    if (!counts.is_possible()) return nothing();
    std::size_t n_prefix = 0;
    for_each(schemas, "prefixItems",
             [&](const Json& list, auto&) { n_prefix = std::max(n_prefix, list.size()); });
    const auto item = [&](std::size_t i) {
      Conjunction found;
      for (const Json* schema : schemas) {
        const auto prefix = schema->find("prefixItems"), items = schema->find("items");
        const std::size_t n_own = prefix == schema->end() ? 0 : prefix->size();
        if (i < n_own) {
          found.push_back(&(*prefix)[i]);
        } else if (items != schema->end()) {
          found.push_back(&*items);
        }
      }
      return value(found);
    };
    // From the back: what may follow i items.
    const Node comma = text_.with_space_after(","), close = text_.with_space_before("]");
    const std::size_t n_positions = std::max<std::size_t>(n_prefix, 1);
    const auto n_least =
        static_cast<std::uint32_t>(counts.min > n_positions ? counts.min - n_positions : 0);
    Node rest = close;
    if (counts.max > n_positions) {
      const std::uint32_t n_most = counts.max == unlimited
                                       ? unlimited
                                       : counts.max - static_cast<std::uint32_t>(n_positions);
      const Node more = builder_->sequence({comma, item(n_positions)});
      rest = builder_->sequence({builder_->repeat(more, n_least, n_most), close});
    }
    for (std::size_t i = n_positions; i-- > 0;) {
      std::vector<Node> ways;
      if (i < counts.max) {
        ways.push_back(i == 0 ? builder_->sequence({item(0), rest})
                              : builder_->sequence({comma, item(i), rest}));
      }
      if (i >= counts.min) ways.push_back(i == 0 ? builder_->literal("]") : close);
      rest = builder_->choice(std::move(ways));
    }
    return builder_->sequence({text_.with_space_after("["), rest});
  }

  struct Property {
    std::string_view name;
    bool is_required = false;
  };

  // What a member of this name must satisfy.
  static Conjunction member(const Conjunction& schemas, std::string_view name) {
    Conjunction found;
    for (const Json* schema : schemas) {
      const auto properties = schema->find("properties");
      const auto others = schema->find("additionalProperties");
      if (properties != schema->end() && properties->contains(name)) {
        found.push_back(&*properties->find(name));
      } else if (others != schema->end()) {
        found.push_back(&*others);
      }
    }
    return found;
  }

  Result<Node> object(const Conjunction& schemas) {
    std::vector<Property> properties;
    std::map<std::string_view, std::size_t> indices;
    const auto add = [&](std::string_view name) -> Property& {
      const auto [entry, is_new] = indices.try_emplace(name, properties.size());
      if (is_new) properties.push_back({name});
      return properties[entry->second];
    };
    bool is_declared = false, is_open_said = false;
    for_each(schemas, "properties", [&](const Json& map, auto&) {
      is_declared = true;
      for (const auto& entry : map.items()) add(entry.key());
    });
    for_each(schemas, "required", [&](const Json& names, auto&) {
      for (const Json& name : names) add(name.get_ref<const std::string&>()).is_required = true;
    });
    if (properties.size() > max_properties) {
      return Error("the object at " + document_.place(*schemas[0]) + " has more than " +
                   std::to_string(max_properties) + " properties");
    }
    Conjunction others;
    for_each(schemas, "additionalProperties", [&](const Json& schema, auto&) {
      is_open_said = true;
      others.push_back(&schema);
    });

    // From the back: what may follow the first i properties, with a comma still to come or not.
    const Node comma = text_.with_space_after(","), close = text_.with_space_before("}");
    const Node open_end = builder_->literal("}");
    std::array<Node, 2> rest{open_end, close};  // by whether there was a member
    if (is_open_said || !is_declared) {
      std::vector<std::string_view> names;
      for (const Property& property : properties) names.push_back(property.name);
      const Node pair = builder_->sequence({text_.other_key(names), value(others)});
      const Node more =
          builder_->sequence({builder_->repeat(builder_->sequence({comma, pair}), 0), close});
      rest = {builder_->choice({builder_->sequence({pair, more}), open_end}), more};
    }
    for (std::size_t i = properties.size(); i-- > 0;) {
      const Property& property = properties[i];
      const Node key = text_.with_space_after(dumped(property.name) + ":");
      const Node pair = builder_->sequence({key, value(member(schemas, property.name)), rest[1]});
      std::vector<Node> first{pair}, later{builder_->sequence({comma, pair})};
      if (!property.is_required) {
        first.push_back(rest[0]);
        later.push_back(rest[1]);
      }
      rest = {builder_->choice(std::move(first)), builder_->choice(std::move(later))};
    }
    return builder_->sequence({text_.with_space_after("{"), rest[0]});
  }

  static bool is_tighter(const NumberBound& a, const NumberBound& b, bool is_min) {
    const auto number = [](const Decimal& d) {
      const long double magnitude = std::stold(d.whole + "." + d.fraction + "0");
      return d.is_negative ? -magnitude : magnitude;
    };
    const long double left = number(a.value), right = number(b.value);
    if (left == right) return a.is_exclusive;
    return is_min ? left > right : left < right;
  }

  GrammarBuilder* builder_;
  JsonText text_;
  SchemaDocument document_;
  SchemaValidator validator_;
  const Json* root_;
  std::map<Conjunction, std::uint32_t> rules_;
  std::vector<std::pair<const Conjunction*, std::uint32_t>> waiting_;
  std::map<std::string, Node> numbers_, strings_;
  std::size_t n_work_left_ = max_work;
};

}  // namespace

Result<GrammarBuilder::Node> add_json_schema(GrammarBuilder& builder, const Json& schema,
                                             bool must_be_object) {
  const Json object_schema = Json::object({{"type", "object"}});
  return SchemaCompiler(builder, schema).compile(must_be_object ? &object_schema : nullptr);
}

Result<std::shared_ptr<const Grammar>> compile_json_schema(const Json& schema) {
  GrammarBuilder builder;
  auto root = add_json_schema(builder, schema);
  if (!root) return std::move(root).error();
  return builder.finish(*root);
}

std::shared_ptr<const Grammar> any_json_object() {
  return *compile_json_schema(Json::object({{"type", "object"}}));
}

}  // namespace lowbit
