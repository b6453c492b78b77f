// SPDX-License-Identifier: Apache-2.0
// lowbit kernels: the instruction sets this machine has and the kernels this build has for them.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "lowbit/app/command.h"
#include "lowbit/base/isa.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/scheme.h"
#include "lowbit/kernels/kernel_table.h"
#include "lowbit/kernels/matmul.h"

namespace lowbit::app {
namespace {

using nlohmann::ordered_json;

/// The kernels of every named scheme, each once: one token (gemv) and a prompt (gemm), with the
/// activations that the scheme runs with by default and with f32.
std::vector<std::string> kernels_of(const KernelTable& table) {
  constexpr std::int64_t rows = 16, cols = 256, n_prompt = 64;
  ThreadPool pool(1);
  std::vector<std::string> names;
  for (const Scheme& scheme : named_schemes()) {
    const auto packed = pack(QuantizedTensor(scheme, rows, cols), pool);
    if (!packed) continue;
    for (const Activations activations : {default_activations(scheme), Activations::f32}) {
      for (const std::int64_t n_tokens : {std::int64_t{1}, n_prompt}) {
        std::string name = kernel_name(table, *packed, activations, n_tokens);
        if (std::ranges::find(names, name) == names.end()) names.push_back(std::move(name));
      }
    }
  }
  return names;
}

Exit run(bool json) {
  const auto selected = select_kernels();
  if (!selected) return fail(selected.error());
  const auto compiled = available_kernels();
  ordered_json isas = ordered_json::array(), kernels = ordered_json::array();
  std::string text = fmt::format("{}\n{} threads: {}\n", cpu_name(),
                                 default_thread_count().n_threads, default_thread_count().reason);
  for (std::size_t i = 0; i < isa_names.size(); ++i) {
    const auto isa = static_cast<Isa>(i);
    const bool is_selected = (*selected)->isa == isa;
    const KernelTable* table = kernels_for(isa);
    isas.push_back({{"name", name_of(isa)},
                    {"available", table != nullptr},
                    {"selected", is_selected},
                    {"default", runs_by_default(isa)},
                    {"approx", is_approximate(isa)}});
    text +=
        fmt::format("  {:<13} {}{}\n", name_of(isa),
                    is_selected                                ? "selected"
                    : table != nullptr && runs_by_default(isa) ? "available"
                    : table != nullptr  ? "available when LOWBIT_ISA names it"
                    : is_available(isa) ? "CPU has it, no kernels in this build"
                                        : "-",
                    table != nullptr && is_approximate(isa) ? ", approx with f32 activations" : "");
  }
  for (const KernelTable* table : compiled) {
    for (const std::string& name : kernels_of(*table)) kernels.push_back(name);
  }
  if (json) return print_result(ordered_json{{"isa", isas}, {"kernels", kernels}}.dump() + "\n");
  text += "kernels:\n";
  for (const auto& name : kernels) text += "  " + name.get<std::string>() + "\n";
  return print_result(text);
}

}  // namespace

void add_kernels(CLI::App& parser, Context& context) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command = parser.add_subcommand(
      "kernels", "Instruction sets of this machine and kernels of this build");
  command->add_flag("--json", *json, "one JSON object on stdout");
  command->footer("LOWBIT_ISA=avx2 lowbit ... forces an instruction set.");
  command->callback([json, &context] { context.exit = run(*json); });
}

}  // namespace lowbit::app
