// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "lowbit/kernels/kernel_table.h"

namespace lowbit {
namespace {

double steady_seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

/// With everything that was left open; an error where that cannot be.
Result<EngineOptions> complete(EngineOptions options, const ModelConfig& config) {
  if (options.n_ctx == 0) options.n_ctx = config.n_ctx_train;
  if (options.n_ctx < 2 || options.n_ctx > config.n_ctx_train) {
    return Error(fmt::format("a context of {} tokens is not possible; the model's is {}",
                             options.n_ctx, config.n_ctx_train));
  }
  if (options.n_kv_positions == 0 && options.kv_bytes != 0) {
    const std::int64_t block_bytes =
        kv_block_bytes({options.kv, config.n_layers, config.n_kv_heads, config.head_dim});
    options.n_kv_positions = options.kv_bytes / block_bytes * kv_block_positions;
    if (options.n_kv_positions < options.n_ctx) {
      return Error(fmt::format(
          "{} bytes of KV cache hold {} positions ({} bytes for every {}), fewer than one context "
          "of {} tokens; give it more memory or ask for a smaller context",
          options.kv_bytes, options.n_kv_positions, block_bytes, kv_block_positions,
          options.n_ctx));
    }
  }
  if (options.n_kv_positions == 0) options.n_kv_positions = options.n_ctx;
  if (options.n_kv_positions < options.n_ctx) {
    return Error(fmt::format("a KV cache of {} positions cannot hold one context of {} tokens",
                             options.n_kv_positions, options.n_ctx));
  }
  if (options.max_sequences < 1 || options.prefill_chunk < 1 ||
      options.step_tokens < options.max_sequences) {
    return Error(
        fmt::format("a step of {} tokens is too small for {} sequences and prompts in "
                    "chunks of {}",
                    options.step_tokens, options.max_sequences, options.prefill_chunk));
  }
  if (options.max_queued_requests < 0 || options.max_queued_tokens < 0 ||
      options.priority_span < 0) {
    return Error(fmt::format(
        "limits of the queue of {} requests and {} tokens with a priority's head start of {} are "
        "not possible; none may be below 0",
        options.max_queued_requests, options.max_queued_tokens, options.priority_span));
  }
  if (!(options.max_itl >= 0) || std::isinf(options.max_itl)) {
    return Error(fmt::format(
        "{} seconds between tokens are not possible; give 0 (no limit) or more", options.max_itl));
  }
  if (!options.clock) options.clock = steady_seconds;
  return options;
}

SchedulerOptions scheduler_options(const EngineOptions& options) {
  return {.max_sequences = options.max_sequences,
          .step_tokens = options.step_tokens,
          .prefill_chunk = options.prefill_chunk,
          .priority_span = options.priority_span,
          .prefix_cache = options.prefix_cache};
}

}  // namespace

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
  const ModelConfig& config = model.config;
  auto used = complete(options, config);
  if (!used) return std::move(used).error();
  const KvShape shape{used->kv, config.n_layers, config.n_kv_heads, config.head_dim};
  auto cache = KvCache::create(backend, shape, used->n_kv_positions);
  if (!cache) return std::move(cache).error();
  if (used->occupy_kv) cache->occupy();
  const auto kernels = select_kernels();
  if (!kernels) return Error(kernels.error());
  return std::unique_ptr<Engine>(
      new Engine(backend, model, tokenizer, *used, *std::move(cache), (*kernels)->vector));
}

Engine::Engine(Backend& backend, const ModelWeights& model, const Tokenizer* tokenizer,
               const EngineOptions& options, KvCache cache, const VectorKernels& kernels)
    : model_(model),
      tokenizer_(tokenizer),
      options_(options),
      scheduler_(std::move(cache), scheduler_options(options)),
      forward_(backend, model, options.step_tokens),
      kernels_(kernels),
      sampler_(kernels),
      allowed_(static_cast<std::size_t>(token_mask_words(model.config.n_vocab))) {}

Engine::~Engine() = default;

