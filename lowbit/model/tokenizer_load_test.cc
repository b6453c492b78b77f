// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/tokenizer_load.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "lowbit/io/metadata.h"

namespace lowbit {
namespace {

using nlohmann::json;
using Ids = std::vector<TokenId>;

// Tokens 0 to 4: a b ab <|im_end|> <tool>
json small_json() {
  return json::parse(R"({
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "added_tokens": [{"id": 3, "content": "<|im_end|>", "special": true},
                     {"id": 4, "content": "<tool>", "special": false}]})");
}

Metadata small_metadata() {
  Metadata metadata;
  metadata.set("tokenizer.ggml.model", Value::string("gpt2"));
  metadata.set("tokenizer.ggml.pre", Value::string("smollm"));
  metadata.set("tokenizer.ggml.tokens", Value::strings({"a", "b", "ab", "<|im_end|>", "<tool>"}));
  metadata.set("tokenizer.ggml.token_type", Value::integers({1, 1, 1, 3, 4}));
  metadata.set("tokenizer.ggml.merges", Value::strings({"a b"}));
  metadata.set("tokenizer.ggml.eos_token_id", Value::integer(1));
  return metadata;
}

TokenizerData data_of(Result<TokenizerData> data) {
  EXPECT_TRUE(data) << data.error().message();
  return data ? *std::move(data) : TokenizerData();
}

void expect_error(const Result<TokenizerData>& data, std::string_view words) {
  ASSERT_FALSE(data) << "expected an error about " << words;
  EXPECT_NE(data.error().message().find(words), std::string::npos) << data.error().message();
}

TEST(TokenizerFromJson, ReadsTokensKindsAndMerges) {
  json tokenizer = small_json();
  const TokenizerData data = data_of(tokenizer_from_json(tokenizer, nullptr, nullptr));
  EXPECT_EQ(data.tokens, (std::vector<std::string>{"a", "b", "ab", "<|im_end|>", "<tool>"}));
  EXPECT_EQ(data.kinds[0], TokenKind::normal);
  EXPECT_EQ(data.kinds[3], TokenKind::control);
  EXPECT_EQ(data.kinds[4], TokenKind::user_defined);
  EXPECT_EQ(data.end_ids, Ids{3});  // by its name
  EXPECT_EQ(data.eos, std::nullopt);
  EXPECT_FALSE(data.add_bos || data.ignore_merges || data.nfc);

  tokenizer["model"]["merges"] = json::parse(R"([["a", "b"]])");  // the newer form
  EXPECT_EQ(data_of(tokenizer_from_json(tokenizer, nullptr, nullptr)).merges, data.merges);
}

TEST(TokenizerFromJson, LeavesGapsUnused) {
  json tokenizer = small_json();
  tokenizer["added_tokens"][1]["id"] = 9;
  const TokenizerData data = data_of(tokenizer_from_json(tokenizer, nullptr, nullptr));
  EXPECT_EQ(data.tokens.size(), 10u);
  EXPECT_EQ(data.kinds[8], TokenKind::unused);
  EXPECT_EQ(data.tokens[9], "<tool>");
}

TEST(TokenizerFromJson, TakesEndTokensFromTheConfigs) {
  const json tokenizer = small_json();
  const json config = {{"eos_token", {{"content", "b"}}}, {"pad_token", "<tool>"}};
  const json generation = {{"eos_token_id", {0, 2, 77}}, {"bos_token_id", 1}};
  const TokenizerData data = data_of(tokenizer_from_json(tokenizer, &config, &generation));
  EXPECT_EQ(data.eos, 1);
  EXPECT_EQ(data.pad, 4);
  EXPECT_EQ(data.bos, 1);
  EXPECT_EQ(data.end_ids, (Ids{0, 2, 3}));  // 77 is outside and can never be generated
  const json one_end = {{"eos_token_id", 2}};
  EXPECT_EQ(data_of(tokenizer_from_json(tokenizer, nullptr, &one_end)).eos, 2);
}

TEST(TokenizerFromJson, FindsBosInTheTemplateUnlessTheConfigSaysNo) {
  json tokenizer = small_json();
  tokenizer["post_processor"] = json::parse(R"({"type": "Sequence", "processors": [
    {"type": "ByteLevel"},
    {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<tool>", "type_id": 0}},
                                              {"Sequence": {"id": "A", "type_id": 0}}]}]})");
  const TokenizerData data = data_of(tokenizer_from_json(tokenizer, nullptr, nullptr));
  EXPECT_EQ(data.bos, 4);
  EXPECT_TRUE(data.add_bos);
  const json config = {{"add_bos_token", false}};
  EXPECT_FALSE(data_of(tokenizer_from_json(tokenizer, &config, nullptr)).add_bos);
  const json named = {{"add_bos_token", true}, {"bos_token", "<tool>"}};
  EXPECT_TRUE(data_of(tokenizer_from_json(small_json(), &named, nullptr)).add_bos);
}

