// SPDX-License-Identifier: Apache-2.0
// Schemas and documents of tests/golden/grammar/cases.json, judged there by Python's jsonschema:
// what is valid and in our order is accepted, what is not valid is refused, byte by byte.
#include "lowbit/grammar/json_schema.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "lowbit/grammar/configurations.h"
#include "lowbit/grammar/schema_document.h"
#include "lowbit/grammar/schema_validator.h"

namespace lowbit {
namespace {

bool accepts(Configurations& configurations, std::string_view text) {
  Configurations::Id id = configurations.start();
  for (const char c : text) {
    id = configurations.next(id, static_cast<unsigned char>(c));
    if (id == Configurations::dead) return false;
  }
  return configurations.is_accepting(id);
}

bool accepts(const std::string& schema, std::string_view text) {
  auto grammar = compile_json_schema(Json::parse(schema));
  EXPECT_TRUE(grammar) << schema << ": " << grammar.error().message();
  if (!grammar) return false;
  Configurations configurations(*grammar);
  return accepts(configurations, text);
}

std::string refusal(const std::string& schema) {
  auto grammar = compile_json_schema(Json::parse(schema));
  return grammar ? "compiled" : grammar.error().message();
}

Json golden_cases() {
  std::ifstream file(std::string(LOWBIT_SOURCE_DIR) + "/tests/golden/grammar/cases.json");
  EXPECT_TRUE(file);
  return Json::parse(file);
}

TEST(JsonSchema, agrees_with_jsonschema) {
  const Json cases = golden_cases();
  EXPECT_GE(cases.size(), 300u);
  std::size_t n_documents = 0;
  for (const Json& item : cases) {
    const Json& schema = item["schema"];
    auto grammar = compile_json_schema(schema);
    ASSERT_TRUE(grammar) << schema << ": " << grammar.error().message();
    Configurations configurations(*grammar);
    SchemaValidator validator(schema);
    for (const Json& text : item["valid"]) {
      const auto& document = text.get_ref<const std::string&>();
      EXPECT_TRUE(accepts(configurations, document)) << schema << " refuses " << document;
      EXPECT_TRUE(validator.validates(Json::parse(document))) << schema << " and " << document;
      ++n_documents;
    }
    for (const Json& text : item["narrower"]) {
      const auto& document = text.get_ref<const std::string&>();
      EXPECT_FALSE(accepts(configurations, document)) << schema << " accepts " << document;
      ++n_documents;
    }
    for (const Json& text : item["invalid"]) {
      const auto& document = text.get_ref<const std::string&>();
      EXPECT_FALSE(accepts(configurations, document)) << schema << " accepts " << document;
      // The text may be no JSON at all.
      const Json value = Json::parse(document, nullptr, false);
      EXPECT_TRUE(value.is_discarded() || !validator.validates(value)) << schema << " " << document;
      ++n_documents;
    }
  }
  EXPECT_GE(n_documents, 3000u);
}

TEST(JsonSchema, holds_text_to_json) {
  const std::string any = "{}", text = R"({"type": "string"})";
  EXPECT_TRUE(accepts(any, "{\"a\": [1, -0.5e+10, \"\\u00e9\\ud83d\\ude00\"], \"\":{}}"));
  EXPECT_TRUE(accepts(any, "{\n  \"a\": [\n    1,\n    2\n  ]\n}"));
  EXPECT_FALSE(accepts(any, "{\"a\":   1}"));
  EXPECT_FALSE(accepts(any, "{\n\n\"a\": 1}"));
  EXPECT_FALSE(accepts(any, " 1"));
  EXPECT_FALSE(accepts(any, "1 "));
  EXPECT_FALSE(accepts(any, "01"));
  EXPECT_FALSE(accepts(any, "[1,]"));
  EXPECT_FALSE(accepts(any, "nul"));
  EXPECT_TRUE(accepts(text, "\"\xF0\x9F\x98\x80 \\\\ \\/ \\n \x7F\""));
  EXPECT_FALSE(accepts(text, "\"\n\""));
  EXPECT_FALSE(accepts(text, "\"\\x\""));
  EXPECT_FALSE(accepts(text, "\"\\ud83d\""));           // a lone surrogate
  EXPECT_FALSE(accepts(text, "\"\\ude00\\ud83d\""));    // swapped ones
  EXPECT_FALSE(accepts(text, "\"\xC0\xAF\""));          // overlong
  EXPECT_FALSE(accepts(text, "\"\xED\xA0\x80\""));      // a surrogate as UTF-8
  EXPECT_FALSE(accepts(text, "\"\xF4\x90\x80\x80\""));  // beyond Unicode
  EXPECT_FALSE(accepts(text, "\"\xC3\""));
}

TEST(JsonSchema, counts_code_points) {
  const std::string schema = R"({"type": "string", "minLength": 2, "maxLength": 3})";
  EXPECT_FALSE(accepts(schema, "\"\xF0\x9F\x98\x80\""));
  EXPECT_TRUE(accepts(schema, "\"\xF0\x9F\x98\x80\xC3\xA9\""));
  EXPECT_TRUE(accepts(schema, "\"\\ud83d\\ude00a\\n\""));
  EXPECT_FALSE(accepts(schema, "\"\\ud83d\\ude00abc\""));
  EXPECT_TRUE(accepts(R"({"type": "string", "maxLength": 1000000000})", "\"abc\""));
}

TEST(JsonSchema, bounds_depth) {
  const std::string tree = R"({"$ref": "#/$defs/t", "$defs": {"t": {"type": "object",
    "properties": {"c": {"type": "array", "items": {"$ref": "#/$defs/t"}}}}}})";
  const auto nested = [](int depth) {
    std::string text = "{}";
    for (int i = 0; i < depth; ++i) text = "{\"c\":[" + text + "]}";
    return text;
  };
  EXPECT_TRUE(accepts(tree, nested(20)));
  EXPECT_FALSE(accepts(tree, nested(40)));
  EXPECT_TRUE(accepts("{}", std::string(60, '[') + std::string(60, ']')));
  EXPECT_FALSE(accepts("{}", std::string(70, '[') + std::string(70, ']')));
}

