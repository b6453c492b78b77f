// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/openai_request.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace lowbit {
namespace {

Json chat_with(const std::string& fields) {
  const std::string text = R"({"messages": [{"role": "user", "content": "Hi"}])" +
                           (fields.empty() ? "" : ", " + fields) + "}";
  auto json = parse_json(text);
  EXPECT_TRUE(json) << text;
  return *json;
}

ChatRequest chat_of(const std::string& fields) {
  ChatRequest request;
  const Refusal refusal = parse_chat(chat_with(fields), request);
  EXPECT_FALSE(refusal) << (refusal ? refusal->message : "");
  return request;
}

/// The field that a chat with these fields is refused for; "" if it is not.
std::string refused_field(const std::string& fields) {
  ChatRequest request;
  const Refusal refusal = parse_chat(chat_with(fields), request);
  if (refusal) {
    EXPECT_EQ(refusal->status, 400);
    EXPECT_NE(refusal->message, "");
  }
  return refusal ? refusal->param : "";
}

TEST(FieldList, HasEachFieldOnceForAnEndpoint) {
  for (const Field& field : field_list()) {
    for (int i = 0; i <= static_cast<int>(Endpoint::apply_template); ++i) {
      if ((field.endpoints >> i & 1) == 0) continue;
      EXPECT_EQ(find_field(field.name, static_cast<Endpoint>(i)), &field) << field.name;
    }
    EXPECT_NE(field.endpoints, 0u) << field.name;
    EXPECT_EQ(field.about.empty(), field.kind == FieldKind::unsupported) << field.name;
    const bool has_range = field.kind == FieldKind::integer || field.kind == FieldKind::number;
    EXPECT_EQ(field.least < field.most, has_range) << field.name;
  }
}

TEST(FieldList, TakesNullEverywhereAndNothingOfAnotherType) {
  for (const Field& field : field_list()) {
    const Endpoint endpoint = Endpoint::chat;
    if (find_field(field.name, endpoint) != &field || field.is_required) continue;
    std::vector<std::string> ignored;
    Json body = chat_with("");
    body[std::string(field.name)] = nullptr;
    EXPECT_FALSE(check_fields(body, endpoint, ignored)) << field.name;
    if (field.kind == FieldKind::any) continue;
    // A list of a number fits no field but lists.
    body[std::string(field.name)] = field.kind == FieldKind::list ? Json(1) : Json::array({1});
    const Refusal refusal = check_fields(body, endpoint, ignored);
    ASSERT_TRUE(refusal) << field.name;
    EXPECT_EQ(refusal->param, field.name);
    EXPECT_TRUE(ignored.empty());
  }
}

TEST(FieldList, ChecksTheEndsOfRanges) {
  for (const Field& field : field_list()) {
    if (field.kind != FieldKind::integer && field.kind != FieldKind::number) continue;
    if (find_field(field.name, Endpoint::chat) != &field) continue;
    std::vector<std::string> ignored;
    const auto is_taken = [&](double value) {
      Json body = chat_with("");
      body[std::string(field.name)] = value;
      return !check_fields(body, Endpoint::chat, ignored);
    };
    EXPECT_TRUE(is_taken(field.least)) << field.name;
    EXPECT_TRUE(is_taken(field.most)) << field.name;
    EXPECT_FALSE(is_taken(field.least - std::abs(field.least) - 1)) << field.name;
    EXPECT_FALSE(is_taken(field.most * 2 + 1)) << field.name;
    EXPECT_EQ(is_taken(1.5), field.kind == FieldKind::number && field.most >= 1.5) << field.name;
  }
}

TEST(ParseChat, LeavesDefaultsAlone) {
  ChatRequest request;
  request.generation.sampling.temperature = 0.7f;
  ASSERT_FALSE(parse_chat(chat_with(R"("top_p": 0.5, "temperature": null)"), request));
  EXPECT_EQ(request.generation.sampling.temperature, 0.7f);
  EXPECT_EQ(request.generation.sampling.top_p, 0.5f);
  EXPECT_FALSE(request.generation.max_tokens);
  EXPECT_FALSE(request.generation.seed);
  EXPECT_TRUE(request.add_generation_prompt);
}

TEST(ParseChat, ReadsWhatIsThere) {
  const ChatRequest request = chat_of(
      R"("model": "m", "max_tokens": 3, "max_completion_tokens": 5.0, "n": 2, "seed": -7, "top_k": -1,
         "stop": "x", "logit_bias": {"50": -100, "7": 1.5}, "logprobs": true, "top_logprobs": 4,
         "stream": true, "stream_options": {"include_usage": true}, "stop_token_ids": [3],
         "ignore_eos": true, "min_p": 0.25, "frequency_penalty": 1, "presence_penalty": -2)");
  const Generation& generation = request.generation;
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(generation.max_tokens, 5);  // the newer name wins
  EXPECT_EQ(generation.n_choices, 2);
  EXPECT_EQ(generation.seed, static_cast<std::uint64_t>(-7));
  EXPECT_EQ(generation.sampling.top_k, 0);
  EXPECT_EQ(generation.stop, std::vector<std::string>{"x"});
  EXPECT_EQ(generation.stop_ids, std::vector<std::int32_t>{3});
  using Biases = std::vector<std::pair<std::int32_t, float>>;
  EXPECT_EQ(generation.sampling.logit_bias, (Biases{{50, -100.0f}, {7, 1.5f}}));
  EXPECT_EQ(generation.n_top_logprobs, 4);
  EXPECT_TRUE(generation.stream && generation.include_usage && generation.ignore_end);
  EXPECT_EQ(generation.sampling.min_p, 0.25f);
  EXPECT_EQ(generation.sampling.frequency_penalty, 1.0f);
  EXPECT_EQ(generation.sampling.presence_penalty, -2.0f);
}

TEST(ParseChat, TopPZeroIsTheLikeliestToken) {
  const SamplingParams sampling = chat_of(R"("top_p": 0)").generation.sampling;
  EXPECT_EQ(sampling.top_k, 1);
  EXPECT_EQ(sampling.top_p, 1.0f);
}

TEST(ParseChat, ListsWhatNobodyLooksAt) {
  const ChatRequest request = chat_of(R"("store": true, "user": "me", "verbosity": "low")");
  EXPECT_EQ(request.ignored, (std::vector<std::string>{"store", "verbosity"}));
}

TEST(ParseChat, RefusesByName) {
  EXPECT_EQ(refused_field(R"("temperature": "hot")"), "temperature");
  EXPECT_EQ(refused_field(R"("logit_bias": {"a": 1})"), "logit_bias");
  EXPECT_EQ(refused_field(R"("logit_bias": {"-1": 1})"), "logit_bias");
  EXPECT_EQ(refused_field(R"("logit_bias": {"1": "x"})"), "logit_bias");
  EXPECT_EQ(refused_field(R"("logit_bias": {"99999999999": 1})"), "logit_bias");
  EXPECT_EQ(refused_field(R"("stop_token_ids": [1.5])"), "stop_token_ids");
  EXPECT_EQ(refused_field(R"("stop_token_ids": [99999999999])"), "stop_token_ids");
  EXPECT_EQ(refused_field(R"("top_logprobs": 1)"), "top_logprobs");
  EXPECT_EQ(refused_field(R"("response_format": {})"), "response_format");
  EXPECT_EQ(refused_field(R"("response_format": {"type": "text"})"), "");
  EXPECT_EQ(refused_field(R"("tools": [1])"), "tools");
  EXPECT_EQ(refused_field(R"("tools": [], "tool_choice": "auto")"), "");
  EXPECT_EQ(refused_field(R"("suffix": 1)"), "");  // not a field of chats
  EXPECT_EQ(refused_field(R"("min_tokens": 0, "functions": [], "audio": null)"), "");
  EXPECT_EQ(refused_field(R"("min_tokens": 3, "max_tokens": 2)"), "min_tokens");
  EXPECT_EQ(refused_field(R"("response_format": {"type": "json_schema"})"), "response_format");
  const std::string tools = R"("tools": [{"type": "function", "function": {"name": "f"}}], )";
  EXPECT_EQ(refused_field(R"("tool_choice": "required")"), "tool_choice");
  EXPECT_EQ(refused_field(tools + R"("tool_choice": "some")"), "tool_choice");
  EXPECT_EQ(
      refused_field(tools + R"("tool_choice": {"type": "function", "function": {"name": "g"}})"),
      "tool_choice");
  EXPECT_EQ(refused_field(tools + R"("tool_choice": "required",
                                      "response_format": {"type": "json_object"})"),
            "response_format");
  EXPECT_EQ(refused_field(R"("tools": [{"function": {"name": "f", "parameters": 3}}])"), "tools");
  EXPECT_EQ(refused_field(R"("guided_json": {"type": "object"})"), "guided_json");
}

TEST(ParseChat, RulesOfTheAnswer) {
  using Kind = AnswerRule::Kind;
  EXPECT_EQ(chat_of(R"("response_format": {"type": "text"})").rule.kind, Kind::none);
  EXPECT_EQ(chat_of(R"("response_format": {"type": "json_object"})").rule.kind, Kind::json_object);
  const AnswerRule schema = chat_of(R"("response_format": {"type": "json_schema",
      "json_schema": {"name": "x", "schema": {"type": "integer"}}})")
                                .rule;
  EXPECT_EQ(schema.kind, Kind::json_schema);
  EXPECT_EQ(dump(schema.schema), R"({"type":"integer"})");
  const std::string tools = R"("tools": [{"type": "function", "function": {"name": "f"}}], )";
  EXPECT_EQ(chat_of(tools + R"("tool_choice": "auto")").rule.kind, Kind::none);
  const AnswerRule required =
      chat_of(tools + R"("tool_choice": "required", "parallel_tool_calls": false)").rule;
  EXPECT_EQ(required.kind, Kind::tool_calls);
  EXPECT_EQ(required.tool, "");
  EXPECT_FALSE(required.is_parallel);
  const AnswerRule named =
      chat_of(tools + R"("tool_choice": {"type": "function", "function": {"name": "f"}})").rule;
  EXPECT_EQ(named.kind, Kind::tool_calls);
  EXPECT_EQ(named.tool, "f");
  EXPECT_EQ(chat_of(R"("tools": [{"type": "function", "function": {"name": "f", "strict": true}}])")
                .rule.kind,
            Kind::text_or_tool_calls);
}

