// SPDX-License-Identifier: Apache-2.0
// The golden files come from Hugging Face tokenizers (tests/golden/make_tokenizers.py); the rest is
// checked on vocabularies small enough to merge by hand. tests/tokenizer_test.py compares real
// ones.
#include "lowbit/model/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "lowbit/model/byte_alphabet.h"
#include "lowbit/model/tokenizer_load.h"

namespace lowbit {
namespace {

using nlohmann::json;
using Ids = std::vector<TokenId>;

json read_json(const std::filesystem::path& path) {
  return json::parse(std::ifstream(path));
}

const std::filesystem::path golden_folder =
    std::filesystem::path(LOWBIT_SOURCE_DIR) / "tests/golden/tokenizer";

Tokenizer tokenizer_of(TokenizerData data) {
  auto tokenizer = Tokenizer::create(std::move(data));
  EXPECT_TRUE(tokenizer) << tokenizer.error().message();
  return *std::move(tokenizer);
}

std::string error_of(TokenizerData data) {
  auto tokenizer = Tokenizer::create(std::move(data));
  EXPECT_FALSE(tokenizer);
  return tokenizer ? "" : tokenizer.error().message();
}

// All 256 bytes (ids 0 to 255, in the alphabet as GPT-2 writes it), then what a test adds.
TokenizerData byte_data() {
  TokenizerData data;
  data.pre = "gpt-2";
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string letter;
    append_as_letters(std::string(1, static_cast<char>(byte)), letter);
    data.tokens.push_back(letter);
    data.kinds.push_back(TokenKind::normal);
  }
  return data;
}

TokenId add(TokenizerData& data, std::string text, TokenKind kind = TokenKind::normal) {
  data.tokens.push_back(std::move(text));
  data.kinds.push_back(kind);
  return static_cast<TokenId>(data.tokens.size() - 1);
}

TokenId add_merge(TokenizerData& data, const std::string& left, const std::string& right) {
  data.merges.emplace_back(left, right);
  return add(data, left + right);
}

class Golden : public testing::TestWithParam<std::string> {};

TEST_P(Golden, IdsAndTextEqualThoseOfHuggingFace) {
  const json golden = read_json(golden_folder / (GetParam() + ".json"));
  auto data = tokenizer_from_json(golden["tokenizer"], nullptr, nullptr);
  ASSERT_TRUE(data) << data.error().message();
  const Tokenizer tokenizer = tokenizer_of(*std::move(data));
  ASSERT_GT(golden["cases"].size(), 50u);
  for (const json& item : golden["cases"]) {
    const auto text = item["text"].get<std::string>();
    SCOPED_TRACE(item.dump());
    const Ids ids =
        tokenizer.encode(text, /*add_bos=*/tokenizer.adds_bos(), /*parse_special=*/true);
    EXPECT_EQ(ids, item["ids"].get<Ids>());
    EXPECT_EQ(tokenizer.decode(ids), item["decoded"].get<std::string>());
    const Ids plain = tokenizer.encode(text, tokenizer.adds_bos(), /*parse_special=*/false);
    EXPECT_EQ(plain, item["ids_plain"].get<Ids>());
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizer, Golden,
                         testing::Values("gpt2", "smollm", "llama3", "qwen2", "falcon",
                                         "prefix_space", "literal", "removed", "removed_inverted",
                                         "merged_with_previous", "merged_with_previous_inverted",
                                         "merged_with_next", "merged_with_next_inverted",
                                         "contiguous", "contiguous_inverted"),
                         [](const auto& test) { return test.param; });

TEST(Tokenizer, EveryGoldenFileIsTested) {
  std::size_t n_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden_folder)) {
    n_files += entry.path().extension() == ".json";
  }
  EXPECT_EQ(n_files, 15u);
}

TEST(Tokenizer, AnyBytesComeBack) {
  TokenizerData data = byte_data();
  add_merge(data, "Ã", "©");  // é
  add_merge(data, "ð", "Ł");  // the first half of an emoji
  for (const std::string_view pre : {"gpt-2", "smollm", "llama-bpe", "qwen2", "deepseek-llm"}) {
    data.pre = pre;
    const Tokenizer tokenizer = tokenizer_of(data);
    std::mt19937 random(7);
    for (int n = 0; n < 200; ++n) {
      std::string text;
      for (std::size_t i = random() % 60; i > 0; --i) {
        constexpr std::string_view parts[] = {
            "é", "a",       " ", "\n", "\xf0\x9f", "\x9a\x80", "\xff", "\xc3", "\xed\xa0\x80",
            "1", "\xc0\x80"};
        text += parts[random() % std::size(parts)];
      }
      EXPECT_EQ(tokenizer.decode_bytes(tokenizer.encode(text, false, true)), text);
    }
  }
}