Result<RequestId> Engine::add_request(Request request, RefusalKind* refusal) {
  const auto refuse = [refusal](RefusalKind kind, Error error) {
    if (refusal != nullptr) *refusal = kind;
    return error;
  };
  const std::int64_t n_prompt = std::ssize(request.prompt);
  const std::int64_t n_answer = request.wants_embedding ? 0 : 1;
  if (n_prompt + n_answer > options_.n_ctx) {
    return refuse(
        RefusalKind::too_long,
        Error(fmt::format("the prompt has {} tokens, the context holds {}{}; shorten the prompt "
                          "or enlarge the context",
                          n_prompt, options_.n_ctx,
                          n_answer == 0 ? "" : " with one of them for the answer")));
  }
  if (Status checked = check_request(request); !checked) {
    return refuse(RefusalKind::invalid, std::move(checked).error());
  }
  if (is_queue_full(request)) {
    ++stats_.n_refused;
    return refuse(RefusalKind::queue_full,
                  Error(fmt::format("{} requests with {} prompt tokens are waiting already; try "
                                    "again later",
                                    scheduler_.n_waiting(), scheduler_.n_waiting_tokens())));
  }
  stats_.n_prompt_tokens += n_prompt;
  auto sequence = std::make_unique<Sequence>(next_id_, std::move(request), tokenizer_);
  sequence->arrived = options_.clock();
  scheduler_.add(std::move(sequence));
  return next_id_++;
}

Status Engine::check_request(const Request& request) const {
  const ModelConfig& config = model_.config;
  if (request.prompt.empty()) return Error("the prompt has no tokens; give at least one");
  for (const std::int32_t token : request.prompt) {
    if (token < 0 || token >= config.n_vocab) {
      return Error(fmt::format("the prompt holds the token id {}, the model has 0 to {}", token,
                               config.n_vocab - 1));
    }
  }
  if (request.max_tokens < 1) {
    return Error(fmt::format("max_tokens is {}; it must be 1 or more", request.max_tokens));
  }
  if (request.min_tokens < 0 || request.min_tokens > request.max_tokens) {
    return Error(fmt::format("min_tokens is {}; it must be from 0 to max_tokens ({})",
                             request.min_tokens, request.max_tokens));
  }
  if (request.n_top && (*request.n_top < 0 || *request.n_top > most_top_tokens)) {
    return Error(fmt::format("{} likeliest tokens are asked for; it must be from 0 to {}",
                             *request.n_top, most_top_tokens));
  }
  if (request.priority < -most_priority || request.priority > most_priority) {
    return Error(fmt::format("priority is {}; it must be from {} to {}", request.priority,
                             -most_priority, most_priority));
  }
  if (!request.stop_strings.empty() && tokenizer_ == nullptr) {
    return Error("stop strings need a tokenizer; this engine was made without one");
  }
  return check(request.sampling, config.n_vocab);
}

/// Requests that can run at once do not wait: they are queued for no longer than this step.
bool Engine::is_queue_full(const Request& request) const {
  const std::int64_t n_waiting = scheduler_.n_waiting();
  const std::int64_t n_places = options_.max_sequences - scheduler_.n_running();
  if (options_.max_queued_requests > 0 && n_waiting >= options_.max_queued_requests + n_places) {
    return true;
  }
  return options_.max_queued_tokens > 0 && n_waiting > 0 &&
         scheduler_.n_waiting_tokens() + std::ssize(request.prompt) > options_.max_queued_tokens;
}

bool Engine::cancel(RequestId id) {
  if (Sequence* const sequence = scheduler_.find_running(id)) {
    if (sequence->is_cancelled) return false;
    sequence->is_cancelled = true;
    pending_.push_back({.id = id, .finish = FinishReason::cancelled, .stats = sequence->stats});
    if (!is_stepping_) {
      scheduler_.remove_running([&](const Sequence& other) { return &other == sequence; });
    }
    return true;
  }
  if (!scheduler_.remove_waiting(id)) return false;
  pending_.push_back({.id = id, .finish = FinishReason::cancelled});
  return true;
}

