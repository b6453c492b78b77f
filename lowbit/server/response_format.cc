// SPDX-License-Identifier: Apache-2.0
// Answers of the Responses API: one message with one part of text, and the events that tell its
// making. Nothing is stored.
#include <fmt/format.h>

#include "lowbit/server/answer_format.h"

namespace lowbit {
namespace {

class ResponseFormat final : public AnswerFormat {
 public:
  explicit ResponseFormat(const FormatOptions& options) : options_(options) {}

  Json whole(std::span<const ChoicePart> choices, const Usage& usage) const override {
    const ChoicePart& choice = choices.front();
    const bool is_cut = choice.finish == "length";
    Json response = response_json(is_cut ? "incomplete" : "completed");
    if (is_cut) response["incomplete_details"] = {{"reason", "max_output_tokens"}};
    response["output"].push_back(item_json(choice.text, is_cut ? "incomplete" : "completed"));
    response["usage"] = {{"input_tokens", usage.n_prompt},
                         {"input_tokens_details", {{"cached_tokens", usage.n_cached}}},
                         {"output_tokens", usage.n_completion},
                         {"output_tokens_details", {{"reasoning_tokens", 0}}},
                         {"total_tokens", usage.n_prompt + usage.n_completion}};
    return response;
  }

  std::string opening(std::size_t) override {
    Json item = item_json("", "in_progress");
    item["content"] = Json::array();
    std::string events;  // one by one: each event takes the next number
    events += event("response.created", {{"response", response_json("in_progress")}});
    events += event("response.in_progress", {{"response", response_json("in_progress")}});
    events += event("response.output_item.added", {{"output_index", 0}, {"item", item}});
    events += event("response.content_part.added", at_part({{"part", part_json("")}}));
    return events;
  }

  std::string part(std::size_t, const ChoicePart& part) override {
    if (part.text.empty()) return {};
    return event("response.output_text.delta",
                 at_part({{"delta", part.text}, {"logprobs", Json::array()}}));
  }

  std::string closing(std::span<const ChoicePart> choices, const Usage& usage, bool) override {
    const ChoicePart& choice = choices.front();
    const Json response = whole(choices, usage);
    const bool is_cut = choice.finish == "length";
    std::string events;
    events += event("response.output_text.done",
                    at_part({{"text", choice.text}, {"logprobs", Json::array()}}));
    events += event("response.content_part.done", at_part({{"part", part_json(choice.text)}}));
    events += event("response.output_item.done",
                    {{"output_index", 0}, {"item", response["output"].front()}});
    events +=
        event(is_cut ? "response.incomplete" : "response.completed", {{"response", response}});
    return events;
  }

 private:
  std::string event(std::string_view type, Json fields) {
    Json event = {{"type", type}, {"sequence_number", n_events_++}};
    event.update(fields);
    return fmt::format("event: {}\n", type) + sse(dump(event));
  }
  Json at_part(Json fields) const {
    Json place = {{"item_id", item_id()}, {"output_index", 0}, {"content_index", 0}};
    place.update(fields);
    return place;
  }
  std::string item_id() const { return "msg_" + options_.head.id; }

  static Json part_json(const std::string& text) {
    return {{"type", "output_text"},
            {"text", text},
            {"annotations", Json::array()},
            {"logprobs", Json::array()}};
  }
  Json item_json(const std::string& text, std::string_view status) const {
    return {{"type", "message"},
            {"id", item_id()},
            {"status", status},
            {"role", "assistant"},
            {"content", Json::array({part_json(text)})}};
  }
  Json response_json(std::string_view status) const {
    return {{"id", "resp_" + options_.head.id},
            {"object", "response"},
            {"created_at", options_.head.created},
            {"status", status},
            {"error", nullptr},
            {"incomplete_details", nullptr},
            {"instructions", nullptr},
            {"metadata", Json::object()},
            {"model", options_.head.model},
            {"output", Json::array()},
            {"parallel_tool_calls", false},
            {"previous_response_id", nullptr},
            {"store", false},
            {"temperature", nullptr},
            {"tool_choice", "none"},
            {"tools", Json::array()},
            {"top_p", nullptr},
            {"usage", nullptr}};
  }

  FormatOptions options_;
  std::int64_t n_events_ = 0;
};

}  // namespace

std::unique_ptr<AnswerFormat> make_response_format(const FormatOptions& options) {
  return std::make_unique<ResponseFormat>(options);
}

}  // namespace lowbit
