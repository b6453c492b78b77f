// SPDX-License-Identifier: Apache-2.0
// lowbit bench --kernels: products alone, a line for each scheme, activations, instruction set,
// shape and team.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "lowbit/app/command.h"

namespace lowbit::app {

struct KernelBenchRequest {
  bool is_wanted = false;
  std::vector<std::string> isas, schemes, activations, shapes;  // empty: the default list
  bool is_warm = false;
  int n_threads = 0;      // 0: as many as this machine allows, and one
  int n_repetitions = 0;  // 0: the default
  bool json = false;
};

/// --kernels and the options that go with it.
void add_kernel_bench_options(CLI::App& command, KernelBenchRequest& request);

/// Words that mean nothing, or nothing on this machine, are refused before anything is measured.
Exit run_kernel_bench(const KernelBenchRequest& request);

}  // namespace lowbit::app
