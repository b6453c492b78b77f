// SPDX-License-Identifier: Apache-2.0
// How answers look on the wire: one object per API (chat, completions, responses), each both whole
// and as server-sent events. Pure text: what to send when is answer.h's business.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/model/tokenizer.h"
#include "lowbit/runtime/logprobs.h"
#include "lowbit/server/json_body.h"
#include "lowbit/server/tool_calls.h"

namespace lowbit {

struct AnswerHead {
  std::string id;     // random, without the API's prefix
  std::string model;  // as /v1/models names it
  std::int64_t created = 0;
  std::string fingerprint;
};

struct Usage {
  std::int64_t n_prompt = 0, n_cached = 0, n_completion = 0;
};
Json to_json(const Usage& usage);

/// One choice, complete or the part of it that is new.
struct ChoicePart {
  std::string text = {};
  std::vector<TokenLogprobs> logprobs = {};
  std::vector<ToolCall> tool_calls = {};
  std::vector<float> embedding = {};
  std::string finish = {};  // "" while it goes on; stop, length or tool_calls
};

/// "data: <json>\n\n"
std::string sse(std::string_view json);

class AnswerFormat {
 public:
  virtual ~AnswerFormat() = default;
  /// The whole answer.
  virtual Json whole(std::span<const ChoicePart> choices, const Usage& usage) const = 0;
  /// Events before the first text of a choice, with a part of it, and after all choices have ended.
  virtual std::string opening(std::size_t choice) = 0;
  virtual std::string part(std::size_t choice, const ChoicePart& part) = 0;
  virtual std::string closing(std::span<const ChoicePart> choices, const Usage& usage,
                              bool include_usage) = 0;
};

struct FormatOptions {
  AnswerHead head;
  const Tokenizer* tokenizer = nullptr;  // outlives the format
  bool has_logprobs = false;
  bool as_base64 = false;  // embeddings: little-endian f32 instead of numbers
};
std::unique_ptr<AnswerFormat> make_chat_format(const FormatOptions& options);
std::unique_ptr<AnswerFormat> make_completion_format(const FormatOptions& options);
std::unique_ptr<AnswerFormat> make_response_format(const FormatOptions& options);
std::unique_ptr<AnswerFormat> make_embedding_format(const FormatOptions& options);

}  // namespace lowbit
