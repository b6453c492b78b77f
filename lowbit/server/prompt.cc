// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/prompt.h"

#include <algorithm>

#include <fmt/format.h>

namespace lowbit {
namespace {

std::string piece_of(const Tokenizer& tokenizer, const std::optional<TokenId>& id) {
  return id ? std::string(tokenizer.piece(*id)) : std::string();
}

}  // namespace

Refusal check_model(const std::string& name, const ServedModel& model) {
  if (name.empty() || std::ranges::find(model.names, name) != model.names.end()) return {};
  return ApiError{.status = 404,
                  .message = fmt::format("the model '{}' is not served here; this is '{}'",
                                         name.substr(0, 200), model.names.front()),
                  .param = "model",
                  .code = "model_not_found"};
}

Refusal render(const ChatRequest& request, const ServedModel& model, MarkedText& text) {
  if (Refusal refusal = check_model(request.model, model)) return refusal;
  if (!model.chat_template) {
    return ApiError{.message = fmt::format("{}; /v1/completions works", model.no_template),
                    .param = "messages",
                    .code = "chat_template_missing"};
  }
  if (!request.tools.is_null() && !model.template_reads_tools) {
    return bad_field("tools", "this model's chat template knows no tools");
  }
  const Tokenizer& tokenizer = model.tokenizer();
  Json variables = request.template_variables;
  variables["messages"] = request.messages;
  if (!request.tools.is_null()) variables["tools"] = request.tools;
  variables["add_generation_prompt"] = request.add_generation_prompt;
  variables["bos_token"] = piece_of(tokenizer, tokenizer.bos());
  variables["eos_token"] = piece_of(tokenizer, tokenizer.eos());
  auto rendered = model.chat_template->render(variables);
  if (!rendered) return bad_field("messages", rendered.error().message());
  text = *std::move(rendered);
  if (!request.continue_final_message) return {};
  // The template closes the last message; what it puts behind the message's text is taken off.
  const Json& content = field_of(request.messages.back(), "content");
  const std::string whole = text.str();
  const std::string last = content.is_string() ? content.get<std::string>() : std::string();
  const std::size_t at = whole.rfind(last);
  if (last.empty() || at == std::string::npos) {
    return bad_field("continue_final_message",
                     "the chat template changes the last message, so it cannot be continued");
  }
  std::size_t n_left = at + last.size();
  MarkedText kept;
  for (const MarkedText::Span& span : text.spans) {
    const std::size_t n_taken = std::min(n_left, span.text.size());
    kept.append(std::string_view(span.text).substr(0, n_taken), span.trusted);
    n_left -= n_taken;
  }
  text = std::move(kept);
  return {};
}

Refusal chat_ids(const ChatRequest& request, const ServedModel& model,
                 std::vector<std::int32_t>& ids) {
  MarkedText text;
  if (Refusal refusal = render(request, model, text)) return refusal;
  ids = model.tokenizer().encode(text, /*add_bos=*/true);
  return {};
}

Refusal prompt_ids(const Prompt& prompt, const ServedModel& model, std::vector<std::int32_t>& ids) {
  if (const auto* given = std::get_if<std::vector<std::int32_t>>(&prompt)) {
    const std::int64_t n_vocab = model.tokenizer().n_vocab();
    for (const std::int32_t id : *given) {
      if (id < n_vocab) continue;
      return bad_field("prompt",
                       fmt::format("the token id {} is not in this model's vocabulary of {}; ids "
                                   "of another tokenizer do not fit (LangChain's embeddings: "
                                   "check_embedding_ctx_length=False)",
                                   id, n_vocab));
    }
    ids = *given;
  } else {
    ids = model.tokenizer().encode(std::get<std::string>(prompt), /*add_bos=*/true,
                                   /*parse_special=*/true);
  }
  if (ids.empty()) return bad_field("prompt", "the prompt has no tokens; give at least one");
  return {};
}

Refusal check_generation(std::int64_t n_prompt, const Generation& generation,
                         const ServedModel& model) {
  const std::int64_t n_ctx = model.n_ctx();
  const std::int64_t n_answer = generation.max_tokens.value_or(1);
  if (n_prompt + n_answer > n_ctx) {
    return ApiError{.message = fmt::format(
                        "this model's context is {} tokens; the prompt has {} and the "
                        "answer {} {}; shorten the prompt or lower max_tokens",
                        n_ctx, n_prompt, generation.max_tokens ? "may have" : "needs", n_answer),
                    .param = generation.max_tokens && n_prompt < n_ctx ? "max_tokens" : "messages",
                    .code = "context_length_exceeded"};
  }
  const std::int64_t n_vocab = model.tokenizer().n_vocab();
  if (const Status status = check(generation.sampling, n_vocab); !status) {
    return ApiError{.message = status.error().message()};
  }
  return {};
}

Request engine_request(std::vector<std::int32_t> ids, const Generation& generation,
                       std::uint64_t seed, std::int64_t choice, std::string salt) {
  Request request;
  request.prompt = std::move(ids);
  request.sampling = generation.sampling;
  request.sampling.seed = seed + static_cast<std::uint64_t>(choice);
  if (generation.max_tokens) request.max_tokens = *generation.max_tokens;
  request.stop_ids = generation.stop_ids;
  request.stop_strings = generation.stop;
  request.ignore_end = generation.ignore_end;
  request.min_tokens = generation.min_tokens;
  request.n_top = generation.n_top_logprobs;
  request.priority = generation.priority;
  request.cache_salt = std::move(salt);
  return request;
}

}  // namespace lowbit
