// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/answer_format.h"

#include <algorithm>

#include <fmt/format.h>

namespace lowbit {
namespace {

std::string json_text(std::string_view text) {
  return dump(Json(std::string(text)));
}

std::string json_text_or_null(const std::string& text) {
  return text.empty() ? "null" : json_text(text);
}

std::string token_text(const Tokenizer& tokenizer, std::int32_t id) {
  return tokenizer.decode(std::span(&id, 1), /*skip_special=*/false);
}

/// JSON has no infinity; OpenAI writes this for a token that cannot be.
double finite(float logprob) {
  constexpr double least = -9999;
  return std::max(static_cast<double>(logprob), least);
}

Json token_json(const Tokenizer& tokenizer, std::int32_t id, float logprob) {
  Json bytes = Json::array();
  for (const char c : tokenizer.piece(id)) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", token_text(tokenizer, id)},
          {"logprob", finite(logprob)},
          {"bytes", std::move(bytes)}};
}

/// What every chunk of a stream begins with.
std::string chunk_prefix(std::string_view id, std::string_view object, const AnswerHead& head) {
  return fmt::format(R"({{"id":{},"object":"{}","created":{},"model":{},"system_fingerprint":{},)",
                     json_text(id), object, head.created, json_text(head.model),
                     json_text(head.fingerprint));
}

std::string last_events(const std::string& prefix, const Usage& usage, bool include_usage) {
  std::string events;
  if (include_usage) {
    events = sse(prefix + R"("choices":[],"usage":)" + dump(to_json(usage)) + "}");
  }
  return events + sse("[DONE]");
}

class ChatFormat final : public AnswerFormat {
 public:
  explicit ChatFormat(const FormatOptions& options) : options_(options) {
    prefix_ = chunk_prefix(id(), "chat.completion.chunk", options_.head);
  }

  Json whole(std::span<const ChoicePart> choices, const Usage& usage) const override {
    Json list = Json::array();
    for (const ChoicePart& choice : choices) {
      Json message = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
      if (!choice.tool_calls.empty()) {
        if (choice.text.empty()) message["content"] = nullptr;
        message["tool_calls"] = calls_json(choice.tool_calls, /*with_index=*/false, 0);
      }
      list.push_back({{"index", list.size()},
                      {"message", std::move(message)},
                      {"logprobs", logprobs_json(choice.logprobs)},
                      {"finish_reason", choice.finish}});
    }
    return {{"id", id()},
            {"object", "chat.completion"},
            {"created", options_.head.created},
            {"model", options_.head.model},
            {"choices", std::move(list)},
            {"usage", to_json(usage)},
            {"system_fingerprint", options_.head.fingerprint}};
  }

  std::string opening(std::size_t choice) override {
    return event(choice, R"({"role":"assistant","content":""})", "null", "null");
  }

  std::string part(std::size_t choice, const ChoicePart& part) override {
    std::string events;
    if (!part.text.empty() || !part.logprobs.empty()) {
      events += event(choice, fmt::format(R"({{"content":{}}})", json_text(part.text)),
                      dump(logprobs_json(part.logprobs)), "null");
    }
    if (!part.tool_calls.empty()) {
      if (n_calls_.size() <= choice) n_calls_.resize(choice + 1);
      const Json calls = calls_json(part.tool_calls, /*with_index=*/true, n_calls_[choice]);
      n_calls_[choice] += part.tool_calls.size();
      events += event(choice, fmt::format(R"({{"tool_calls":{}}})", dump(calls)), "null", "null");
    }
    if (!part.finish.empty()) events += event(choice, "{}", "null", json_text(part.finish));
    return events;
  }

  std::string closing(std::span<const ChoicePart>, const Usage& usage,
                      bool include_usage) override {
    return last_events(prefix_, usage, include_usage);
  }

 private:
  std::string id() const { return "chatcmpl-" + options_.head.id; }

  std::string event(std::size_t choice, std::string_view delta, std::string_view logprobs,
                    std::string_view finish) const {
    return sse(
        fmt::format(R"({}"choices":[{{"index":{},"delta":{},"logprobs":{},"finish_reason":{}}}]}})",
                    prefix_, choice, delta, logprobs, finish));
  }

