// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/engine.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace lowbit {

struct Engine::Sequence {
  RequestId id = 0;
  Request request;
  std::vector<std::int32_t> tokens;  // prompt, then what was generated
  std::int64_t n_computed = 0;       // tokens whose keys and values are in the cache
  std::int64_t n_scheduled = 0;      // tokens of this step
  bool is_cancelled = false;         // during this step; its end removes the sequence
  KvSequence kv;
  std::optional<StreamDecoder> decoder;  // none without a tokenizer
  StopStrings stops;

  Sequence(RequestId id_, Request request_, const Tokenizer* tokenizer)
      : id(id_), request(std::move(request_)), tokens(request.prompt), stops(request.stop_strings) {
    if (tokenizer != nullptr) decoder.emplace(*tokenizer);
  }
  std::int64_t n_tokens() const { return static_cast<std::int64_t>(tokens.size()); }
  std::int64_t n_pending() const { return n_tokens() - n_computed; }
  std::int64_t n_prompt() const { return static_cast<std::int64_t>(request.prompt.size()); }
  std::int64_t n_generated() const { return n_tokens() - n_prompt(); }
};

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
  }
  return "?";
}

Result<std::unique_ptr<Engine>> Engine::create(Backend& backend, const ModelWeights& model,
                                               const Tokenizer* tokenizer,
                                               const EngineOptions& options) {
  EngineOptions used = options;
  const ModelConfig& config = model.config;
  if (used.n_ctx == 0) used.n_ctx = config.n_ctx_train;
  if (used.n_kv_positions == 0) used.n_kv_positions = used.n_ctx;
  if (used.n_ctx < 2 || used.n_ctx > config.n_ctx_train) {
    return Error(fmt::format("a context of {} tokens is not possible; the model's is {}",
                             used.n_ctx, config.n_ctx_train));
  }
  if (used.n_kv_positions < used.n_ctx) {
    return Error(fmt::format("a KV cache of {} positions cannot hold one context of {} tokens",
                             used.n_kv_positions, used.n_ctx));
  }
  if (used.max_sequences < 1 || used.prefill_chunk < 1 || used.step_tokens < used.max_sequences) {
    return Error(
        fmt::format("a step of {} tokens is too small for {} sequences and prompts in "
                    "chunks of {}",
                    used.step_tokens, used.max_sequences, used.prefill_chunk));
  }
  const KvShape shape{used.kv, config.n_layers, config.n_kv_heads, config.head_dim};
  auto cache = KvCache::create(backend, shape, used.n_kv_positions);
  if (!cache) return std::move(cache).error();
  return std::unique_ptr<Engine>(new Engine(backend, model, tokenizer, used, *std::move(cache)));
}

Engine::Engine(Backend& backend, const ModelWeights& model, const Tokenizer* tokenizer,
               const EngineOptions& options, KvCache cache)
    : model_(model),
      tokenizer_(tokenizer),
      options_(options),
      cache_(std::move(cache)),
      forward_(backend, model, options.step_tokens) {}

Engine::~Engine() = default;

Result<RequestId> Engine::add_request(Request request) {
  const auto n_prompt = static_cast<std::int64_t>(request.prompt.size());
  if (n_prompt == 0) return Error("the prompt has no tokens; give at least one");
  if (n_prompt >= options_.n_ctx) {
    return Error(
        fmt::format("the prompt has {} tokens, the context holds {} with one of them for "
                    "the answer; shorten the prompt or enlarge the context",
                    n_prompt, options_.n_ctx));
  }
  if (request.max_tokens < 1) {
    return Error(fmt::format("max_tokens is {}; it must be 1 or more", request.max_tokens));
  }
  for (const std::int32_t token : request.prompt) {
    if (token < 0 || token >= model_.config.n_vocab) {
      return Error(fmt::format("the prompt holds the token id {}, the model has 0 to {}", token,
                               model_.config.n_vocab - 1));
    }
  }
  if (!request.stop_strings.empty() && tokenizer_ == nullptr) {
    return Error("stop strings need a tokenizer; this engine was made without one");
  }
  auto checked = check(request.sampling, model_.config.n_vocab);
  if (!checked) return std::move(checked).error();
  waiting_.push_back(std::make_unique<Sequence>(next_id_, std::move(request), tokenizer_));
  return next_id_++;
}

bool Engine::cancel(RequestId id) {
  const auto has_id = [id](const std::unique_ptr<Sequence>& sequence) {
    return id != 0 && sequence->id == id;  // 0: finished in this step
  };
  if (const auto at = std::ranges::find_if(running_, has_id); at != running_.end()) {
    if (is_stepping_) {
      if ((*at)->is_cancelled) return false;
      (*at)->is_cancelled = true;
    } else {
      cache_.release((*at)->kv);
      running_.erase(at);
    }
  } else if (const auto queued = std::ranges::find_if(waiting_, has_id); queued != waiting_.end()) {
    waiting_.erase(queued);
  } else {
    return false;
  }
  pending_.push_back({.id = id, .finish = FinishReason::cancelled});
  return true;
}

