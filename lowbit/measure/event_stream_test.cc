// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/event_stream.h"

#include <gtest/gtest.h>

#include <vector>

namespace lowbit {
namespace {

using Events = std::vector<std::string>;

Events events_of(const std::vector<std::string_view>& pieces) {
  EventStream stream;
  Events events;
  for (const std::string_view piece : pieces) {
    stream.feed(piece, [&](std::string_view data) { events.emplace_back(data); });
  }
  return events;
}

TEST(EventStreamTest, ReadsWhatTheStandardSays) {
  EXPECT_EQ(events_of({"data: a\n\n"}), Events{"a"});
  EXPECT_EQ(events_of({"data:a\n\ndata:  b\n\n"}), (Events{"a", " b"}));
  EXPECT_EQ(events_of({"data: a\ndata: b\n\n"}), Events{"a\nb"});
  EXPECT_EQ(events_of({"data\n\n"}), Events{""});
  EXPECT_EQ(events_of({": keep-alive\n\n", "event: x\nid: 1\ndata: a\n\n"}), Events{"a"});
  EXPECT_EQ(events_of({"database: a\n\nno colon\n\n\n\n"}), Events{});
  EXPECT_EQ(events_of({"data: {\"a\": \"b: c\"}\n\n"}), Events{"{\"a\": \"b: c\"}"});
  EXPECT_EQ(events_of({"data: unfinished\n"}), Events{});
}

TEST(EventStreamTest, AnyBorderGivesTheSameEvents) {
  const std::string text =
      ": hello\r\n\r\ndata: {\"x\":\"\xc3\xa9\"}\r\n\r\ndata: one\rdata: two\r\r"
      "event: message\r\ndata: three\r\ndata: four\r\n\r\n: keep-alive\n\ndata: [DONE]\n\n";
  const Events expected{"{\"x\":\"\xc3\xa9\"}", "one\ntwo", "three\nfour", "[DONE]"};
  const std::string_view whole = text;
  ASSERT_EQ(events_of({whole}), expected);
  for (std::size_t first = 0; first <= whole.size(); ++first) {
    for (std::size_t second = first; second <= whole.size(); ++second) {
      ASSERT_EQ(events_of({whole.substr(0, first), whole.substr(first, second - first),
                           whole.substr(second)}),
                expected)
          << "borders " << first << " and " << second;
    }
  }
  std::vector<std::string_view> bytes;
  for (std::size_t i = 0; i < whole.size(); ++i) bytes.push_back(whole.substr(i, 1));
  EXPECT_EQ(events_of(bytes), expected);
}

}  // namespace
}  // namespace lowbit
