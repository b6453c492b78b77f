// SPDX-License-Identifier: Apache-2.0
// The options of every subcommand that runs a model (-m, -t, --recipe, -v), and loading by them.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/runtime/loaded_model.h"

namespace lowbit::app {

struct ModelOptions {
  std::string model;
  std::string recipe;
  int n_threads = 0;  // 0: as many as this machine allows
  bool verbose = false;
  bool pack_cache = false;
};

/// Adds -m/--model (also as the first word), -t/--threads.
void add_model_option(CLI::App& command, ModelOptions& options);
void add_thread_option(CLI::App& command, ModelOptions& options);
void add_recipe_option(CLI::App& command, ModelOptions& options);
void add_pack_cache_option(CLI::App& command, ModelOptions& options);

/// The team that -t asks for; with --verbose its size and reason are printed.
std::unique_ptr<ThreadPool> make_pool(const ModelOptions& options);

/// Opens, re-quantizes if the recipe says so, packs or maps the pack cache. With --verbose the
/// kernel of each matrix is printed.
Result<std::unique_ptr<LoadedModel>> load_model(const std::string& path, const Recipe& recipe,
                                                ThreadPool& pool, bool verbose,
                                                bool pack_cache = false);
/// The same of a file that is open already.
Result<std::unique_ptr<LoadedModel>> load_model(const ModelFile& file, const Recipe& recipe,
                                                ThreadPool& pool, bool verbose, bool pack_cache);

}  // namespace lowbit::app
