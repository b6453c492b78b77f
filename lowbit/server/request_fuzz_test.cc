// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/request_fuzz.h"

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <string>

namespace lowbit {
namespace {

constexpr std::array<std::string_view, 5> corpus{
    R"({"model":"m","messages":[{"role":"system","content":"a"},{"role":"user","content":[{"type":"text","text":"b"}]}],"temperature":0.5,"top_p":0.9,"n":2,"stop":["x","y"],"stream":true,"stream_options":{"include_usage":true},"logit_bias":{"50":-1},"logprobs":true,"top_logprobs":3,"seed":7})",
    R"({"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},{"role":"tool","tool_call_id":"c","content":"1"}],"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":"auto","response_format":{"type":"text"}})",
    R"({"prompt":[[1,2],[3]],"max_tokens":5,"logprobs":2,"echo":false,"best_of":1,"stop_token_ids":[3],"ignore_eos":true,"min_p":0.1,"top_k":-1})",
    R"({"input":[{"role":"user","content":[{"type":"input_text","text":"x"}]}],"instructions":"y","max_output_tokens":3,"encoding_format":"base64"})",
    R"({"prompt":"text","tokens":[1,2,3],"add_special_tokens":true,"return_token_strs":null,"chat_template_kwargs":{"a":[1]},"continue_final_message":true})"};

/// What stands in requests, and what breaks them.
constexpr std::array<std::string_view, 24> pieces{"null",
                                                  "true",
                                                  "-1",
                                                  "1e999",
                                                  "NaN",
                                                  "[]",
                                                  "{}",
                                                  "[[[[",
                                                  "}}",
                                                  "\"",
                                                  "\\u0000",
                                                  "\xff",
                                                  "\xed\xa0\x80",
                                                  "99999999999999999999",
                                                  "0.5",
                                                  "\"role\":\"user\"",
                                                  ":",
                                                  ",",
                                                  "\"n\":",
                                                  "\"stop\":",
                                                  "\"messages\":",
                                                  "\"prompt\":",
                                                  "[1,\"a\"]",
                                                  "2147483648"};

TEST(RequestFuzz, MutatedRequestsAreReadOrRefused) {
  constexpr int n_rounds = 20000;
  std::mt19937 random(20261121);
  const auto below = [&](std::size_t n) { return random() % std::max<std::size_t>(n, 1); };
  for (int round = 0; round < n_rounds; ++round) {
    std::string text(corpus[below(corpus.size())]);
    for (std::size_t n_changes = 1 + below(4); n_changes > 0; --n_changes) {
      const std::size_t at = below(text.size());
      switch (below(5)) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + below(8));
          break;
        case 2:
          text.insert(at, pieces[below(pieces.size())]);
          break;
        case 3: {  // a value becomes another one: the JSON stays whole more often
          const std::size_t colon = text.find(':', at);
          if (colon == std::string::npos) break;
          const std::size_t end = text.find_first_of(",}", colon);
          if (end == std::string::npos) break;
          text.replace(colon + 1, end - colon - 1, pieces[below(pieces.size())]);
          break;
        }
        default:
          text.insert(at, text.substr(below(text.size()), below(40)));
      }
    }
    ASSERT_EQ(read_as_request(text), "") << text;
  }
}

TEST(RequestFuzz, TheCorpusIsRead) {
  // Each is a good request of some endpoint, so that mutations start where the code goes deep.
  ChatRequest chat, tools, response;
  CompletionRequest completion;
  DetokenizeRequest detokenize;
  EXPECT_FALSE(parse_chat(*parse_json(corpus[0]), chat));
  EXPECT_FALSE(parse_chat(*parse_json(corpus[1]), tools));
  EXPECT_FALSE(parse_completion(*parse_json(corpus[2]), completion));
  EXPECT_FALSE(parse_response(*parse_json(corpus[3]), response));
  EXPECT_FALSE(parse_detokenize(*parse_json(corpus[4]), detokenize));
}

}  // namespace
}  // namespace lowbit
