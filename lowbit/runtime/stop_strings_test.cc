// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/stop_strings.h"

#include <gtest/gtest.h>

namespace lowbit {
namespace {

/// What is shown when `text` arrives in pieces of `piece` bytes, and whether it stopped.
std::pair<std::string, bool> show(const std::vector<std::string>& stops, std::string_view text,
                                  std::size_t piece) {
  StopStrings watcher(stops);
  std::string shown;
  for (std::size_t at = 0; at < text.size(); at += piece) {
    const StopStrings::Fed fed = watcher.feed(text.substr(at, piece));
    shown += fed.text;
    if (fed.stopped) return {shown, true};
  }
  return {shown + watcher.finish(), false};
}

TEST(StopStrings, SplitOfThePiecesDoesNotMatter) {
  const std::vector<std::string> stops{"</s>", "\nUser:", "aab", "", "abcd", "bc"};
  for (std::string_view text : {"hello</s>world", "hello </s", "x\nUser", "x\nUser: y", "aaaaab",
                                "aaaa", "</</s>", "", "\nUs\nUser:\n", "xabcd", "xabd"}) {
    const auto whole = show(stops, text, text.size() + 1);
    for (std::size_t piece = 1; piece <= text.size(); ++piece) {
      EXPECT_EQ(show(stops, text, piece), whole) << text << " in pieces of " << piece;
    }
  }
  EXPECT_EQ(show(stops, "hello</s>world", 1), std::pair(std::string("hello"), true));
  EXPECT_EQ(show(stops, "aaaaab", 1), std::pair(std::string("aaa"), true));
  EXPECT_EQ(show(stops, "hello </s", 1), std::pair(std::string("hello </s"), false));
}

TEST(StopStrings, HoldsBackOnlyWhatCouldBecomeAStop) {
  StopStrings watcher({"STOP", "TOPS"});
  EXPECT_EQ(watcher.feed("aST").text, "a");
  EXPECT_EQ(watcher.feed("x").text, "STx");
  EXPECT_EQ(watcher.feed("STOT").text, "STO");
  const StopStrings::Fed fed = watcher.feed("OPS tail");
  EXPECT_TRUE(fed.stopped);
  EXPECT_EQ(fed.text, "");
  EXPECT_EQ(watcher.feed("more").text, "");
}

TEST(StopStrings, FirstToBeCompleteWins) {
  StopStrings watcher({"dd", "bb", "abb"});
  const StopStrings::Fed fed = watcher.feed("aabbccdd");
  EXPECT_TRUE(fed.stopped);
  EXPECT_EQ(fed.text, "a");
}

}  // namespace
}  // namespace lowbit
