// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/streamed_answer.h"

#include <gtest/gtest.h>

namespace lowbit {
namespace {

std::string event(std::string_view json) {
  return "data: " + std::string(json) + "\n\n";
}

TEST(StreamedAnswerTest, ACompletionWithUsage) {
  StreamedAnswer answer;
  answer.feed(": keep-alive\n\n", 0.1);
  answer.feed(event(R"({"choices":[{"index":0,"text":"One","finish_reason":null}]})"), 0.5);
  answer.feed(event(R"({"choices":[{"text":" two"}],"usage":null})"), 0.75);
  answer.feed(event(R"({"choices":[{"text":"","finish_reason":"length"}]})"), 1.0);
  answer.feed(event(R"({"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":4}})"), 1.5);
  answer.feed("data: [DONE]\n\n", 1.5);
  const RequestRecord record = answer.record(99);
  EXPECT_EQ(record.error, "");
  EXPECT_EQ(answer.text(), "One two");
  EXPECT_EQ(record.n_input, 7);
  EXPECT_EQ(record.n_output, 4);  // the server counts tokens, not chunks
  EXPECT_DOUBLE_EQ(record.ttft, 0.5);
  EXPECT_EQ(record.gaps, std::vector<double>{0.25});
  EXPECT_DOUBLE_EQ(record.latency, 1.0);
}

TEST(StreamedAnswerTest, AChatWithoutUsageIsCountedByChunks) {
  StreamedAnswer answer;
  answer.feed(event(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})"), 0.25);
  answer.feed(event(R"({"choices":[{"delta":{"reasoning_content":"Hm"}}]})"), 0.5);
  answer.feed(event(R"({"choices":[{"delta":{"content":"One"}}]})") +
                  event(R"({"choices":[{"delta":{"content":" two"}}]})"),
              1.0);
  answer.feed(event(R"({"choices":[{"delta":{},"finish_reason":"stop"}]})"), 1.25);
  const RequestRecord record = answer.record(12);
  EXPECT_EQ(record.error, "");
  EXPECT_EQ(answer.text(), "HmOne two");
  EXPECT_EQ(record.n_input, 12);
  EXPECT_EQ(record.n_output, 3);
  EXPECT_DOUBLE_EQ(record.ttft, 0.5);  // the chunk with the role is no token
  EXPECT_EQ(record.gaps, (std::vector<double>{0.5, 0}));
}

TEST(StreamedAnswerTest, ErrorsAndBrokenStreams) {
  StreamedAnswer broken;
  broken.feed(event(R"({"choices":[{"text":"One"}]})") + "data: {\"choi", 1);
  EXPECT_EQ(broken.record(1).error, "the answer broke off after 1 chunks");
  EXPECT_EQ(StreamedAnswer().record(1).error, "the answer broke off after 0 chunks");
  StreamedAnswer refused;
  refused.feed(event(R"({"error":{"message":"out of blocks","code":500}})"), 1);
  refused.feed("data: [DONE]\n\n", 1);
  EXPECT_EQ(refused.record(1).error, "out of blocks");
  for (const char* text : {"7", "{", "[]", "\"x\""}) {
    StreamedAnswer strange;
    strange.feed(event(text), 1);
    EXPECT_EQ(strange.record(1).error, std::string("an event is no JSON object: ") + text);
  }
  // Values of other types than the API's are no tokens and no crash.
  StreamedAnswer odd;
  odd.feed(event(R"({"choices":[1,null,{"text":5,"delta":[]}],"usage":"x","error":null})"), 1);
  odd.feed(event(R"({"choices":{"text":"x"}})"), 1);
  odd.feed("data: [DONE]\n\n", 1);
  EXPECT_EQ(odd.record(1).error, "");
  EXPECT_EQ(odd.record(1).n_output, 0);
}

TEST(StreamedAnswerTest, RefusalsInTheFormsOfServers) {
  EXPECT_EQ(refusal_in(R"({"error":{"message":"no key","type":"x"}})"), "no key");
  EXPECT_EQ(refusal_in(R"({"error":"no key"})"), "no key");
  EXPECT_EQ(refusal_in(R"({"object":"error","message":"no model"})"), "no model");
  EXPECT_EQ(refusal_in(R"({"detail":"Not Found"})"), "Not Found");
  EXPECT_EQ(refusal_in("<html>"), "<html>");
  EXPECT_EQ(refusal_in(""), "");
}

}  // namespace
}  // namespace lowbit
