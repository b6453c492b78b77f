// SPDX-License-Identifier: Apache-2.0
// There and back: what was written reads to the same ids.
#include "lowbit/model/tokenizer_export.h"

#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>

#include "lowbit/model/tokenizer_load.h"

namespace lowbit {
namespace {

using nlohmann::json;
using Ids = std::vector<TokenId>;

std::map<std::string, json> goldens() {
  std::map<std::string, json> found;
  const auto folder = std::filesystem::path(LOWBIT_SOURCE_DIR) / "tests/golden/tokenizer";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    found[entry.path().stem()] = json::parse(std::ifstream(entry.path()));
  }
  return found;
}

void expect_golden_ids(Result<TokenizerData> data, const json& cases) {
  ASSERT_TRUE(data) << data.error().message();
  auto tokenizer = Tokenizer::create(*std::move(data));
  ASSERT_TRUE(tokenizer) << tokenizer.error().message();
  for (const json& item : cases) {
    const auto text = item["text"].get<std::string>();
    EXPECT_EQ(tokenizer->encode(text, true, true), item["ids"].get<Ids>()) << item["text"];
    EXPECT_EQ(tokenizer->encode(text, true, false), item["ids_plain"].get<Ids>()) << item["text"];
  }
}

TEST(TokenizerExport, JsonComesBackToTheSameIds) {
  const auto files = goldens();
  ASSERT_GE(files.size(), 15u);
  for (const auto& [name, golden] : files) {
    SCOPED_TRACE(name);
    const auto data = tokenizer_from_json(golden["tokenizer"], nullptr, nullptr);
    ASSERT_TRUE(data);
    const json config = json::parse(tokenizer_config_to_json(*data, "").dump());
    const json generation = json::parse(generation_config_to_json(*data).dump());
    const auto again = json::parse(tokenizer_to_json(*data).dump());
    expect_golden_ids(tokenizer_from_json(again, &config, &generation), golden["cases"]);
  }
}

TEST(TokenizerExport, MetadataComesBackToTheSameIds) {
  const auto files = goldens();
  for (const char* name : {"gpt2", "llama3"}) {  // those without NFC and flags, which GGUF lacks
    SCOPED_TRACE(name);
    const json& golden = files.at(name);
    const auto data = tokenizer_from_json(golden["tokenizer"], nullptr, nullptr);
    ASSERT_TRUE(data);
    Metadata metadata;
    const auto written = tokenizer_to_metadata(*data, metadata);
    ASSERT_TRUE(written) << written.error().message();
    expect_golden_ids(tokenizer_from_gguf(metadata), golden["cases"]);
  }
}

TEST(TokenizerExport, SaysWhichPretokenizersGgufCannotName) {
  const json golden = goldens().at("merged_with_next");
  const auto data = tokenizer_from_json(golden["tokenizer"], nullptr, nullptr);
  ASSERT_TRUE(data);
  Metadata metadata;
  const auto written = tokenizer_to_metadata(*data, metadata);
  ASSERT_FALSE(written);
  EXPECT_NE(written.error().message().find("no name for the pre-tokenizer"), std::string::npos);
}

TEST(TokenizerExport, ControlTokensInFrontKeepTheirIds) {
  TokenizerData data;
  data.pre = "gpt-2";
  data.tokens = {"<s>", "a", "b", "</s>"};
  data.kinds = {TokenKind::control, TokenKind::normal, TokenKind::normal, TokenKind::control};
  const json again = json::parse(tokenizer_to_json(data).dump());
  EXPECT_EQ(again["model"]["vocab"], (json{{"<s>", 0}, {"a", 1}, {"b", 2}}));
  EXPECT_EQ(again["added_tokens"].size(), 2u);
  EXPECT_EQ(again["added_tokens"][1]["id"], 3);
}

TEST(TokenizerExport, LargeVocabulariesTakeLinearTime) {
  TokenizerData data;
  data.pre = "gpt-2";
  constexpr std::size_t n_tokens = 150'000;  // quadratic, this took 24 s
  for (std::size_t i = 0; i < n_tokens; ++i) data.tokens.push_back("token" + std::to_string(i));
  data.tokens.push_back("token0");  // a duplicate: the first counts, as in Tokenizer
  const auto start = std::clock();
  const json again = json::parse(tokenizer_to_json(data).dump());
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 8.0);
  EXPECT_EQ(again["model"]["vocab"].size(), n_tokens);
  EXPECT_EQ(again["model"]["vocab"]["token0"], 0);
}

}  // namespace
}  // namespace lowbit
