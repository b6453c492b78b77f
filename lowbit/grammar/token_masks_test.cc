// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/token_masks.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "lowbit/grammar/json_schema.h"
#include "lowbit/grammar/schema_document.h"
#include "lowbit/grammar/schema_validator.h"
#include "lowbit/grammar/synthetic_vocabulary.h"
#include "lowbit/grammar/tool_calls.h"

namespace lowbit {
namespace {

using Mask = std::vector<std::uint64_t>;

std::shared_ptr<const TokenVocabulary> vocabulary_of(std::vector<std::string> tokens) {
  const auto end = static_cast<TokenId>(tokens.size() - 1);
  auto vocabulary = TokenVocabulary::create(std::move(tokens), {end});
  EXPECT_TRUE(vocabulary) << vocabulary.error().message();
  return *vocabulary;
}

std::shared_ptr<const Grammar> grammar_of(const Json& schema) {
  auto grammar = compile_json_schema(schema);
  EXPECT_TRUE(grammar) << schema << ": " << grammar.error().message();
  return *grammar;
}

bool has(const Mask& mask, TokenId id) {
  const auto bit = static_cast<std::size_t>(id);
  return (mask[bit / 64] >> (bit % 64) & 1) != 0;
}

std::vector<TokenId> allowed(const Mask& mask, const TokenVocabulary& vocabulary) {
  std::vector<TokenId> ids;
  for (TokenId id = 0; static_cast<std::size_t>(id) < vocabulary.n_tokens(); ++id) {
    if (has(mask, id)) ids.push_back(id);
  }
  return ids;
}

Json golden_cases() {
  std::ifstream file(std::string(LOWBIT_SOURCE_DIR) + "/tests/golden/grammar/cases.json");
  EXPECT_TRUE(file);
  return Json::parse(file);
}

// What chooses: any allowed token, as random logits would; after a while mostly what closes, so
// that documents end. Returns the text, or nothing if it does not end.
std::optional<std::string> walk(TokenConstraint& constraint, const TokenVocabulary& vocabulary,
                                std::mt19937& random) {
  constexpr int n_free = 60, n_most = 4000;
  Mask mask(vocabulary.n_mask_words());
  std::string text;
  for (int i = 0; i < n_most; ++i) {
    constraint.fill_mask(mask);
    const std::vector<TokenId> ids = allowed(mask, vocabulary);
    if (ids.empty()) return std::nullopt;
    TokenId chosen = ids[random() % ids.size()];
    if (i >= n_free) {
      // A pattern may want a certain character before it lets go.
      const auto wanted = random() % 2 == 0 ? 'a' + random() % 26 : ' ' + random() % 95;
      if (has(mask, static_cast<TokenId>(wanted))) chosen = static_cast<TokenId>(wanted);
    }
    if (i >= n_free && random() % 4 != 0) {
      for (const TokenId id : {vocabulary.end_ids()[0], TokenId{'"'}, TokenId{'}'}, TokenId{']'}}) {
        if (!has(mask, id)) continue;
        chosen = id;
        break;
      }
    }
    EXPECT_TRUE(!constraint.is_complete() || vocabulary.is_end(chosen)) << text;
    constraint.accept(chosen);
    if (vocabulary.is_end(chosen)) {
      EXPECT_TRUE(constraint.is_complete());
      return text;
    }
    text += vocabulary.bytes(chosen);
  }
  return std::nullopt;
}

TEST(TokenMasks, random_walks_end_in_valid_documents) {
  const Json cases = golden_cases();
  for (const auto& [n_tokens, step] :
       {std::pair<std::size_t, std::size_t>{300, 1}, {2000, 2}, {49'152, 20}, {151'936, 40}}) {
    const auto vocabulary = vocabulary_of(synthetic_vocabulary(n_tokens));
    std::mt19937 random(static_cast<std::uint32_t>(n_tokens));
    int n_walks = 0;
    for (std::size_t i = 0; i < cases.size(); i += step) {
      const Json& schema = cases[i]["schema"];
      const auto masks = std::make_shared<TokenMasks>(grammar_of(schema), vocabulary);
      SchemaValidator validator(schema);
      for (int repeat = 0; repeat < 2; ++repeat, ++n_walks) {
        const auto constraint = constrain(masks);
        const auto text = walk(*constraint, *vocabulary, random);
        ASSERT_TRUE(text) << schema << " does not end with " << n_tokens << " tokens";
        const Json value = Json::parse(*text, nullptr, false);
        ASSERT_FALSE(value.is_discarded()) << schema << ": " << *text;
        EXPECT_TRUE(validator.validates(value)) << schema << ": " << *text;
      }
    }
    EXPECT_GE(n_walks, 16);
  }
}

// The same masks as asking the grammar for every token by itself.
TEST(TokenMasks, equal_those_found_token_by_token) {
  const auto vocabulary = vocabulary_of(synthetic_vocabulary(3000));
  const Json cases = golden_cases();
  std::mt19937 random(3);
  Mask mask(vocabulary->n_mask_words());
  for (std::size_t i = 0; i < cases.size(); i += 9) {
    const auto grammar = grammar_of(cases[i]["schema"]);
    Configurations configurations(grammar);
    Configurations::Id place = configurations.start();
    const auto constraint = constrain(grammar, vocabulary);
    for (int step = 0; step < 12; ++step) {
      constraint->fill_mask(mask);
      for (TokenId id = 0; static_cast<std::size_t>(id) < vocabulary->n_tokens(); ++id) {
        const std::string_view bytes = vocabulary->bytes(id);
        Configurations::Id after = place;
        for (const char c : bytes) {
          if (after == Configurations::dead) break;
          after = configurations.next(after, static_cast<unsigned char>(c));
        }
        const bool may_follow =
            bytes.empty() ? configurations.is_accepting(place) : after != Configurations::dead;
        ASSERT_EQ(has(mask, id), may_follow) << cases[i]["schema"] << " token " << bytes;
      }
      const std::vector<TokenId> ids = allowed(mask, *vocabulary);
      const TokenId chosen = ids[random() % ids.size()];
      if (vocabulary->is_end(chosen)) break;
      for (const char c : vocabulary->bytes(chosen)) {
        place = configurations.next(place, static_cast<unsigned char>(c));
      }
      constraint->accept(chosen);
    }
  }
}

// Forgetting what was remembered, in the middle of sequences that share it, changes nothing.
TEST(TokenMasks, survive_forgetting) {
  const auto vocabulary = vocabulary_of(synthetic_vocabulary(1000));
  const auto grammar = grammar_of(Json::parse(R"({"type": "array", "items": {"type": "object",
      "properties": {"a": {"type": "string", "maxLength": 30}, "b": {}}}})"));
  const auto forgetful = std::make_shared<TokenMasks>(grammar, vocabulary, 20'000);
  const auto keeping = std::make_shared<TokenMasks>(grammar, vocabulary);
  std::vector<std::unique_ptr<TokenConstraint>> left, right;
  for (int i = 0; i < 4; ++i) {
    left.push_back(constrain(forgetful));
    right.push_back(constrain(keeping));
  }
  std::mt19937 random(5);
  Mask a(vocabulary->n_mask_words()), b(vocabulary->n_mask_words());
  for (int step = 0; step < 200; ++step) {
    const std::size_t i = random() % left.size();
    left[i]->fill_mask(a);
    right[i]->fill_mask(b);
    ASSERT_EQ(a, b) << "step " << step;
    const std::vector<TokenId> ids = allowed(a, *vocabulary);
    const TokenId chosen = ids[random() % ids.size()];
    left[i]->accept(chosen);
    right[i]->accept(chosen);
    ASSERT_EQ(left[i]->is_complete(), right[i]->is_complete());
  }
}

TEST(TokenMasks, end_only_where_a_document_may) {
  const auto vocabulary = vocabulary_of(synthetic_vocabulary(400));
  const TokenId end = vocabulary->end_ids()[0];
  Mask mask(vocabulary->n_mask_words());
  const auto number = constrain(grammar_of(Json::parse(R"({"type": "integer"})")), vocabulary);
  number->fill_mask(mask);
  EXPECT_FALSE(has(mask, end));
  number->accept('4');
  number->fill_mask(mask);
  EXPECT_TRUE(has(mask, end));
  EXPECT_TRUE(has(mask, '2'));
  EXPECT_FALSE(number->is_complete());
  const auto constant = constrain(grammar_of(Json::parse(R"({"const": 7})")), vocabulary);
  constant->accept('7');
  EXPECT_TRUE(constant->is_complete());
  constant->fill_mask(mask);
  EXPECT_EQ(allowed(mask, *vocabulary), std::vector<TokenId>{end});
  // A mask of more words than the vocabulary has tokens: a padded model.
  Mask padded(vocabulary->n_mask_words() + 2, ~std::uint64_t{0});
  constant->fill_mask(padded);
  EXPECT_EQ(padded.back(), 0u);
}

TEST(TokenMasks, follow_tokens_that_split_a_character) {
  const auto vocabulary = vocabulary_of(synthetic_vocabulary(400));
  const auto constraint =
      constrain(grammar_of(Json::parse(R"({"const": "\ud83d\ude00"})")), vocabulary);
  Mask mask(vocabulary->n_mask_words());
  for (const int byte : {0x22, 0xF0, 0x9F, 0x98, 0x80, 0x22}) {
    constraint->fill_mask(mask);
    EXPECT_TRUE(has(mask, byte)) << byte;
    constraint->accept(byte);
  }
  EXPECT_TRUE(constraint->is_complete());
}

/// Of a text that is nothing but calls, with white space between them.
std::vector<ToolCall> calls_of(std::string_view text) {
  std::vector<ToolCall> calls;
  while (text.find_first_not_of(" \t\r\n") != std::string_view::npos) {
    const std::size_t open = text.find(tool_call_open), close = text.find(tool_call_close);
    EXPECT_LE(text.find_first_not_of(" \t\r\n"), open) << text;
    if (open == std::string_view::npos || close == std::string_view::npos) return {};
    const std::size_t json = open + tool_call_open.size();
    auto call = parse_tool_call(text.substr(json, close - json));
    if (!call) return {};
    calls.push_back(*std::move(call));
    text.remove_prefix(close + tool_call_close.size());
  }
  return calls;
}

TEST(TokenMasks, hold_tool_calls) {
  const auto vocabulary = vocabulary_of(synthetic_vocabulary(2000));
  const Json schema = Json::parse(R"({"type": "object", "properties": {"n": {"type": "integer",
      "minimum": 1, "maximum": 9}, "s": {"type": "string", "maxLength": 5}}, "required": ["n"]})");
  const ToolDefinition tool{"f", &schema};
  auto grammar = compile_tool_calls({&tool, 1}, false, true);
  ASSERT_TRUE(grammar);
  const auto masks = std::make_shared<TokenMasks>(*grammar, vocabulary);
  std::mt19937 random(9);
  SchemaValidator validator(schema);
  for (int i = 0; i < 50; ++i) {
    const auto constraint = constrain(masks);
    const auto text = walk(*constraint, *vocabulary, random);
    ASSERT_TRUE(text);
    const std::vector<ToolCall> calls = calls_of(*text);
    ASSERT_GE(calls.size(), 1u) << *text;
    for (const ToolCall& call : calls) {
      EXPECT_EQ(call.name, "f");
      EXPECT_TRUE(validator.validates(Json::parse(call.arguments))) << call.arguments;
    }
  }
}

