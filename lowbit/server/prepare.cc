// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/prepare.h"

#include <utility>

#include "lowbit/server/prompt.h"

namespace lowbit {
namespace {

using NewConstraint = Result<std::unique_ptr<TokenConstraint>>;

/// For one answer; `tools` as the request gives them.
NewConstraint constraint_of(const AnswerRule& rule, const Json& tools, ConstraintCache& cache) {
  if (rule.kind == AnswerRule::Kind::json_object) return cache.json_object();
  if (rule.kind == AnswerRule::Kind::json_schema) return cache.json_schema(rule.schema);
  std::vector<ToolDefinition> callable;
  for (const Json& tool : tools) {
    const Json& function = tool["function"];
    const std::string& name = function["name"].get_ref<const std::string&>();
    if (!rule.tool.empty() && rule.tool != name) continue;
    const Json& parameters = field_of(function, "parameters");
    callable.push_back({name, parameters.is_null() ? nullptr : &parameters});
  }
  const bool may_answer = rule.kind == AnswerRule::Kind::text_or_tool_calls;
  return cache.tool_calls(callable, may_answer, rule.is_parallel && rule.tool.empty());
}

/// Holds every answer to the rule.
Refusal constrain_jobs(const AnswerRule& rule, const Json& tools, const ServedModel& model,
                       std::vector<Job>& jobs) {
  if (rule.kind == AnswerRule::Kind::none) return {};
  const bool is_format =
      rule.kind == AnswerRule::Kind::json_object || rule.kind == AnswerRule::Kind::json_schema;
  const std::string_view field = is_format ? "response_format" : "tools";
  if (model.constraints == nullptr) return bad_field(field, model.no_constraints);
  for (Job& job : jobs) {
    auto constraint = constraint_of(rule, tools, *model.constraints);
    if (!constraint) return bad_field(field, constraint.error().message());
    job.request.constraint = *std::move(constraint);
  }
  return {};
}

/// A key holds no zero byte, so no two pairs make the same.
std::string joined_salt(const RequestScope& scope, const std::string& cache_salt) {
  return scope.key_salt + '\0' + cache_salt;
}

Refusal add_jobs(std::vector<std::int32_t> ids, const ServedModel& model, const RequestScope& scope,
                 Prepared& prepared) {
  const Generation& generation = prepared.generation;
  const std::uint64_t seed = generation.seed.value_or(scope.random_seed);
  const std::string salt = joined_salt(scope, generation.cache_salt);
  const auto n_prompt = static_cast<std::int64_t>(ids.size());
  if (Refusal refusal = check_generation(n_prompt, generation, model)) return refusal;
  prepared.n_prompt += n_prompt;
  for (std::int64_t choice = 0; choice < generation.n_choices; ++choice) {
    prepared.jobs.push_back(
        {.id = 0, .request = engine_request(ids, generation, seed, choice, salt)});
  }
  return {};
}

Refusal prepare_chat(ChatRequest& request, const ServedModel& model, const RequestScope& scope,
                     Prepared& prepared) {
  std::vector<std::int32_t> ids;
  if (Refusal refusal = chat_ids(request, model, ids)) return refusal;
  if (ids.empty()) return bad_field("messages", "the chat template makes an empty prompt of this");
  prepared.generation = std::move(request.generation);
  prepared.has_tools = !request.tools.is_null();
  Refusal refusal = add_jobs(std::move(ids), model, scope, prepared);
  return refusal ? refusal : constrain_jobs(request.rule, request.tools, model, prepared.jobs);
}

Refusal prepare_completion(CompletionRequest& request, const ServedModel& model,
                           const RequestScope& scope, Prepared& prepared) {
  if (Refusal refusal = check_model(request.model, model)) return refusal;
  prepared.generation = std::move(request.generation);
  for (const Prompt& prompt : request.prompts) {
    std::vector<std::int32_t> ids;
    if (Refusal refusal = prompt_ids(prompt, model, ids)) return refusal;
    if (request.echo) {
      const auto* text = std::get_if<std::string>(&prompt);
      const std::string echo = text != nullptr ? *text : model.tokenizer().decode(ids);
      const auto n_choices = static_cast<std::size_t>(prepared.generation.n_choices);
      prepared.echoes.insert(prepared.echoes.end(), n_choices, echo);
    }
    if (Refusal refusal = add_jobs(std::move(ids), model, scope, prepared)) {
      if (refusal->param == "messages") refusal->param = "prompt";
      return refusal;
    }
  }
  return constrain_jobs(request.rule, /*tools=*/nullptr, model, prepared.jobs);
}

Refusal tokenize(const TokenizeRequest& request, const ServedModel& model, Json& reply) {
  const Tokenizer& tokenizer = model.tokenizer();
  std::vector<std::int32_t> ids;
  if (request.text) {
    if (Refusal refusal = check_model(request.chat.model, model)) return refusal;
    ids = tokenizer.encode(*request.text, request.add_special, /*parse_special=*/true);
  } else if (Refusal refusal = chat_ids(request.chat, model, ids)) {
    return refusal;
  }
  reply = {{"count", ids.size()}, {"max_model_len", model.n_ctx()}, {"tokens", ids}};
  if (request.with_pieces) {
    Json pieces = Json::array();
    for (const std::int32_t id : ids) {
      pieces.push_back(tokenizer.decode(std::span(&id, 1), /*skip_special=*/false));
    }
    reply["token_strs"] = std::move(pieces);
  }
  return {};
}

Refusal detokenize(const DetokenizeRequest& request, const ServedModel& model, Json& reply) {
  if (Refusal refusal = check_model(request.model, model)) return refusal;
  std::vector<std::int32_t> ids;
  if (!request.tokens.empty()) {
    if (Refusal refusal = prompt_ids(request.tokens, model, ids)) {
      refusal->param = "tokens";
      return refusal;
    }
  }
  reply = {{"prompt", model.tokenizer().decode(ids, /*skip_special=*/false)}};
  return {};
}

Refusal prepare_embedding(const EmbeddingRequest& request, const ServedModel& model,
                          const RequestScope& scope, Prepared& prepared) {
  if (Refusal refusal = check_model(request.model, model)) return refusal;
  Generation alone;
  alone.max_tokens = 0;
  for (const Prompt& input : request.inputs) {
    std::vector<std::int32_t> ids;
    Refusal refusal = prompt_ids(input, model, ids);
    const auto n_prompt = static_cast<std::int64_t>(ids.size());
    if (!refusal) refusal = check_generation(n_prompt, alone, model);
    if (refusal) {
      refusal->param = "input";
      return refusal;
    }
    prepared.n_prompt += n_prompt;
    Job& job = prepared.jobs.emplace_back();
    job.request.prompt = std::move(ids);
    job.request.wants_embedding = true;
    job.request.cache_salt = joined_salt(scope, request.cache_salt);
  }
  return {};
}

Refusal read(Endpoint endpoint, const Json& body, const ServedModel& model,
             const RequestScope& scope, Prepared& prepared) {
  switch (endpoint) {
    case Endpoint::chat:
    case Endpoint::responses: {
      ChatRequest request;
      request.generation.sampling = model.defaults;
      const auto parse = endpoint == Endpoint::chat ? parse_chat : parse_response;
      if (Refusal refusal = parse(body, request)) return refusal;
      prepared.ignored = request.ignored;
      return prepare_chat(request, model, scope, prepared);
    }
    case Endpoint::completions: {
      CompletionRequest request;
      request.generation.sampling = model.defaults;
      if (Refusal refusal = parse_completion(body, request)) return refusal;
      prepared.ignored = request.ignored;
      // OpenAI's default for this old API; a chat goes on to the model's own end.
      constexpr std::int64_t default_max_tokens = 16;
      if (!request.generation.max_tokens) request.generation.max_tokens = default_max_tokens;
      return prepare_completion(request, model, scope, prepared);
    }
    case Endpoint::embeddings: {
      EmbeddingRequest request;
      if (Refusal refusal = parse_embedding(body, request)) return refusal;
      prepared.ignored = request.ignored;
      prepared.as_base64 = request.as_base64;
      return prepare_embedding(request, model, scope, prepared);
    }
    case Endpoint::tokenize: {
      TokenizeRequest request;
      if (Refusal refusal = parse_tokenize(body, request)) return refusal;
      return tokenize(request, model, prepared.reply.emplace());
    }
    case Endpoint::detokenize: {
      DetokenizeRequest request;
      if (Refusal refusal = parse_detokenize(body, request)) return refusal;
      return detokenize(request, model, prepared.reply.emplace());
    }
    case Endpoint::apply_template: {
      ChatRequest request;
      MarkedText text;
      if (Refusal refusal = parse_apply_template(body, request)) return refusal;
      if (Refusal refusal = render(request, model, text)) return refusal;
      prepared.reply = Json{{"prompt", text.str()}};
      return {};
    }
  }
  return {};
}

}  // namespace

ParsedBody parse_body(Endpoint endpoint, std::string_view body) {
  ParsedBody parsed;
  auto json = parse_json(body);
  if (!json) {
    parsed.refusal = ApiError{.message = "the body: " + json.error().message()};
    return parsed;
  }
  std::vector<std::string> ignored;
  parsed.refusal = check_fields(*json, endpoint, ignored);
  if (parsed.refusal) return parsed;
  if (const Json& model = field_of(*json, "model"); model.is_string()) parsed.model = model;
  parsed.json = *std::move(json);
  return parsed;
}

Prepared prepare(Endpoint endpoint, const Json& body, const ServedModel& model,
                 const RequestScope& scope) {
  Prepared prepared{.endpoint = endpoint};
  prepared.refusal = read(endpoint, body, model, scope, prepared);
  return prepared;
}

}  // namespace lowbit
