// SPDX-License-Identifier: Apache-2.0
// The models that `lowbit serve` is told about: what each --model says, what of it is known before
// it is loaded, loading it, and how much memory its KV cache gets.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/runtime/engine.h"
#include "lowbit/runtime/recipe.h"
#include "lowbit/server/served_model.h"

namespace lowbit::app {

/// [NAME=]PATH[,w=...][,a=...][,kv=...][,kv-memory=SIZE][,ctx=TOKENS]
struct ModelWish {
  std::string name;  // "": the file's
  std::string path;
  Recipe recipe;
  std::int64_t kv_bytes = 0;  // 0: what there is room for
  std::int64_t n_ctx = 0;     // 0: as much of the model's as fits
};
/// What the text leaves out comes from `defaults`.
Result<ModelWish> parse_model_wish(std::string_view text, const ModelWish& defaults);

/// Of every model that is served.
struct ServeModelOptions {
  EngineOptions engine;  // its context, positions, kind and bytes of the KV cache are ignored
  std::int64_t n_kv_positions = 0;  // 0: by bytes
  std::int64_t memory_bytes = 0;    // of all models together
  bool verbose = false, pack_cache = false;
};

/// Opens every file, to refuse what could not be loaded anyway. `pool` is shared. Errors: a file
/// that cannot be read, two models of one name.
Result<std::vector<ModelSource>> make_sources(const std::vector<ModelWish>& wishes,
                                              const ServeModelOptions& options,
                                              std::shared_ptr<ThreadPool> pool);

/// 9/10 of what the system has left now; nothing where it does not tell.
Result<std::int64_t> default_memory();

}  // namespace lowbit::app
