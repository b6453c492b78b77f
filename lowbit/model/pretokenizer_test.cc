// SPDX-License-Identifier: Apache-2.0
// Whole vocabularies are compared in tokenizer_test.cc and tests/test_tokenizer.py; here the pieces
// themselves, and that no text and no regular expression makes it stop or run away.
#include "lowbit/model/pretokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <set>

namespace lowbit {
namespace {

using Texts = std::vector<std::string>;

Pretokenizer pretokenizer_of(std::vector<PretokenizerStep> steps) {
  auto made = Pretokenizer::create(steps);
  EXPECT_TRUE(made) << made.error().message();
  return *std::move(made);
}

Pretokenizer named(std::string_view name) {
  std::vector<PretokenizerStep> steps;
  for (const auto regex : find_pretokenizer(name)->regexes) {
    steps.push_back({.regex = std::string(regex)});
  }
  return pretokenizer_of(std::move(steps));
}

Texts split(const Pretokenizer& pretokenizer, std::string_view text) {
  Pretokenizer::Pieces pieces;
  pretokenizer.split(text, pieces);
  Texts texts;
  for (const auto& [begin, end] : pieces.pieces) {
    EXPECT_LT(begin, end);
    texts.emplace_back(pieces.text.substr(begin, end - begin));
  }
  return texts;
}

TEST(PretokenizerList, NamesAreUniqueAndEveryRowCompiles) {
  std::set<std::string> names;
  for (const NamedPretokenizer& row : pretokenizer_list()) {
    EXPECT_FALSE(row.regexes.empty());
    std::string name;
    for (const char c : std::string(row.names) + " ") {
      if (c != ' ') {
        name += c;
        continue;
      }
      EXPECT_TRUE(names.insert(name).second) << name;
      EXPECT_EQ(find_pretokenizer(name), &row) << name;
      EXPECT_GT(split(named(name), "Ab 12!").size(), 1u) << name;
      name.clear();
    }
  }
  EXPECT_EQ(find_pretokenizer(""), nullptr);
  EXPECT_EQ(find_pretokenizer("gpt"), nullptr);
  EXPECT_EQ(find_pretokenizer("gpt-2 gpt2"), nullptr);
}

TEST(Pretokenizer, CutsAsTheModelsDo) {
  EXPECT_EQ(split(named("gpt-2"), "It's 123  x\n\n!"),
            (Texts{"It", "'s", " 123", " ", " x", "\n", "\n", "!"}));
  EXPECT_EQ(split(named("smollm"), "x12 3  a"), (Texts{"x", "1", "2", " ", "3", " ", " a"}));
  EXPECT_EQ(split(named("llama-bpe"), "I'M 12345!\n\n  x"),
            (Texts{"I", "'M", " ", "123", "45", "!\n\n", " ", " x"}));
  EXPECT_EQ(split(named("qwen2"), "x12\r\n y"), (Texts{"x", "1", "2", "\r\n", " y"}));
  // A combining mark belongs to the word in qwen35, to the punctuation in qwen2.
  EXPECT_EQ(split(named("qwen35"), "e\u0301a"), (Texts{"e\u0301a"}));
  EXPECT_EQ(split(named("qwen2"), "e\u0301a"), (Texts{"e", "\u0301a"}));
  EXPECT_EQ(split(named("falcon"), "a1234!"), (Texts{"a", "123", "4", "!"}));
}

TEST(Pretokenizer, WhiteSpaceIsUnicodes) {
  // U+180E was a space once and is none now; U+0085 and U+2003 are.
  EXPECT_EQ(split(named("gpt-2"), "a \u180eb"), (Texts{"a", " \u180e", "b"}));
  EXPECT_EQ(split(named("gpt-2"), "a\u0085\u2003b"), (Texts{"a", "\u0085", "\u2003", "b"}));
  EXPECT_EQ(split(pretokenizer_of({{.regex = R"(\S+|[^\S]+|\\s)"}}), "a\u180e \u00a0"),
            (Texts{"a\u180e", " \u00a0"}));
}

TEST(Pretokenizer, BehaviorsMoveMatchesWhereTheySay) {
  const auto cut = [](SplitBehavior behavior, bool invert = false) {
    return split(pretokenizer_of({{.regex = "-", .behavior = behavior, .invert = invert}}),
                 "a-b--c");
  };
  EXPECT_EQ(cut(SplitBehavior::isolated), (Texts{"a", "-", "b", "-", "-", "c"}));
  EXPECT_EQ(cut(SplitBehavior::removed), (Texts{"a", "b", "c"}));
  EXPECT_EQ(cut(SplitBehavior::removed, true), (Texts{"-", "-", "-"}));
  EXPECT_EQ(cut(SplitBehavior::merged_with_previous), (Texts{"a-", "b-", "-", "c"}));
  EXPECT_EQ(cut(SplitBehavior::merged_with_next), (Texts{"a", "-b", "-", "-c"}));
  EXPECT_EQ(cut(SplitBehavior::contiguous), (Texts{"a", "-", "b", "--", "c"}));
}

TEST(Pretokenizer, StepsSeeOneAnothersPieces) {
  // $ is the end of a piece, not of the text.
  EXPECT_EQ(split(pretokenizer_of({{.regex = "[0-9]"}, {.regex = "b$"}}), "ab1bb"),
            (Texts{"a", "b", "1", "b", "b"}));
  EXPECT_EQ(split(pretokenizer_of({{.regex = "-", .behavior = SplitBehavior::removed},
                                   {.kind = PretokenizerStep::Kind::prefix_space}}),
                  "a- b-c"),
            (Texts{" a", " b", " c"}));
  EXPECT_EQ(split(pretokenizer_of({{.kind = PretokenizerStep::Kind::byte_alphabet}}), " é"),
            (Texts{"ĠÃ©"}));
  EXPECT_EQ(split(pretokenizer_of({}), "as it is"), (Texts{"as it is"}));
  EXPECT_EQ(split(named("gpt-2"), ""), (Texts{}));
}

TEST(Pretokenizer, EmptyMatchesCut) {
  EXPECT_EQ(split(pretokenizer_of({{.regex = "(?=b)"}}), "abab"), (Texts{"a", "ba", "b"}));
  EXPECT_EQ(split(pretokenizer_of({{.regex = "x*"}}), "éxa"), (Texts{"é", "x", "a"}));
}

TEST(Pretokenizer, ReusedScratchDoesNotRemember) {
  const Pretokenizer pretokenizer = named("gpt-2");
  Pretokenizer::Pieces pieces;
  for (const std::string_view text : {"one two three", "", "x"}) {
    pretokenizer.split(text, pieces);
    EXPECT_EQ(pieces.pieces.empty(), text.empty());
    EXPECT_EQ(pieces.pieces.empty() ? 0 : pieces.pieces.back().end, text.size());
  }
}

TEST(Pretokenizer, LongRunsArePiecesNotCrashes) {
  constexpr std::size_t n_repeats = 50'000;
  for (const std::string_view unit :
       {"a", " ", "\n", "é", "1", "!", "\u0915\u094d", "aA", "\r\n "}) {
    std::string text;
    for (std::size_t i = 0; i < n_repeats; ++i) text += unit;
    for (const NamedPretokenizer& row : pretokenizer_list()) {
      const std::string name(row.names.substr(0, row.names.find(' ')));
      std::string joined;
      for (const std::string& piece : split(named(name), text)) joined += piece;
      EXPECT_EQ(joined, text) << name;
    }
  }
}

TEST(Pretokenizer, HostileExpressionsEndAndLoseNothing) {
  // Nested repetition: exponential without a step limit. Nested groups: deep without a stack limit.
  for (const char* regex : {"(a+)+$", "(a|a)*b", "((?=a)(a))*b", "(?:(?:a)|b)*?c"}) {
    const std::string text(100'000, 'a');
    const auto start = std::chrono::steady_clock::now();
    std::string joined;
    for (const std::string& piece : split(pretokenizer_of({{.regex = regex}}), text + "x")) {
      joined += piece;
    }
    EXPECT_EQ(joined, text + "x") << regex;
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20)) << regex;
  }
}

TEST(Pretokenizer, RefusesExpressionsThatDoNotCompile) {
  const auto message = [](std::string regex) {
    const PretokenizerStep step{.regex = std::move(regex)};
    auto made = Pretokenizer::create({&step, 1});
    return made ? std::string() : made.error().message();
  };
  EXPECT_NE(message("(open").find("\"(open\" does not compile"), std::string::npos);
  EXPECT_NE(message("[\\p{L}&&[^\\p{Han}]]").find("intersects"), std::string::npos);
  EXPECT_NE(message(std::string("\xff")).find("does not compile"), std::string::npos);
}

}  // namespace
}  // namespace lowbit
