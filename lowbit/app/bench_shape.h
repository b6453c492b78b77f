// SPDX-License-Identifier: Apache-2.0
// lowbit bench --shape: a model of known sizes with random weights, run or written as a file that
// another engine can run too.
#pragma once

#include <memory>
#include <string>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/runtime/loaded_model.h"

namespace lowbit::app {

/// Weights in the recipe's scheme (q4_0 where it names none).
Result<std::unique_ptr<LoadedModel>> load_shape(const std::string& shape, const Recipe& recipe,
                                                ThreadPool& pool, bool verbose);

/// The same weights as GGUF, with a vocabulary of single bytes and fillers. Errors: a name that
/// does not end in .gguf, a scheme that GGUF cannot hold.
Status write_shape(const std::string& shape, const Recipe& recipe, ThreadPool& pool,
                   const std::string& path);

}  // namespace lowbit::app
