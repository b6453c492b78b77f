// SPDX-License-Identifier: Apache-2.0
// A request on its way through the engine. The scheduler owns it and decides what of it is computed
// when; the engine turns logits into its tokens and its text.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "lowbit/model/tokenizer.h"
#include "lowbit/runtime/kv_cache.h"
#include "lowbit/runtime/request.h"
#include "lowbit/runtime/stop_strings.h"

namespace lowbit {

struct Sequence {
  RequestId id = 0;  // 0: finished in this step
  Request request;
  std::vector<std::int32_t> tokens;  // prompt, then what was generated
  std::int64_t n_computed = 0;       // tokens whose keys and values are in the cache
  std::int64_t n_scheduled = 0;      // tokens of this step
  std::int64_t rank = 0;             // in the queue: the lowest first
  bool is_cancelled = false;         // during this step; its end removes the sequence
  KvSequence kv;
  std::optional<StreamDecoder> decoder;  // none without a tokenizer
  StopStrings stops;
  std::vector<double> hidden_sum;  // (d_model) of the computed tokens, where it is wanted

  RequestStats stats;
  double arrived = 0;  // seconds of the engine's clock, like the two below
  std::optional<double> admitted = {}, first_token = {};

  Sequence(RequestId id_, Request request_, const Tokenizer* tokenizer)
      : id(id_),
        request(std::move(request_)),
        tokens(request.prompt),
        kv(request.cache_salt),
        stops(request.stop_strings) {
    if (tokenizer != nullptr) decoder.emplace(*tokenizer);
    stats.n_prompt = n_prompt();
  }
  std::int64_t n_tokens() const { return static_cast<std::int64_t>(tokens.size()); }
  std::int64_t n_pending() const { return n_tokens() - n_computed; }
  std::int64_t n_prompt() const { return static_cast<std::int64_t>(request.prompt.size()); }
  std::int64_t n_generated() const { return n_tokens() - n_prompt(); }
};

}  // namespace lowbit