TEST(ParseChat, RefusesABodyThatIsNoObject) {
  ChatRequest request;
  EXPECT_TRUE(parse_chat(Json::array(), request));
  EXPECT_TRUE(parse_chat(nullptr, request));
  EXPECT_EQ(parse_chat(Json::object(), request)->param, "messages");
}

TEST(ParseMessages, JoinsParts) {
  ChatRequest request;
  const auto body = parse_json(
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
         {"type": "input_text", "text": "b"}, "c"], "name": "me", "extra": 1}]})");
  ASSERT_FALSE(parse_chat(*body, request));
  EXPECT_EQ(dump(request.messages), R"([{"role":"user","content":"a\nb\nc","name":"me"}])");
}

TEST(ParseMessages, GivesTemplatesArgumentsAsObjects) {
  ChatRequest request;
  const auto body = parse_json(
      R"({"messages": [{"role": "assistant", "content": null, "tool_calls":
         [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}},
          {"id": "2", "function": {"name": "g", "arguments": "not json"}}]},
         {"role": "tool", "tool_call_id": "1", "content": "7"}]})");
  ASSERT_FALSE(parse_chat(*body, request));
  const Json& calls = request.messages[0]["tool_calls"];
  EXPECT_EQ(dump(calls[0]["function"]["arguments"]), R"({"x":1})");
  EXPECT_EQ(calls[1]["function"]["arguments"], "not json");
  EXPECT_EQ(request.messages[0]["content"], "");
  EXPECT_EQ(request.messages[1]["tool_call_id"], "1");
}