  Json logprobs_json(std::span<const TokenLogprobs> logprobs) const {
    if (!options_.has_logprobs) return nullptr;
    const Tokenizer& tokenizer = *options_.tokenizer;
    Json content = Json::array();
    for (const TokenLogprobs& token : logprobs) {
      Json entry = token_json(tokenizer, token.token, token.logprob);
      Json top = Json::array();
      for (const auto [id, logprob] : token.top) top.push_back(token_json(tokenizer, id, logprob));
      entry["top_logprobs"] = std::move(top);
      content.push_back(std::move(entry));
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }

  static Json calls_json(std::span<const ToolCall> calls, bool with_index, std::size_t first) {
    Json list = Json::array();
    for (const ToolCall& call : calls) {
      Json entry = Json::object();
      if (with_index) entry["index"] = first + list.size();
      entry["id"] = call.id;
      entry["type"] = "function";
      entry["function"] = {{"name", call.name}, {"arguments", call.arguments}};
      list.push_back(std::move(entry));
    }
    return list;
  }

  FormatOptions options_;
  std::string prefix_;
  std::vector<std::size_t> n_calls_;  // told so far, by choice
};

class CompletionFormat final : public AnswerFormat {
 public:
  explicit CompletionFormat(const FormatOptions& options) : options_(options) {
    prefix_ = chunk_prefix(id(), "text_completion", options_.head);
  }

  Json whole(std::span<const ChoicePart> choices, const Usage& usage) const override {
    Json list = Json::array();
    for (const ChoicePart& choice : choices) {
      std::size_t offset = 0;
      list.push_back({{"index", list.size()},
                      {"text", choice.text},
                      {"logprobs", logprobs_json(choice.logprobs, offset)},
                      {"finish_reason", choice.finish}});
    }
    return {{"id", id()},
            {"object", "text_completion"},
            {"created", options_.head.created},
            {"model", options_.head.model},
            {"choices", std::move(list)},
            {"usage", to_json(usage)},
            {"system_fingerprint", options_.head.fingerprint}};
  }

  std::string opening(std::size_t) override { return {}; }

  std::string part(std::size_t choice, const ChoicePart& part) override {
    if (offsets_.size() <= choice) offsets_.resize(choice + 1);
    if (part.text.empty() && part.logprobs.empty() && part.finish.empty()) return {};
    const Json logprobs = logprobs_json(part.logprobs, offsets_[choice]);
    return sse(fmt::format(
        R"({}"choices":[{{"index":{},"text":{},"logprobs":{},"finish_reason":{}}}]}})", prefix_,
        choice, json_text(part.text), dump(logprobs), json_text_or_null(part.finish)));
  }

  std::string closing(std::span<const ChoicePart>, const Usage& usage,
                      bool include_usage) override {
    return last_events(prefix_, usage, include_usage);
  }

 private:
  std::string id() const { return "cmpl-" + options_.head.id; }

  /// offset: bytes of the tokens before these; it moves on.
  Json logprobs_json(std::span<const TokenLogprobs> logprobs, std::size_t& offset) const {
    if (!options_.has_logprobs) return nullptr;
    const Tokenizer& tokenizer = *options_.tokenizer;
    Json tokens = Json::array(), chosen = Json::array(), tops = Json::array(),
         offsets = Json::array();
    for (const TokenLogprobs& token : logprobs) {
      const std::string text = token_text(tokenizer, token.token);
      tokens.push_back(text);
      chosen.push_back(finite(token.logprob));
      Json top = Json::object();
      for (const auto [id, logprob] : token.top) {
        const std::string name = token_text(tokenizer, id);
        if (!top.contains(name)) top[name] = finite(logprob);  // parts of characters print alike
      }
      tops.push_back(std::move(top));
      offsets.push_back(offset);
      offset += text.size();
    }
    return {{"tokens", std::move(tokens)},
            {"token_logprobs", std::move(chosen)},
            {"top_logprobs", std::move(tops)},
            {"text_offset", std::move(offsets)}};
  }

  FormatOptions options_;
  std::string prefix_;
  std::vector<std::size_t> offsets_;
};

}  // namespace

Json to_json(const Usage& usage) {
  return {{"prompt_tokens", usage.n_prompt},
          {"completion_tokens", usage.n_completion},
          {"total_tokens", usage.n_prompt + usage.n_completion},
          {"prompt_tokens_details", {{"cached_tokens", usage.n_cached}}}};
}

std::string sse(std::string_view json) {
  std::string event = "data: ";
  event += json;
  event += "\n\n";
  return event;
}

std::unique_ptr<AnswerFormat> make_chat_format(const FormatOptions& options) {
  return std::make_unique<ChatFormat>(options);
}

std::unique_ptr<AnswerFormat> make_completion_format(const FormatOptions& options) {
  return std::make_unique<CompletionFormat>(options);
}

}  // namespace lowbit