TEST(TokenizerFromJson, RefusesWhatItCannotDo) {
  const auto with = [](const char* path, json value) {
    json tokenizer = small_json();
    tokenizer[json::json_pointer(path)] = std::move(value);
    return tokenizer_from_json(tokenizer, nullptr, nullptr);
  };
  expect_error(with("/model/type", "Unigram"), "\"Unigram\" is not supported");
  expect_error(with("/model/byte_fallback", true), "SentencePiece");
  expect_error(with("/model/end_of_word_suffix", "</w>"), "end_of_word_suffix");
  expect_error(with("/model/vocab", json::array()), "vocab");
  expect_error(with("/model/vocab/x", -1), "id -1");
  expect_error(with("/model/vocab/x", 2000000000), "id 2000000000");
  expect_error(with("/model/vocab/x", "one"), "id \"one\"");
  expect_error(with("/model/merges", json::parse(R"(["ab"])")), "merge 0");
  expect_error(with("/model/merges", json::parse(R"([["a", "b"], ["a", 3]])")), "merge 1");
  expect_error(with("/added_tokens/0/content", 3), "added_tokens");
  expect_error(with("/normalizer", {{"type", "Lowercase"}}), "\"Lowercase\"");
  expect_error(with("/pre_tokenizer", nullptr), "byte-level");
  expect_error(with("/pre_tokenizer", {{"type", "Digits"}}), "byte-level");
  expect_error(with("/pre_tokenizer", {{"type", "Metaspace"}}), "\"Metaspace\"");
  expect_error(with("/pre_tokenizer", {{"type", "Split"}, {"behavior", "Isolated"}}), "pattern");
  expect_error(with("/pre_tokenizer", {{"type", "Split"}, {"behavior", "Shredded"}}), "Shredded");
  expect_error(with("/post_processor", {{"type", "RobertaProcessing"}}), "RobertaProcessing");
  for (const json& nonsense : {json(), json(7), json("x"), json::array(), json::object()}) {
    EXPECT_FALSE(tokenizer_from_json(nonsense, nullptr, nullptr));
    EXPECT_TRUE(tokenizer_from_json(small_json(), &nonsense, &nonsense));
  }
}

TEST(TokenizerFromJson, DamagedFilesNeverCrash) {
  std::ifstream file(std::string(LOWBIT_SOURCE_DIR) + "/tests/golden/tokenizer/qwen2.json");
  const std::string whole = json::parse(file)["tokenizer"].dump();
  constexpr std::string_view pieces[] = {"null", "-1",         "[]",    "{}",
                                         "\"\"", "1e99",       "\"Ġ\"", "true",
                                         "\\p",  "2147483648", "(a+)+", "\"Split\""};
  std::mt19937 random(13);
  std::size_t n_read = 0, n_made = 0;
  for (int n = 0; n < 2000; ++n) {
    std::string text = whole;
    // Half of the damage goes to the first part, where the structure is; the rest is vocabulary.
    const std::size_t reach = n % 2 == 0 ? text.size() : 3000;
    const std::size_t at = random() % reach, n_bytes = 1 + random() % 12;
    text.replace(at, n_bytes, pieces[random() % std::size(pieces)]);
    const json damaged = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (damaged.is_discarded()) continue;
    ++n_read;
    auto data = tokenizer_from_json(damaged, &damaged, &damaged);
    if (!data) continue;
    auto tokenizer = Tokenizer::create(*std::move(data));
    if (!tokenizer) continue;
    ++n_made;
    const auto ids = tokenizer->encode("Hello <|im_end|> wörld 123\n\xff", true, true);
    tokenizer->decode(ids);
  }
  EXPECT_GT(n_read, 100u);
  EXPECT_GT(n_made, 20u);
}