TEST(ParseCompletion, TakesEveryFormOfPrompt) {
  const auto prompts = [](const std::string& prompt) {
    CompletionRequest request;
    const auto body = parse_json("{\"prompt\": " + prompt + "}");
    EXPECT_FALSE(parse_completion(*body, request)) << prompt;
    return request.prompts;
  };
  using Ids = std::vector<std::int32_t>;
  EXPECT_EQ(prompts(R"("a")"), (std::vector<Prompt>{"a"}));
  EXPECT_EQ(prompts(R"(["a", "b"])"), (std::vector<Prompt>{"a", "b"}));
  EXPECT_EQ(prompts("[1, 2]"), (std::vector<Prompt>{Ids{1, 2}}));
  EXPECT_EQ(prompts("[[1, 2], [3]]"), (std::vector<Prompt>{Ids{1, 2}, Ids{3}}));
  for (const std::string prompt : {"[]", "7", "{}", "[1, \"a\"]", "[true]", "[-1]", "[null]"}) {
    CompletionRequest request;
    const auto body = parse_json("{\"prompt\": " + prompt + "}");
    const Refusal refusal = parse_completion(*body, request);
    ASSERT_TRUE(refusal) << prompt;
    EXPECT_EQ(refusal->param, "prompt");
  }
}

TEST(ParseCompletion, LimitsAnswers) {
  CompletionRequest request;
  const auto body = parse_json(R"({"prompt": ["a", "b", "c"], "n": 100})");
  EXPECT_EQ(parse_completion(*body, request)->param, "n");
}

TEST(ParseResponse, MakesMessagesOfInputAndInstructions) {
  ChatRequest request;
  const auto body = parse_json(
      R"({"instructions": "Be brief", "input": [{"role": "user", "content":
         [{"type": "input_text", "text": "Hi"}]}], "max_output_tokens": 9, "store": false})");
  ASSERT_FALSE(parse_response(*body, request));
  EXPECT_EQ(dump(request.messages),
            R"([{"role":"system","content":"Be brief"},{"role":"user","content":"Hi"}])");
  EXPECT_EQ(request.generation.max_tokens, 9);
  const auto stored = parse_json(R"({"input": "x", "previous_response_id": "resp_1"})");
  EXPECT_EQ(parse_response(*stored, request)->param, "previous_response_id");
}

TEST(ParseTokenize, TakesTextOrMessages) {
  TokenizeRequest request;
  EXPECT_TRUE(parse_tokenize(*parse_json("{}"), request));
  ASSERT_FALSE(parse_tokenize(*parse_json(R"({"prompt": ""})"), request));
  EXPECT_EQ(request.text, "");
  EXPECT_TRUE(parse_tokenize(*parse_json(R"({"prompt": "a", "messages": []})"), request));
}

}  // namespace
}  // namespace lowbit