TEST(Tokenizer, BytesThatAreNotUtf8AreAPieceOfTheirOwn) {
  TokenizerData data = byte_data();
  const TokenId half = add_merge(data, "ð", "Ł");  // F0 9F
  const TokenId ab = add_merge(data, "a", "b");
  const Tokenizer tokenizer = tokenizer_of(data);
  EXPECT_EQ(tokenizer.encode("ab\xf0\x9f", false, false), (Ids{ab, half}));
  EXPECT_EQ(tokenizer.encode("a\xff"
                             "b",
                             false, false),
            (Ids{'a', 0xff, 'b'}));
  EXPECT_EQ(tokenizer.piece(half), "\xf0\x9f");
}

TEST(Tokenizer, MergesByRankThenFromTheLeft) {
  TokenizerData data = byte_data();
  const TokenId bc = add_merge(data, "b", "c");
  const TokenId ab = add_merge(data, "a", "b");
  const TokenId abc = add_merge(data, "a", "bc");
  const TokenId aa = add_merge(data, "a", "a");
  const Tokenizer tokenizer = tokenizer_of(data);
  EXPECT_EQ(tokenizer.encode("abc", false, false), Ids{abc});
  EXPECT_EQ(tokenizer.encode("abb", false, false), (Ids{ab, 'b'}));
  EXPECT_EQ(tokenizer.encode("aaa", false, false), (Ids{aa, 'a'}));
  EXPECT_EQ(tokenizer.encode("bca", false, false), (Ids{bc, 'a'}));
}

TEST(Tokenizer, ShortAndLongPiecesMergeAlike) {
  TokenizerData data = byte_data();
  std::mt19937 random(11);
  std::vector<std::string> known = {"a", "b", "c"};
  for (int n = 0; n < 60; ++n) {
    const std::string left = known[random() % known.size()], right = known[random() % known.size()];
    if (left.size() + right.size() > 9 || std::count(known.begin(), known.end(), left + right)) {
      continue;
    }
    add_merge(data, left, right);
    known.push_back(left + right);
  }
  const Tokenizer tokenizer = tokenizer_of(data);
  const auto find = [&](std::string_view text) { return *tokenizer.id_of(text); };

  // The definition, word for word: the best pair of all, the leftmost of equals, until none is
  // left.
  const auto merge_plainly = [&](const std::string& text) {
    std::vector<std::string> symbols;
    for (const char c : text) symbols.emplace_back(1, c);
    for (;;) {
      std::size_t best_rank = data.merges.size(), best = 0;
      for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto pair = std::make_pair(symbols[i], symbols[i + 1]);
        const auto rank = static_cast<std::size_t>(
            std::find(data.merges.begin(), data.merges.end(), pair) - data.merges.begin());
        if (rank < best_rank) best_rank = rank, best = i;
      }
      if (best_rank == data.merges.size()) break;
      symbols[best] += symbols[best + 1];
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    Ids ids;
    for (const std::string& symbol : symbols) ids.push_back(find(symbol));
    return ids;
  };
  for (int n = 0; n < 300; ++n) {
    std::string text;
    for (std::size_t i = 1 + random() % 120; i > 0; --i) text += "abc"[random() % 3];
    EXPECT_EQ(tokenizer.encode(text, false, false), merge_plainly(text)) << text;
  }
}

TEST(Tokenizer, UserTextNeverBecomesASpecialToken) {
  TokenizerData data = byte_data();
  const TokenId end = add(data, "<|im_end|>", TokenKind::control);
  const TokenId think = add(data, "<think>", TokenKind::user_defined);
  const TokenId spaces = add(data, "    ", TokenKind::user_defined);
  const TokenId word = add(data, "word", TokenKind::control);
  for (const char* pre : {"gpt-2", "llama-bpe"}) {  // llama-bpe looks up whole pieces
    data.pre = pre;
    data.ignore_merges = true;
    const Tokenizer tokenizer = tokenizer_of(data);
    const std::string text = "word<|im_end|><think>    ";
    EXPECT_EQ(tokenizer.encode(text, false, true), (Ids{word, end, think, spaces}));
    const Ids plain = tokenizer.encode(text, false, false);
    for (const TokenId id : {end, think, word})
      EXPECT_EQ(std::count(plain.begin(), plain.end(), id), 0);
    EXPECT_EQ(plain.back(), spaces);
    EXPECT_EQ(tokenizer.decode(plain), text);
  }
}

TEST(Tokenizer, MergesThatWouldBuildASpecialTokenAreIgnored) {
  TokenizerData data = byte_data();
  data.merges = {{"<", "s"}};
  add(data, "<s", TokenKind::control);
  EXPECT_EQ(tokenizer_of(data).encode("<s", false, false), (Ids{'<', 's'}));
}

