// SPDX-License-Identifier: Apache-2.0
// One request that generates, from its first token to its last byte: gathers what the engine gives
// each of its choices and sends it, whole or as events. Lives on the I/O thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lowbit/server/answer_format.h"
#include "lowbit/server/api_error.h"
#include "lowbit/server/engine_loop.h"
#include "lowbit/server/http.h"

namespace lowbit {

using TimePoint = std::chrono::steady_clock::time_point;

struct AnswerOptions {
  std::unique_ptr<AnswerFormat> format;
  std::size_t n_choices = 1;
  std::vector<std::string> echoes = {};  // what each choice begins with; empty: nothing
  std::vector<std::int32_t> stop_ids = {};
  bool ignore_end = false;
  bool stream = false, include_usage = false;
  bool has_tools = false;  // tool calls are looked for
  std::string call_id_prefix = {};
  std::int64_t n_prompt = 0;  // tokens of all prompts
  HttpHeaders headers = {};   // of the HTTP answer
};

class Answer {
 public:
  Answer(std::shared_ptr<Exchange> exchange, AnswerOptions options, const Tokenizer& tokenizer);

  /// Output of the job that makes `choice`. When the last choice ends, the answer is sent.
  void add(std::size_t choice, const JobOutput& output, TimePoint now);
  /// Ends it with an error: as a status if nothing has been sent, else as an event.
  void fail(const ApiError& error);
  /// A comment that keeps proxies from closing a silent stream.
  void keep_alive();
  /// The client has gone: nothing can be sent any more.
  void give_up() { is_done_ = true; }

  bool is_done() const { return is_done_; }
  bool is_streaming() const { return options_.stream; }
  int status() const { return status_; }
  const Usage& usage() const { return usage_; }
  std::size_t n_choices() const { return options_.n_choices; }
  const std::string& finish_of(std::size_t choice) const { return choices_[choice].finish; }
  std::optional<TimePoint> first_token() const { return first_token_; }
  TimePoint last_sent() const { return last_sent_; }

 private:
  void send(std::string events);
  void find_tool_calls(std::size_t choice, ChoicePart& part);
  void finish();

  std::shared_ptr<Exchange> exchange_;
  AnswerOptions options_;
  const Tokenizer& tokenizer_;
  std::vector<ChoicePart> choices_;
  std::vector<bool> is_open_;
  std::vector<ToolCallReader> tool_readers_;  // one per choice, or none
  std::size_t n_ended_ = 0;
  Usage usage_;
  int status_ = 200;
  bool began_ = false, is_done_ = false;
  std::optional<TimePoint> first_token_;
  TimePoint last_sent_;
};

}  // namespace lowbit
