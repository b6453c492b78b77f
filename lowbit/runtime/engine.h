// SPDX-License-Identifier: Apache-2.0
// Runs requests as one batch of sequences: the scheduler says what a step computes, the forward
// pass computes it, and the logits become tokens and text here. What a request gets depends neither
// on its neighbours nor on chunks, cache hits, preemptions or time. Used by one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "lowbit/backend/backend.h"
#include "lowbit/base/result.h"
#include "lowbit/model/tokenizer.h"
#include "lowbit/runtime/forward.h"
#include "lowbit/runtime/kv_cache.h"
#include "lowbit/runtime/request.h"
#include "lowbit/runtime/sampler.h"
#include "lowbit/runtime/scheduler.h"
#include "lowbit/runtime/step_budget.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

struct EngineOptions {
  std::int64_t n_ctx = 0;           // 0: the model's own
  std::int64_t n_kv_positions = 0;  // of all sequences together; 0: what kv_bytes hold
  KvKind kv = KvKind::f16;
  std::int64_t max_sequences = 64;  // running at once
  std::int64_t step_tokens = 512;   // at least max_sequences
  std::int64_t prefill_chunk = 512;
  std::int64_t kv_bytes = 0;  // of the KV cache; 0: n_kv_positions, or one context
  bool occupy_kv = false;     // use its memory at once instead of when it is first needed
  bool prefix_cache = true;
  std::int64_t max_queued_requests = 0;  // besides those that can run; 0: any number
  std::int64_t max_queued_tokens = 0;    // of prompts; one request may always wait; 0: any number
  std::int64_t priority_span = 64;       // scheduler.h
  double max_itl = 0;                    // seconds between tokens (step_budget.h); 0: any time
  std::function<double()> clock = {};    // seconds; default: a steady clock
};

/// Counted since the engine was made, and where it stands. For metrics and tests.
struct EngineStats {
  std::int64_t n_steps = 0;
  std::int64_t n_prompt_tokens = 0;    // of the requests that were taken
  std::int64_t n_computed_tokens = 0;  // through the forward pass
  std::int64_t n_generated_tokens = 0;
  std::int64_t n_refused = 0;  // because a queue limit was reached
  SchedulerStats scheduler;
  StepSample step;                      // the last one; seconds with sampling
  std::int64_t step_prompt_budget = 0;  // tokens of prompts that it might take
  double step_seconds = 0;              // of all steps
  std::int64_t n_running = 0, n_waiting = 0, n_waiting_tokens = 0;
  std::int64_t n_kv_blocks = 0;
  std::int64_t n_kv_blocks_free = 0;    // of no sequence
  std::int64_t n_kv_blocks_cached = 0;  // of them, findable
  std::int64_t kv_block_bytes = 0;

  double kv_usage() const {
    return n_kv_blocks == 0
               ? 0
               : 1 - static_cast<double>(n_kv_blocks_free) / static_cast<double>(n_kv_blocks);
  }
};

class Engine {
 public:
  /// tokenizer: null for ids without text. All must outlive the engine. Errors: options that do not
  /// fit each other or the memory.
  static Result<std::unique_ptr<Engine>> create(Backend& backend, const ModelWeights& model,
                                                const Tokenizer* tokenizer,
                                                const EngineOptions& options);
  ~Engine();

  /// Errors: empty prompt, prompt longer than the context, ids or parameters out of range, a full
  /// queue. refusal: which kind, if it is not null.
  Result<RequestId> add_request(Request request, RefusalKind* refusal = nullptr);
  /// One forward pass over whatever is due. Valid until the next call; empty when idle or when
  /// every token of the step belonged to unfinished prompts.
  std::span<const Output> step();
  /// Pages are free at once; the next step reports it. False: no such request is active. Inside a
  /// step, from on_logits, the request gets no further token and its pages are free after the step.
  bool cancel(RequestId id);

  bool is_idle() const { return scheduler_.is_idle() && pending_.empty(); }
  std::int64_t n_running() const { return scheduler_.n_running(); }
  std::int64_t n_waiting() const { return scheduler_.n_waiting(); }
  std::int64_t n_preemptions() const { return scheduler_.stats().n_preemptions; }
  std::int64_t n_ctx() const { return options_.n_ctx; }
  const KvCache& kv_cache() const { return scheduler_.cache(); }
  EngineStats stats() const;

 private:
  Engine(Backend& backend, const ModelWeights& model, const Tokenizer* tokenizer,
         const EngineOptions& options, KvCache cache, const VectorKernels& kernels);

  Status check_request(const Request& request) const;
  bool is_queue_full(const Request& request) const;
  std::int64_t next_prompt_budget() const;
  void put_together(std::span<Sequence* const> planned);
  void add_hidden(Sequence& sequence, MatrixView rows);
  void choose_token(Sequence& sequence, std::span<const float> logits);
  std::span<const std::uint64_t> allowed_tokens(const Sequence& sequence);
  bool is_end(const Request& request, std::int32_t token) const;
  std::optional<FinishReason> finish_of(const Sequence& sequence, std::int32_t token) const;
  void show(Sequence& sequence, std::optional<std::int32_t> token, Output& output) const;
  Output& add_output(Sequence& sequence);

  const ModelWeights& model_;
  const Tokenizer* tokenizer_;
  EngineOptions options_;
  Scheduler scheduler_;
  Forward forward_;
  const VectorKernels& kernels_;
  Sampler sampler_;
  StepCost cost_;
  EngineStats stats_;  // what is counted here
  RequestId next_id_ = 1;
  bool is_stepping_ = false;               // requests are being told their logits
  double computed_ = 0;                    // when the logits of this step were there
  std::vector<Output> outputs_, pending_;  // pending: cancelled since the last step
  std::vector<StepSequence> step_sequences_;
  std::vector<std::uint64_t> allowed_;
};

}  // namespace lowbit
