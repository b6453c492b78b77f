// SPDX-License-Identifier: Apache-2.0
// What the server serves: models that can be loaded, and a loaded one with its engine and what
// clients are told about it. A loaded one is made while others compute, then handed to the engine's
// thread, which alone touches `engine`; everything else is only read.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lowbit/base/thread_pool.h"
#include "lowbit/grammar/constraint_cache.h"
#include "lowbit/model/chat_template.h"
#include "lowbit/runtime/engine.h"
#include "lowbit/runtime/loaded_model.h"
#include "lowbit/server/step_roof.h"

namespace lowbit {

struct ServedModel {
  std::vector<std::string> names;    // the first is what answers say; all are accepted
  std::string description;           // recipe and file, for /v1/models
  std::shared_ptr<ThreadPool> pool;  // one team, shared by all models
  std::unique_ptr<LoadedModel> model;
  std::optional<ChatTemplate> chat_template;
  std::string no_template;  // why there is none
  bool template_reads_tools = false;
  std::unique_ptr<ConstraintCache> constraints;  // null: the vocabulary cannot write JSON
  std::string no_constraints;                    // why there are none
  SamplingParams defaults;                       // of what a request leaves out
  std::int64_t weight_bytes = 0, kv_bytes = 0;
  std::int64_t max_sequences = 0;
  std::string memory_plan;  // for people
  StepRoof roof;
  std::function<Status(ServedModel&)> start;  // once, on the engine's thread, before any step
  std::unique_ptr<Engine> engine;             // last: it uses the others

  const Tokenizer& tokenizer() const { return model->tokenizer(); }
  std::int64_t n_ctx() const { return engine->n_ctx(); }
};

/// n_bytes: what weights and KV cache together may take. Called on a thread of its own, beside the
/// steps of others: it computes with its own team, whose threads inherit the caller's priority.
using LoadModel = std::function<Result<std::unique_ptr<ServedModel>>(std::int64_t n_bytes)>;

/// A model that is not loaded, or not yet.
struct ModelSource {
  std::vector<std::string> names;
  std::string description;
  std::int64_t n_bytes = 0;  // that it will take, as far as its file tells
  LoadModel load;
};

}  // namespace lowbit