std::span<const Output> Engine::step() {
  outputs_ = std::exchange(pending_, {});
  const double started = options_.clock();
  stats_.step_prompt_budget = next_prompt_budget();
  const std::span<Sequence* const> planned = scheduler_.plan(stats_.step_prompt_budget);
  if (planned.empty()) return outputs_;
  for (Sequence* const sequence : planned) {
    if (sequence->admitted) continue;
    sequence->admitted = started;
    sequence->stats.queue_seconds = started - sequence->arrived;
  }
  put_together(planned);

  const MatrixView logits = forward_.run(step_sequences_, scheduler_.cache());
  computed_ = options_.clock();
  is_stepping_ = true;
  std::int64_t next_row = 0;
  for (std::size_t i = 0; i < planned.size(); ++i) {
    planned[i]->n_computed += planned[i]->n_scheduled;
    if (step_sequences_[i].wants_hidden) add_hidden(*planned[i], forward_.hidden(i));
    if (step_sequences_[i].n_logits > 0) choose_token(*planned[i], logits.row_span(next_row++));
  }
  is_stepping_ = false;
  scheduler_.remove_running([](const Sequence& sequence) {
    return sequence.id == 0 || sequence.is_cancelled;  // 0: finished
  });

  stats_.step = {scheduler_.n_planned_decodes(), scheduler_.n_planned_prompt_tokens(),
                 options_.clock() - started};
  cost_.add(stats_.step);
  ++stats_.n_steps;
  stats_.step_seconds += stats_.step.seconds;
  stats_.n_computed_tokens += stats_.step.n_decodes + stats_.step.n_prompt_tokens;
  return outputs_;
}

/// While nobody generates, nobody waits for a next token.
std::int64_t Engine::next_prompt_budget() const {
  PromptBudgetLimits limits;
  limits.most = options_.step_tokens;
  limits.least = std::min(limits.least, limits.most);
  return scheduler_.n_generating() == 0 ? limits.most
                                        : prompt_budget(options_.max_itl, cost_, limits);
}

void Engine::put_together(std::span<Sequence* const> planned) {
  step_sequences_.clear();
  for (const Sequence* const sequence : planned) {
    const bool is_complete = sequence->n_scheduled == sequence->n_pending();
    const bool wants_embedding = sequence->request.wants_embedding;
    step_sequences_.push_back(
        {.tokens = std::span(sequence->tokens)
                       .subspan(static_cast<std::size_t>(sequence->n_computed),
                                static_cast<std::size_t>(sequence->n_scheduled)),
         .first_position = sequence->n_computed,
         .kv = &sequence->kv,
         .n_logits = is_complete && !wants_embedding ? 1 : 0,
         .wants_hidden = wants_embedding});
  }
}

/// Sums in the order of positions: chunks do not change them.
void Engine::add_hidden(Sequence& sequence, MatrixView rows) {
  if (sequence.is_cancelled) return;
  std::vector<double>& sum = sequence.hidden_sum;
  sum.resize(static_cast<std::size_t>(rows.cols));
  for (std::int64_t row = 0; row < rows.rows; ++row) {
    for (std::size_t i = 0; i < sum.size(); ++i) {
      sum[i] += static_cast<double>(rows.row_span(row)[i]);
    }
  }
  if (sequence.n_pending() > 0) return;
  Output& output = add_output(sequence);
  for (const double number : sum) {
    output.embedding.push_back(
        static_cast<float>(number / static_cast<double>(sequence.n_prompt())));
  }
  output.finish = FinishReason::stop;
  sequence.id = 0;
}

void Engine::choose_token(Sequence& sequence, std::span<const float> logits) {
  const std::int64_t position = sequence.n_tokens();
  const Request& request = sequence.request;
  if (sequence.is_cancelled) return;
  if (request.on_logits) request.on_logits(position, logits);
  if (sequence.is_cancelled) return;
  const std::span<const std::uint64_t> allowed = allowed_tokens(sequence);
  if (!allowed.empty() && std::ranges::all_of(allowed, [](auto word) { return word == 0; })) {
    Output& output = add_output(sequence);
    output.finish = FinishReason::stop;
    show(sequence, std::nullopt, output);
    sequence.id = 0;
    return;
  }
  const auto n_prompt = static_cast<std::size_t>(sequence.n_prompt());
  const EarlierTokens earlier{std::span(sequence.tokens).first(n_prompt),
                              std::span(sequence.tokens).subspan(n_prompt)};
  const std::int32_t token = sampler_.sample(logits, request.sampling, earlier,
                                             static_cast<std::uint64_t>(position), allowed);
  if (request.constraint) request.constraint->accept(token);
  sequence.tokens.push_back(token);
  ++stats_.n_generated_tokens;
  Output& output = add_output(sequence);
  output.token = token;
  if (request.n_top) output.logprobs = logprobs_of(logits, token, *request.n_top, kernels_);
  output.finish = finish_of(sequence, token);
  show(sequence, token, output);
  if (output.finish) sequence.id = 0;
}

