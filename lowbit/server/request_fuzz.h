// SPDX-License-Identifier: Apache-2.0
// What must hold for any bytes that arrive as a request's body. Shared by the libFuzzer program
// (request_fuzz.cc) and by a unit test that mutates a small corpus (request_fuzz_test.cc).
#pragma once

#include <string>
#include <string_view>

#include "lowbit/server/openai_request.h"

namespace lowbit {

/// Names the first promise that does not hold.
class Promises {
 public:
  void require(bool holds, std::string_view what) {
    if (!holds && broken_.empty()) broken_ = what;
  }
  /// A refusal says something, in a form that can be read back.
  void require_sane(const Refusal& refusal) {
    if (!refusal) return;
    require(refusal->status == 400 && !refusal->message.empty(),
            "a refusal is a 400 with a reason");
    const auto body = parse_json(dump(to_json(*refusal)));
    require(body && body->is_object(), "an error body is JSON");
  }
  void require_sane(const Generation& generation) {
    constexpr std::int64_t any_vocabulary = std::int64_t{1} << 31;
    require(generation.n_choices >= 1 && generation.n_choices <= 128, "n is in its range");
    require(!generation.max_tokens || *generation.max_tokens >= 1, "max_tokens is 1 or more");
    require(generation.n_top_logprobs.value_or(0) <= 20, "top_logprobs is in its range");
    require(bool(check(generation.sampling, any_vocabulary)), "the sampler takes the parameters");
  }
  const std::string& broken() const { return broken_; }

 private:
  std::string broken_;
};

/// Every endpoint reads the same bytes. "" or what is broken.
inline std::string read_as_request(std::string_view bytes) {
  const auto body = parse_json(bytes);
  if (!body) return {};
  Promises promises;
  promises.require(bool(parse_json(dump(*body))), "what was read can be written and read again");
  ChatRequest chat, response, shown;
  CompletionRequest completion;
  EmbeddingRequest embedding;
  TokenizeRequest tokenize;
  DetokenizeRequest detokenize;
  const Refusal refusals[] = {parse_chat(*body, chat),
                              parse_response(*body, response),
                              parse_completion(*body, completion),
                              parse_embedding(*body, embedding),
                              parse_tokenize(*body, tokenize),
                              parse_detokenize(*body, detokenize),
                              parse_apply_template(*body, shown)};
  for (const Refusal& refusal : refusals) promises.require_sane(refusal);
  if (!refusals[0]) {
    promises.require_sane(chat.generation);
    promises.require(chat.messages.is_array() && !chat.messages.empty(), "a chat has messages");
  }
  if (!refusals[1]) promises.require_sane(response.generation);
  if (!refusals[2]) {
    promises.require_sane(completion.generation);
    promises.require(!completion.prompts.empty(), "a completion has a prompt");
  }
  return promises.broken();
}

}  // namespace lowbit
