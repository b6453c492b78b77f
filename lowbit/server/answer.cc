// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/answer.h"

#include <algorithm>
#include <utility>

namespace lowbit {

Answer::Answer(std::shared_ptr<Exchange> exchange, AnswerOptions options,
               const Tokenizer& tokenizer)
    : exchange_(std::move(exchange)),
      options_(std::move(options)),
      tokenizer_(tokenizer),
      choices_(options_.n_choices),
      is_open_(options_.n_choices, false),
      last_sent_(std::chrono::steady_clock::now()) {
  usage_.n_prompt = options_.n_prompt;
  for (std::size_t i = 0; i < options_.echoes.size(); ++i) choices_[i].text = options_.echoes[i];
  for (std::size_t i = 0; options_.has_tools && i < choices_.size(); ++i) {
    tool_readers_.emplace_back(options_.call_id_prefix + std::to_string(i) + "-");
  }
}

void Answer::send(std::string events) {
  if (events.empty()) return;
  if (!began_) {
    began_ = true;
    HttpResponse head;
    head.content_type = "text/event-stream";
    head.headers = options_.headers;
    head.headers.emplace_back("Cache-Control", "no-cache");
    head.body = std::move(events);
    exchange_->begin(std::move(head));
  } else {
    exchange_->write(events);
  }
  last_sent_ = std::chrono::steady_clock::now();
}

void Answer::add(std::size_t choice, const JobOutput& output, TimePoint now) {
  if (is_done_) return;
  if (!output.error.empty()) return fail({.message = output.error});
  const Output& engine = output.output;
  ChoicePart part;
  part.text = engine.text;
  part.embedding = engine.embedding;
  if (engine.token) {
    ++usage_.n_completion;
    if (!first_token_) first_token_ = now;
    const bool is_end =
        engine.finish == FinishReason::stop &&
        ((!options_.ignore_end && tokenizer_.is_end(*engine.token)) ||
         std::ranges::find(options_.stop_ids, *engine.token) != options_.stop_ids.end());
    if (engine.logprobs && !is_end) part.logprobs.push_back(*engine.logprobs);
  }
  if (engine.finish) usage_.n_cached += engine.stats.n_cached;
  if (engine.finish) part.finish = engine.finish == FinishReason::length ? "length" : "stop";
  ChoicePart& whole = choices_[choice];
  if (options_.has_tools) find_tool_calls(choice, part);
  if (options_.stream) {
    std::string events;
    if (!is_open_[choice]) {
      is_open_[choice] = true;
      events = options_.format->opening(choice);
      part.text.insert(0, whole.text);  // an echo
      whole.text.clear();
    }
    events += options_.format->part(choice, part);
    send(std::move(events));
  }
  whole.text += part.text;
  whole.finish = part.finish;
  whole.embedding = std::move(part.embedding);
  std::ranges::move(part.logprobs, std::back_inserter(whole.logprobs));
  std::ranges::move(part.tool_calls, std::back_inserter(whole.tool_calls));
  if (engine.finish && ++n_ended_ == choices_.size()) finish();
}

void Answer::find_tool_calls(std::size_t choice, ChoicePart& part) {
  ToolCallReader::Read read = tool_readers_[choice].feed(part.text);
  if (!part.finish.empty()) {
    ToolCallReader::Read rest = tool_readers_[choice].finish();
    read.text += rest.text;
    std::ranges::move(rest.calls, std::back_inserter(read.calls));
  }
  part.text = std::move(read.text);
  part.tool_calls = std::move(read.calls);
  const bool has_calls = !part.tool_calls.empty() || !choices_[choice].tool_calls.empty();
  if (has_calls && part.finish == "stop") part.finish = "tool_calls";
}

void Answer::finish() {
  is_done_ = true;
  if (options_.stream) {
    send(options_.format->closing(choices_, usage_, options_.include_usage));
    exchange_->end();
    return;
  }
  HttpResponse response;
  response.headers = options_.headers;
  response.body = dump(options_.format->whole(choices_, usage_));
  exchange_->respond(std::move(response));
}

void Answer::fail(const ApiError& error) {
  if (is_done_) return;
  is_done_ = true;
  status_ = error.status;
  if (began_) {
    exchange_->write(sse(dump(to_json(error))));
    exchange_->end();
    return;
  }
  HttpResponse response = to_response(error);
  response.headers.insert(response.headers.end(), options_.headers.begin(), options_.headers.end());
  exchange_->respond(std::move(response));
}

void Answer::keep_alive() {
  if (!is_done_ && options_.stream) send(": keep-alive\n\n");
}

}  // namespace lowbit