TEST(JsonSchema, refuses_by_name_and_place) {
  EXPECT_EQ(refusal(R"({"type": "object", "properties": {"a/b": {"minProperties": 1}}})"),
            "the keyword \"minProperties\" at #/properties/a~1b is not supported");
  EXPECT_EQ(refusal(R"({"anyOf": [{"type": "null"}, {"not": {}}]})"),
            "the keyword \"not\" at #/anyOf/1 is not supported");
  EXPECT_EQ(refusal(R"({"$ref": "#/$defs/a", "$defs": {"a": {"if": {}}}})"),
            "the keyword \"if\" at #/$defs/a is not supported");
  EXPECT_EQ(refusal(R"({"items": {"minItems": -1}})"),
            "\"minItems\" at #/items must be a whole number that is not negative");
  EXPECT_EQ(refusal(R"({"type": "strin"})").substr(0, 34), "\"type\" at # must be null, boolean,");
  EXPECT_EQ(
      refusal(R"({"type": "number", "multipleOf": 0.1})"),
      "\"multipleOf\" at # must be a whole number of at most 10000: no other can be held while "
      "generating");
  EXPECT_EQ(refusal(R"({"$ref": "http://x/y"})"),
            "#: the $ref \"http://x/y\" leads out of the schema; only \"#/...\" is supported");
  EXPECT_EQ(refusal(R"({"$ref": "#/$defs/none"})"), "#: the $ref \"#/$defs/none\" leads nowhere");
  EXPECT_EQ(refusal(R"({"type": "array", "uniqueItems": true})"),
            "\"uniqueItems\" at # is not supported unless it is false");
  EXPECT_EQ(refusal("3"), "a schema must be an object or a boolean");
  EXPECT_NE(refusal(R"({"format": "iri"})").find("names a format that is not supported"),
            std::string::npos);
}

TEST(JsonSchema, refuses_what_nothing_satisfies) {
  const std::string none = "no document of at most 64 levels can satisfy the schema";
  EXPECT_EQ(refusal("false"), none);
  EXPECT_EQ(refusal(R"({"type": "integer", "minimum": 2, "maximum": 1})"), none);
  EXPECT_EQ(refusal(R"({"type": "string", "enum": [1, 2]})"), none);
  EXPECT_EQ(refusal(R"({"properties": {"a": {"$ref": "#"}}, "required": ["a"]})"), none);
  EXPECT_EQ(refusal(R"({"required": ["a"], "additionalProperties": false})"), none);
  EXPECT_EQ(refusal(R"({"type": "string", "pattern": "^a$", "minLength": 2})"), none);
}

TEST(JsonSchema, refuses_hostile_schemas_quickly) {
  EXPECT_EQ(refusal(R"({"$ref": "#"})"),
            "the schema at # refers to itself with nothing in between");
  EXPECT_EQ(refusal(R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})"),
            "the schema at # refers to itself with nothing in between");
  const auto refuses = [](const std::string& schema, const std::string& part) {
    const std::string said = refusal(schema);
    EXPECT_NE(said.find(part), std::string::npos) << schema.substr(0, 200) << ": " << said;
  };
  refuses(R"({"type": "string", "pattern": "(a|b)*a(a|b){20}"})", "too long to build");
  refuses(R"({"type": "string", "pattern": "((a{1,100}){1,100}){1,100}"})", "too large");
  refuses(R"({"type": "string", "pattern": "(x+x+)+y(.{0,900}z){0,20}"})", "make it simpler");
  std::string deep = "{}";
  for (int i = 0; i < 200; ++i) deep = R"({"items": )" + deep + "}";
  refuses(deep, "nested deeper");
  // 2^20 alternatives
  std::string wide = R"({"allOf": [)";
  for (int i = 0; i < 20; ++i) wide += R"({"anyOf": [{"title": "a"}, {"title": "b"}]},)";
  wide.back() = ']';
  refuses(wide + "}", "more than 256 alternatives");
  std::string many = R"({"properties": {"p0": {})";
  for (int i = 1; i < 300; ++i) many += ",\"p" + std::to_string(i) + "\": {}";
  refuses(many + "}}", "more than 256 properties");
  refuses(R"({"type": "string", "pattern": "a", "maxLength": 100000000})", "lengths of");
  // Two readings of every bracket: the texts have 2^n of them, the sets of threads stay bounded.
  const std::string ambiguous =
      R"({"anyOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    {"type": "array", "items": {"$ref": "#"}, "maxItems": 99}]})";
  EXPECT_TRUE(accepts(ambiguous, std::string(50, '[') + "[]" + std::string(50, ']')));
}

TEST(JsonSchema, reads_references_with_escapes) {
  EXPECT_TRUE(accepts(R"({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"const": 1}}})", "1"));
  EXPECT_TRUE(accepts(R"({"prefixItems": [{"const": 1}, {"$ref": "#/prefixItems/0"}]})", "[1, 1]"));
}

TEST(JsonSchema, json_object_is_any_object) {
  Configurations configurations(any_json_object());
  EXPECT_TRUE(accepts(configurations, R"({"a": [1, {"b": null}], "a\n": "x"})"));
  EXPECT_TRUE(accepts(configurations, "{}"));
  EXPECT_FALSE(accepts(configurations, "[]"));
}

}  // namespace
}  // namespace lowbit
