// SPDX-License-Identifier: Apache-2.0
// Runs requests as one batch of sequences. A step has a budget of tokens: decodes take one each,
// chunks of prompts fill the rest, and a request is admitted when its whole prompt fits into the KV
// cache. When pages run out, the newest sequence gives its own back and is computed again later;
// its tokens do not change, because logits depend neither on neighbours nor on chunks. Used by one
// thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/backend/backend.h"
#include "lowbit/base/result.h"
#include "lowbit/model/tokenizer.h"
#include "lowbit/runtime/forward.h"
#include "lowbit/runtime/kv_cache.h"
#include "lowbit/runtime/sampler.h"
#include "lowbit/runtime/stop_strings.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

using RequestId = std::int64_t;

enum class FinishReason : std::uint8_t { stop, length, cancelled };
std::string_view name_of(FinishReason reason);

struct Request {
  std::vector<std::int32_t> prompt;
  SamplingParams sampling = {};
  std::int64_t max_tokens = std::numeric_limits<std::int64_t>::max();  // the context ends it anyway
  std::vector<std::int32_t> stop_ids = {};  // besides the tokenizer's end ids
  bool ignore_end = false;                  // the tokenizer's end ids do not stop it
  std::vector<std::string> stop_strings = {};
  /// Sees the raw logits from which the token at `position` is chosen.
  std::function<void(std::int64_t position, std::span<const float> logits)> on_logits = {};
};

/// What a step gave one request. A token that stops the request is counted but has no text.
struct Output {
  RequestId id = 0;
  std::optional<std::int32_t> token = {};
  std::string text = {};  // valid UTF-8; may be empty while a character or stop string is undecided
  std::optional<FinishReason> finish = {};  // the last output of the request
};

struct EngineOptions {
  std::int64_t n_ctx = 0;           // 0: the model's own
  std::int64_t n_kv_positions = 0;  // of all sequences together; 0: n_ctx
  KvKind kv = KvKind::f16;
  std::int64_t max_sequences = 64;  // running at once
  std::int64_t step_tokens = 512;   // at least max_sequences
  std::int64_t prefill_chunk = 512;
};

class Engine {
 public:
  /// tokenizer: null for ids without text. All must outlive the engine. Errors: options that do not
  /// fit each other or the memory.
  static Result<std::unique_ptr<Engine>> create(Backend& backend, const ModelWeights& model,
                                                const Tokenizer* tokenizer,
                                                const EngineOptions& options);
  ~Engine();

  /// Errors: empty prompt, prompt longer than the context, ids or parameters out of range.
  Result<RequestId> add_request(Request request);
  /// One forward pass over whatever is due. Valid until the next call; empty when idle or when
  /// every token of the step belonged to unfinished prompts.
  std::span<const Output> step();
  /// Pages are free at once; the next step reports it. False: no such request is active. Inside a
  /// step, from on_logits, the request gets no further token and its pages are free after the step.
  bool cancel(RequestId id);

  bool is_idle() const { return running_.empty() && waiting_.empty() && pending_.empty(); }
  std::int64_t n_running() const { return static_cast<std::int64_t>(running_.size()); }
  std::int64_t n_waiting() const { return static_cast<std::int64_t>(waiting_.size()); }
  std::int64_t n_preemptions() const { return n_preemptions_; }
  std::int64_t n_ctx() const { return options_.n_ctx; }
  const KvCache& kv_cache() const { return cache_; }

 private:
  struct Sequence;
  Engine(Backend& backend, const ModelWeights& model, const Tokenizer* tokenizer,
         const EngineOptions& options, KvCache cache);

  void schedule_decodes(std::int64_t& budget);
  void schedule_prompts(std::int64_t& budget);
  void admit(std::int64_t& budget);
  void preempt_newest();
  void choose_token(Sequence& sequence, std::span<const float> logits);
  std::optional<FinishReason> finish_of(const Sequence& sequence, std::int32_t token) const;
  void show(Sequence& sequence, Output& output);

  const ModelWeights& model_;
  const Tokenizer* tokenizer_;
  EngineOptions options_;
  KvCache cache_;
  Forward forward_;
  Sampler sampler_;
  RequestId next_id_ = 1;
  std::int64_t n_preemptions_ = 0;
  bool is_stepping_ = false;  // requests are being told their logits
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // oldest first
  std::vector<Output> outputs_, pending_;           // pending: cancelled since the last step
  std::vector<StepSequence> step_sequences_;
  std::vector<Sequence*> stepped_;
};

}  // namespace lowbit
