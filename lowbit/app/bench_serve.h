// SPDX-License-Identifier: Apache-2.0
// lowbit bench --serve URL: load on any OpenAI-compatible server, with the options and the output
// of `vllm bench serve`.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>
#include <string>

#include "lowbit/app/command.h"

namespace lowbit::app {

struct ServeBenchRequest {
  std::string url;    // empty: not wanted
  std::string model;  // empty: the first that the server names
  std::string api_key;
  std::string endpoint = "completions";
  std::string extra_body = "{}";  // fields of a JSON object
  std::int64_t n_prompts = 100;
  double request_rate = std::numeric_limits<double>::infinity();
  double burstiness = 1;
  std::int64_t max_concurrency = 0;  // 0: no limit
  std::int64_t n_input = 1024, n_output = 128, n_prefix = 0;
  double range_ratio = 0;
  std::uint64_t seed = 0;
  bool detailed = false;
  bool json = false;
};

/// --serve and the options that go with it; -m and --json are those of bench.
void add_serve_bench_options(CLI::App& command, ServeBenchRequest& request);

Exit run_serve_bench(const ServeBenchRequest& request);

}  // namespace lowbit::app