/// A token mask; empty where everything may come.
std::span<const std::uint64_t> Engine::allowed_tokens(const Sequence& sequence) {
  const Request& request = sequence.request;
  const bool is_short = sequence.n_generated() < request.min_tokens;
  if (!request.constraint && !is_short) return {};
  std::ranges::fill(allowed_, request.constraint ? std::uint64_t{0} : ~std::uint64_t{0});
  if (request.constraint) request.constraint->fill_mask(allowed_);
  const std::int64_t n_vocab = model_.config.n_vocab;
  if (const auto n_used = n_vocab % token_mask_word_bits; n_used != 0) {
    allowed_.back() &= (std::uint64_t{1} << n_used) - 1;
  }
  if (!is_short) return allowed_;
  const auto forbid = [&](std::span<const std::int32_t> tokens) {
    for (const std::int32_t token : tokens) {
      if (token < 0 || token >= n_vocab) continue;
      allowed_[static_cast<std::size_t>(token / token_mask_word_bits)] &=
          ~(std::uint64_t{1} << (token % token_mask_word_bits));
    }
  };
  forbid(request.stop_ids);
  if (tokenizer_ != nullptr && !request.ignore_end) forbid(tokenizer_->end_ids());
  return allowed_;
}

/// A constraint says itself when an end may come; then it is one.
bool Engine::is_end(const Request& request, std::int32_t token) const {
  if (std::ranges::find(request.stop_ids, token) != request.stop_ids.end()) return true;
  return tokenizer_ != nullptr && (!request.ignore_end || request.constraint) &&
         tokenizer_->is_end(token);
}

std::optional<FinishReason> Engine::finish_of(const Sequence& sequence, std::int32_t token) const {
  const Request& request = sequence.request;
  if (is_end(request, token)) return FinishReason::stop;
  if (request.constraint && request.constraint->is_complete()) return FinishReason::stop;
  if (sequence.n_generated() >= request.max_tokens || sequence.n_tokens() >= options_.n_ctx) {
    return FinishReason::length;
  }
  return std::nullopt;
}

/// Text of the newest token; a stop string in it finishes the request.
void Engine::show(Sequence& sequence, std::optional<std::int32_t> token, Output& output) const {
  if (!sequence.decoder) return;
  std::string text;
  if (token && !is_end(sequence.request, *token)) text = sequence.decoder->push(*token);
  if (output.finish) text += sequence.decoder->flush();
  if (sequence.n_generated() < sequence.request.min_tokens) {
    output.text = std::move(text);
    return;
  }
  StopStrings::Fed fed = sequence.stops.feed(text);
  output.text = std::move(fed.text);
  if (fed.stopped) {
    output.finish = FinishReason::stop;
  } else if (output.finish) {
    output.text += sequence.stops.finish();
  }
}

Output& Engine::add_output(Sequence& sequence) {
  RequestStats& stats = sequence.stats;
  stats.n_generated = sequence.n_generated();
  if (!sequence.first_token) {
    sequence.first_token = computed_;
    stats.prefill_seconds = computed_ - *sequence.admitted;
  }
  stats.decode_seconds = computed_ - *sequence.first_token;
  Output& output = outputs_.emplace_back();
  output.id = sequence.id;
  output.stats = stats;
  return output;
}

EngineStats Engine::stats() const {
  EngineStats stats = stats_;
  stats.scheduler = scheduler_.stats();
  stats.n_running = scheduler_.n_running();
  stats.n_waiting = scheduler_.n_waiting();
  stats.n_waiting_tokens = scheduler_.n_waiting_tokens();
  const KvCache& cache = scheduler_.cache();
  stats.n_kv_blocks = cache.n_blocks();
  stats.n_kv_blocks_free = cache.n_free_blocks();
  stats.n_kv_blocks_cached = cache.n_cached_blocks();
  stats.kv_block_bytes = cache.block_bytes();
  return stats;
}

}  // namespace lowbit