std::span<const Output> Engine::step() {
  outputs_ = std::exchange(pending_, {});
  for (const auto& sequence : running_) sequence->n_scheduled = 0;
  std::int64_t budget = options_.step_tokens;
  schedule_decodes(budget);
  schedule_prompts(budget);
  admit(budget);

  step_sequences_.clear();
  stepped_.clear();
  for (const auto& sequence : running_) {
    if (sequence->n_scheduled == 0) continue;
    const bool is_complete = sequence->n_scheduled == sequence->n_pending();
    step_sequences_.push_back(
        {.tokens = std::span(sequence->tokens)
                       .subspan(static_cast<std::size_t>(sequence->n_computed),
                                static_cast<std::size_t>(sequence->n_scheduled)),
         .first_position = sequence->n_computed,
         .kv = &sequence->kv,
         .n_logits = is_complete ? 1 : 0});
    stepped_.push_back(sequence.get());
  }
  if (stepped_.empty()) return outputs_;

  is_stepping_ = true;
  const MatrixView logits = forward_.run(step_sequences_, cache_);
  std::int64_t next_row = 0;
  for (std::size_t i = 0; i < stepped_.size(); ++i) {
    stepped_[i]->n_computed += stepped_[i]->n_scheduled;
    if (step_sequences_[i].n_logits > 0) choose_token(*stepped_[i], logits.row_span(next_row++));
  }
  is_stepping_ = false;
  std::erase_if(running_, [&](const std::unique_ptr<Sequence>& sequence) {
    // choose_token marks finished ones with id 0
    if (sequence->id != 0 && !sequence->is_cancelled) return false;
    cache_.release(sequence->kv);
    return true;
  });
  return outputs_;
}

void Engine::schedule_decodes(std::int64_t& budget) {
  for (std::size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.n_pending() != 1) continue;
    while (i < running_.size() && !cache_.grow(sequence.kv, sequence.n_tokens())) {
      preempt_newest();  // at the latest this sequence itself
    }
    if (i >= running_.size()) return;
    sequence.n_scheduled = 1;
    --budget;
  }
}

void Engine::schedule_prompts(std::int64_t& budget) {
  for (const auto& sequence : running_) {
    if (sequence->n_scheduled > 0 || budget == 0) continue;
    sequence->n_scheduled = std::min({sequence->n_pending(), options_.prefill_chunk, budget});
    budget -= sequence->n_scheduled;
  }
}

/// First come, first served. One free block for every running sequence stays back, so that an
/// admission is not undone at once.
void Engine::admit(std::int64_t& budget) {
  while (budget > 0 && !waiting_.empty() && n_running() < options_.max_sequences) {
    Sequence& sequence = *waiting_.front();
    const std::int64_t n_needed = KvCache::n_blocks_for(sequence.n_tokens());
    if (n_needed + n_running() > cache_.n_free_blocks()) return;
    if (!cache_.grow(sequence.kv, sequence.n_tokens())) return;
    sequence.n_scheduled = std::min({sequence.n_pending(), options_.prefill_chunk, budget});
    budget -= sequence.n_scheduled;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

void Engine::preempt_newest() {
  Sequence& newest = *running_.back();
  cache_.release(newest.kv);
  newest.n_computed = newest.n_scheduled = 0;
  waiting_.push_front(std::move(running_.back()));
  running_.pop_back();
  ++n_preemptions_;
}

void Engine::choose_token(Sequence& sequence, std::span<const float> logits) {
  const std::int64_t position = sequence.n_tokens();
  if (sequence.is_cancelled) return;
  if (sequence.request.on_logits) sequence.request.on_logits(position, logits);
  if (sequence.is_cancelled) return;
  const auto n_prompt = static_cast<std::size_t>(sequence.n_prompt());
  const EarlierTokens earlier{std::span(sequence.tokens).first(n_prompt),
                              std::span(sequence.tokens).subspan(n_prompt)};
  const std::int32_t token = sampler_.sample(logits, sequence.request.sampling, earlier,
                                             static_cast<std::uint64_t>(position));
  sequence.tokens.push_back(token);
  Output& output = outputs_.emplace_back();
  output.id = sequence.id;
  output.token = token;
  output.finish = finish_of(sequence, token);
  show(sequence, output);
  if (output.finish) sequence.id = 0;
}

std::optional<FinishReason> Engine::finish_of(const Sequence& sequence, std::int32_t token) const {
  const Request& request = sequence.request;
  if (std::ranges::find(request.stop_ids, token) != request.stop_ids.end() ||
      (tokenizer_ != nullptr && !request.ignore_end && tokenizer_->is_end(token))) {
    return FinishReason::stop;
  }
  if (sequence.n_generated() >= request.max_tokens || sequence.n_tokens() >= options_.n_ctx) {
    return FinishReason::length;
  }
  return std::nullopt;
}

/// Text of the newest token; a stop string in it finishes the request.
void Engine::show(Sequence& sequence, Output& output) {
  if (!sequence.decoder) return;
  std::string text;
  if (output.finish != FinishReason::stop) text = sequence.decoder->push(*output.token);
  if (output.finish) text += sequence.decoder->flush();
  StopStrings::Fed fed = sequence.stops.feed(text);
  output.text = std::move(fed.text);
  if (fed.stopped) {
    output.finish = FinishReason::stop;
  } else if (output.finish) {
    output.text += sequence.stops.finish();
  }
}

}  // namespace lowbit
