// SPDX-License-Identifier: Apache-2.0
// What the engine is asked and what it answers.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/runtime/logprobs.h"
#include "lowbit/runtime/sampler.h"
#include "lowbit/runtime/token_constraint.h"

namespace lowbit {

using RequestId = std::int64_t;

enum class FinishReason : std::uint8_t { stop, length, cancelled };
std::string_view name_of(FinishReason reason);

/// Why a request was not taken.
enum class RefusalKind : std::uint8_t { invalid, too_long, queue_full };

struct Request {
  std::vector<std::int32_t> prompt;
  SamplingParams sampling = {};
  std::int64_t max_tokens = std::numeric_limits<std::int64_t>::max();  // the context ends it anyway
  std::vector<std::int32_t> stop_ids = {};  // besides the tokenizer's end ids
  bool ignore_end = false;                  // the tokenizer's end ids do not stop it
  std::vector<std::string> stop_strings = {};
  /// Sees the raw logits from which the token at `position` is chosen.
  std::function<void(std::int64_t position, std::span<const float> logits)> on_logits = {};
  std::int64_t min_tokens = 0;    // what ends an answer cannot be chosen before, or does not count
  std::optional<int> n_top = {};  // log-probabilities: of the chosen token and the n_top likeliest
  std::shared_ptr<TokenConstraint> constraint = {};
  int priority = 0;              // a lower one is served earlier (scheduler.h says how much)
  std::string cache_salt = {};   // keys and values are shared only among equal ones
  bool wants_embedding = false;  // the mean of the hidden states of the prompt, and no tokens
};
inline constexpr int most_top_tokens = 20;
inline constexpr int most_priority = 1000;  // of either sign

/// The life of a request so far. Seconds of the engine's clock.
struct RequestStats {
  std::int64_t n_prompt = 0;     // tokens
  std::int64_t n_cached = 0;     // of the prompt, found in the KV cache when it was admitted
  std::int64_t n_generated = 0;  // tokens
  std::int64_t n_preemptions = 0;
  double queue_seconds = 0;    // until it was first admitted
  double prefill_seconds = 0;  // from there to the first token
  double decode_seconds = 0;   // from there to the last one
};

/// What a step gave one request. A token that stops the request is counted but has no text.
struct Output {
  RequestId id = 0;
  std::optional<std::int32_t> token = {};
  std::string text = {};  // valid UTF-8; may be empty while a character or stop string is undecided
  std::optional<FinishReason> finish = {};  // the last output of the request
  std::optional<TokenLogprobs> logprobs = {};
  std::vector<float> embedding = {};  // (d_model), not normalized
  RequestStats stats = {};
};

}  // namespace lowbit