TEST(Tokenizer, MarkedTextIsOneTextButTrustStaysWhereItWas) {
  TokenizerData data = byte_data();
  const TokenId ab = add_merge(data, "a", "b");
  const TokenId end = add(data, "<|im_end|>", TokenKind::control);
  const Tokenizer tokenizer = tokenizer_of(data);
  const auto encode = [&](std::vector<MarkedText::Span> spans) {
    return tokenizer.encode(MarkedText{std::move(spans)}, false);
  };
  EXPECT_EQ(encode({{"a", true}, {"b", false}}), Ids{ab});
  EXPECT_EQ(encode({{"<|im_end|>", true}}), Ids{end});
  EXPECT_EQ(encode({{"<|im_", true}, {"end|>", true}}), Ids{end});
  EXPECT_EQ(encode({{"<|im_end|>", false}}).size(), 10u);
  EXPECT_EQ(encode({{"<|im_", true}, {"end|>", false}}).size(), 10u);
  EXPECT_EQ(encode({{"<|im_end|", false}, {">", true}}).size(), 10u);
  EXPECT_EQ(encode({{"", true}, {"<|im_end|>", false}, {"<|im_end|>", true}, {"x", false}}),
            (Ids{'<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>', end, 'x'}));
  EXPECT_EQ(encode({}), Ids{});
}

TEST(Tokenizer, TrustSurvivesNormalization) {
  TokenizerData data = byte_data();
  data.nfc = true;
  const TokenId end = add(data, "<e>", TokenKind::control);
  data.added.push_back({.id = end, .content = {}, .normalized = true});
  const Tokenizer tokenizer = tokenizer_of(data);
  const std::string decomposed = "e\u0301";  // 3 bytes, 2 when composed
  const Ids composed = {0xc3, 0xa9};
  Ids expected = composed;
  expected.insert(expected.end(), {end, '<', 'e', '>'});
  EXPECT_EQ(tokenizer.encode(MarkedText{{{decomposed + "<e>", true}, {"<e>", false}}}, false),
            expected);
  // A mark of the user does not combine with a letter of the template.
  EXPECT_EQ(tokenizer.encode(MarkedText{{{"e", true}, {"\u0301", false}}}, false),
            (Ids{'e', 0xcc, 0x81}));
  EXPECT_EQ(tokenizer.encode(decomposed + "\xff", false, false), (Ids{0xc3, 0xa9, 0xff}));
}

TEST(Tokenizer, BosIsAddedOnceAndOnlyIfTheModelAsks) {
  TokenizerData data = byte_data();
  data.bos = add(data, "<s>", TokenKind::control);
  EXPECT_EQ(tokenizer_of(data).encode("a", true, false), Ids{'a'});
  data.add_bos = true;
  const Tokenizer tokenizer = tokenizer_of(data);
  EXPECT_EQ(tokenizer.encode("a", true, false), (Ids{*data.bos, 'a'}));
  EXPECT_EQ(tokenizer.encode("a", false, false), Ids{'a'});
  EXPECT_EQ(tokenizer.encode("<s>a", true, true), (Ids{*data.bos, 'a'}));
  EXPECT_EQ(tokenizer.encode("", true, true), Ids{*data.bos});
  EXPECT_EQ(tokenizer.encode(MarkedText{{{"<s>", true}, {"a", false}}}, true),
            (Ids{*data.bos, 'a'}));
}

TEST(Tokenizer, BytesWithoutATokenAreLeftOutOrUnknown) {
  TokenizerData data;
  data.pre = "gpt-2";
  data.tokens = {"a", "b", "<unk>"};
  EXPECT_EQ(tokenizer_of(data).encode("axb", false, false), (Ids{0, 1}));
  data.unknown = 2;
  EXPECT_EQ(tokenizer_of(data).encode("axb", false, false), (Ids{0, 2, 1}));
}