TEST(TokenVocabulary, refuses_what_cannot_write_json) {
  std::vector<std::string> tokens = synthetic_vocabulary(300);
  const auto end = static_cast<TokenId>(tokens.size() - 1);
  auto outside = TokenVocabulary::create(tokens, {end + 1});
  EXPECT_EQ(outside.error().message(), "an end token is outside the vocabulary of 300 tokens");
  tokens['"'].clear();
  auto without_quote = TokenVocabulary::create(tokens, {end});
  EXPECT_EQ(without_quote.error().message(),
            "the vocabulary has no token for '\"' alone; JSON output needs one for every printable "
            "ASCII character");
}

TEST(TokenVocabulary, sorts_plain_text_apart) {
  std::vector<std::string> tokens = synthetic_vocabulary(300);
  tokens[256] = "caf\xC3\xA9";
  tokens[257] = "caf\xC3";
  tokens[258] = "a\"b";
  const auto vocabulary = vocabulary_of(std::move(tokens));
  const Mask three(vocabulary->plain_of(3).begin(), vocabulary->plain_of(3).end());
  const Mask four(vocabulary->plain_of(4).begin(), vocabulary->plain_of(4).end());
  EXPECT_FALSE(has(three, 256));
  EXPECT_TRUE(has(four, 256));
  EXPECT_FALSE(has(four, 257));
  EXPECT_FALSE(has(four, 258));
  // Without a token for each continuation byte, none may end inside a character.
  std::vector<std::string> fewer = synthetic_vocabulary(300);
  fewer[0x80].clear();
  fewer[257] = "caf\xC3";
  const auto strict = vocabulary_of(std::move(fewer));
  const auto constraint = constrain(any_json_object(), strict);
  Mask mask(strict->n_mask_words());
  constraint->accept('{');
  constraint->accept('"');
  constraint->fill_mask(mask);
  EXPECT_FALSE(has(mask, 257));
  EXPECT_FALSE(has(mask, 0xC3));
}

}  // namespace
}  // namespace lowbit