TEST(TokenizerFromGguf, ReadsWhatTheKeysSay) {
  Metadata metadata = small_metadata();
  metadata.set("tokenizer.ggml.padding_token_id", Value::integer(0xffffffff));
  metadata.set("tokenizer.ggml.eot_token_id", Value::integer(4));
  const TokenizerData data = data_of(tokenizer_from_gguf(metadata));
  EXPECT_EQ(data.pre, "smollm");
  EXPECT_EQ(data.tokens[2], "ab");
  EXPECT_EQ(data.kinds[3], TokenKind::control);
  EXPECT_EQ(data.merges, (decltype(data.merges){{"a", "b"}}));
  EXPECT_EQ(data.eos, 1);
  EXPECT_EQ(data.pad, std::nullopt);  // outside the vocabulary
  EXPECT_EQ(data.end_ids, (Ids{4, 3}));
  EXPECT_FALSE(data.add_bos);
}

TEST(TokenizerFromGguf, TakesFlagsFromTheNameOfThePretokenizer) {
  Metadata metadata = small_metadata();
  metadata.set("tokenizer.ggml.pre", Value::string("llama-bpe"));
  EXPECT_TRUE(data_of(tokenizer_from_gguf(metadata)).ignore_merges);
  EXPECT_FALSE(data_of(tokenizer_from_gguf(metadata)).add_bos);  // there is none
  metadata.set("tokenizer.ggml.bos_token_id", Value::integer(3));
  EXPECT_TRUE(data_of(tokenizer_from_gguf(metadata)).add_bos);
  metadata.set("tokenizer.ggml.add_bos_token", Value::boolean(false));
  EXPECT_FALSE(data_of(tokenizer_from_gguf(metadata)).add_bos);
  metadata.erase("tokenizer.ggml.pre");
  EXPECT_EQ(data_of(tokenizer_from_gguf(metadata)).pre, "default");
}

TEST(TokenizerFromGguf, RefusesWhatItCannotDo) {
  const auto with = [](const char* key, Value value) {
    Metadata metadata = small_metadata();
    metadata.set(key, std::move(value));
    return tokenizer_from_gguf(metadata);
  };
  expect_error(tokenizer_from_gguf(Metadata()), "tokenizer.ggml.model");
  expect_error(with("tokenizer.ggml.model", Value::string("llama")), "\"llama\"");
  expect_error(with("tokenizer.ggml.model", Value::integer(1)), "tokenizer.ggml.model");
  expect_error(with("tokenizer.ggml.pre", Value::string("nonsense")), "\"nonsense\"");
  expect_error(with("tokenizer.ggml.tokens", Value::integers({1})), "tokenizer.ggml.tokens");
  expect_error(with("tokenizer.ggml.token_type", Value::integers({1, 1})), "2 entries for 5");
  expect_error(with("tokenizer.ggml.merges", Value::strings({"ab"})), "merges[0]");
  expect_error(with("tokenizer.ggml.eos_token_id", Value::string("x")), "eos_token_id");
  expect_error(with("tokenizer.ggml.add_bos_token", Value::string("x")), "add_bos_token");
}

TEST(TokenizerFromGguf, UnknownTokenTypesAreNeverProduced) {
  Metadata metadata = small_metadata();
  metadata.set("tokenizer.ggml.token_type", Value::integers({1, 1, 99, -3, 0}));
  const TokenizerData data = data_of(tokenizer_from_gguf(metadata));
  EXPECT_EQ(data.kinds[2], TokenKind::unused);
  auto tokenizer = Tokenizer::create(data);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message();
  EXPECT_EQ(tokenizer->encode("ab", false, true), (Ids{0, 1}));
}

TEST(FindEndTokens, MakesThemControl) {
  TokenizerData data;
  data.tokens = {"a", "<|im_end|>", "<|endoftext|>", "<|im_start|>"};
  find_end_tokens(data);
  EXPECT_EQ(data.end_ids, (Ids{1, 2}));
  EXPECT_EQ(data.kinds[1], TokenKind::control);
  EXPECT_EQ(data.kinds[3], TokenKind::normal);
}

}  // namespace
}  // namespace lowbit