TEST(Tokenizer, TellsWhatItsTokensAre) {
  TokenizerData data = byte_data();
  data.eos = add(data, "</s>", TokenKind::control);
  data.end_ids = {add(data, "<|im_end|>", TokenKind::control)};
  const TokenId the = add_merge(data, "Ġ", "t");
  const Tokenizer tokenizer = tokenizer_of(data);
  EXPECT_TRUE(tokenizer.is_end(*data.eos));
  EXPECT_TRUE(tokenizer.is_end(data.end_ids[0]));
  EXPECT_FALSE(tokenizer.is_end(the));
  EXPECT_TRUE(tokenizer.is_special(*data.eos));
  EXPECT_FALSE(tokenizer.is_special(the));
  EXPECT_EQ(tokenizer.id_of("<|im_end|>"), data.end_ids[0]);
  EXPECT_EQ(tokenizer.id_of(" t"), the);
  EXPECT_EQ(tokenizer.id_of("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.piece(the), " t");
  EXPECT_EQ(tokenizer.n_vocab(), 259);
  for (const TokenId outside : {-1, 259, INT32_MAX}) {
    EXPECT_EQ(tokenizer.piece(outside), "");
    EXPECT_FALSE(tokenizer.is_special(outside));
  }
  EXPECT_EQ(tokenizer.decode(Ids{'a', *data.eos, -5, 'b'}), "ab");
  EXPECT_EQ(tokenizer.decode(Ids{'a', *data.eos, 'b'}, /*skip_special=*/false), "a</s>b");
}

TEST(Tokenizer, SurvivesAMove) {
  TokenizerData data;
  data.pre = "gpt-2";
  data.tokens = {"a", "b", "ab"};
  data.merges = {{"a", "b"}};
  data.ignore_merges = true;
  Tokenizer first = tokenizer_of(data);
  const Tokenizer second = std::move(first);
  EXPECT_EQ(second.encode("ab", false, false), Ids{2});
  EXPECT_EQ(second.id_of("b"), 1);
}

TEST(Tokenizer, AbsurdVocabulariesAreErrorsOrIgnored) {
  EXPECT_NE(error_of({}).find("no tokens"), std::string::npos);
  TokenizerData data = byte_data();
  data.merges = {{"nothing", "known"}, {"a", "unknown"}, {"a", "b"}, {"", ""}, {"\xff", "a"}};
  add(data, "a");  // twice: the first counts
  add(data, "");
  EXPECT_EQ(tokenizer_of(data).encode("ab", false, false), (Ids{'a', 'b'}));

  const auto with = [](auto change) {
    TokenizerData changed = byte_data();
    change(changed);
    return error_of(std::move(changed));
  };
  EXPECT_NE(with([](auto& d) { d.bos = 256; }).find("BOS token is 256"), std::string::npos);
  EXPECT_NE(with([](auto& d) { d.eos = -1; }).find("EOS"), std::string::npos);
  EXPECT_NE(with([](auto& d) { d.end_ids = {1, 300}; }).find("300"), std::string::npos);
  EXPECT_NE(with([](auto& d) { d.added = {{.id = 999, .content = {}}}; }).find("999"),
            std::string::npos);
  EXPECT_NE(with([](auto& d) { d.kinds.pop_back(); }).find("255 token types"), std::string::npos);
  EXPECT_NE(with([](auto& d) { d.add_bos = true; }).find("BOS"), std::string::npos);
  EXPECT_NE(with([](auto& d) { d.pre = "no-such-pre"; }).find("no-such-pre"), std::string::npos);
  EXPECT_NE(with([](auto& d) {
              d.pre.clear();
              d.steps = {{.regex = "(unclosed"}};
            }).find("does not compile"),
            std::string::npos);
}

TEST(StreamDecoder, HoldsBackSplitCharacters) {
  const Tokenizer tokenizer = tokenizer_of(byte_data());
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push('a'), "a");
  EXPECT_EQ(decoder.push(0xf0), "");
  EXPECT_EQ(decoder.push(0x9f), "");
  EXPECT_EQ(decoder.push(0x9a), "");
  EXPECT_EQ(decoder.push(0x80), "🚀");
  EXPECT_EQ(decoder.push(0xff), "\ufffd");  // can never be a character
  EXPECT_EQ(decoder.push(0xe6), "");
  EXPECT_EQ(decoder.push('b'),
            "\ufffd"
            "b");  // the character will not come any more
  EXPECT_EQ(decoder.push(0xe6), "");
  EXPECT_EQ(decoder.push(0x9d), "");
  EXPECT_EQ(decoder.flush(), "\ufffd");
  EXPECT_EQ(decoder.flush(), "");
}

TEST(StreamDecoder, GivesTheSameTextAsDecode) {
  TokenizerData data = byte_data();
  const TokenId end = add(data, "<|end|>", TokenKind::control);
  const Tokenizer tokenizer = tokenizer_of(data);
  std::mt19937 random(5);
  for (int n = 0; n < 300; ++n) {
    Ids ids;
    for (std::size_t i = random() % 40; i > 0; --i) {
      constexpr TokenId often[] = {0xf0, 0x9f, 0x9a, 0x80, 0xe6, 0x9d, 0xc3, 'a', 0xed, 0xa0};
      ids.push_back(random() % 8 == 0 ? end : often[random() % std::size(often)]);
    }
    StreamDecoder decoder(tokenizer);
    std::string streamed;
    for (const TokenId id : ids) streamed += decoder.push(id);
    EXPECT_EQ(streamed + decoder.flush(), tokenizer.decode(ids));
  }
}

}  // namespace
}  // namespace lowbit
