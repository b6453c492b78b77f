// SPDX-License-Identifier: Apache-2.0
#include "lowbit/app/bench_kernels.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "lowbit/app/interrupt.h"
#include "lowbit/app/terminal.h"
#include "lowbit/measure/bench_kernels.h"

namespace lowbit::app {
namespace {

using nlohmann::ordered_json;

struct Pair {
  std::string_view scheme;
  Activations activations;
};
/// What docs/results.md has targets for.
constexpr std::array default_pairs{
    Pair{"int8.channel", Activations::int8_token},
    Pair{"int4.g128", Activations::int8_token},
    Pair{"int4.g32", Activations::int8_token},
    Pair{"q4_0", Activations::int8_g32},
    Pair{"q8_0", Activations::int8_g32},
    Pair{"mxfp4", Activations::int8_g32},
    Pair{"nvfp4", Activations::int8_g32},
    Pair{"int2.g64", Activations::int8_g32},
    Pair{"q4_k", Activations::int8_g256},
    Pair{"q6_k", Activations::int8_g256},
    Pair{"q4_0", Activations::f32},
};
constexpr std::array default_shapes{ProductShape{512, 2048, 8192}, ProductShape{1, 8192, 4096},
                                    ProductShape{2, 8192, 4096}, ProductShape{4, 8192, 4096},
                                    ProductShape{8, 8192, 4096}};

Result<Activations> activations_named(std::string_view name) {
  constexpr std::array all{Activations::f32, Activations::int8_g32, Activations::int8_g256,
                           Activations::int8_token};
  std::vector<std::string_view> names;
  for (const Activations activations : all) {
    if (name_of(activations) == name) return activations;
    names.push_back(name_of(activations));
  }
  return Error(fmt::format("--activations: \"{}\" is not known; choose from {}", name,
                           fmt::join(names, ", ")));
}

Result<const KernelTable*> kernels_named(std::string_view name) {
  std::vector<std::string_view> names;
  for (const KernelTable* table : available_kernels()) {
    if (name_of(table->isa) == name) return table;
    names.push_back(name_of(table->isa));
  }
  return Error(
      fmt::format("--isa: instruction set \"{}\" is {}; choose from {} or all", name,
                  isa_named(name) ? "not available in this build on this CPU" : "not known",
                  fmt::join(names, ", ")));
}

Result<std::vector<const KernelTable*>> tables_of(const std::vector<std::string>& names) {
  std::vector<const KernelTable*> tables;
  for (const std::string& name : names) {
    if (name == "all") {
      tables.assign(available_kernels().begin(), available_kernels().end());
      continue;
    }
    const auto table = kernels_named(name);
    if (!table) return table.error();
    tables.push_back(*table);
  }
  if (names.empty()) {
    const auto selected = select_kernels();
    if (!selected) return selected.error();
    tables.push_back(*selected);
  }
  return tables;
}

/// Schemes with the activations they are multiplied with.
Result<std::vector<KernelCase>> products_of(const KernelBenchRequest& request) {
  std::vector<KernelCase> products;
  if (request.schemes.empty() && request.activations.empty()) {
    for (const Pair& pair : default_pairs) {
      products.push_back({nullptr, *parse_scheme(pair.scheme), pair.activations, {}});
    }
    return products;
  }
  std::vector<std::string> names = request.schemes;
  if (names.empty()) {
    for (const Pair& pair : default_pairs) {
      const std::string name(pair.scheme);
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
    }
  }
  for (const std::string& name : names) {
    const auto scheme = parse_scheme(name);
    if (!scheme) return Error(scheme.error()).in("--scheme");
    if (request.activations.empty()) {
      products.push_back({nullptr, *scheme, default_activations(*scheme), {}});
    }
    for (const std::string& word : request.activations) {
      const auto activations = activations_named(word);
      if (!activations) return activations.error();
      if (const Status can = check_activations(*scheme, *activations); !can) {
        // A list of schemes nobody named is a wish for those that can.
        if (request.schemes.empty()) continue;
        return Error(can.error()).in(name);
      }
      products.push_back({nullptr, *scheme, *activations, {}});
    }
  }
  return products;
}

Result<std::vector<KernelCase>> cases_of(const KernelBenchRequest& request) {
  const auto tables = tables_of(request.isas);
  if (!tables) return tables.error();
  const auto products = products_of(request);
  if (!products) return products.error();
  std::vector<ProductShape> shapes;
  for (const std::string& text : request.shapes) {
    const auto shape = parse_shape(text);
    if (!shape) return Error(shape.error()).in("--size");
    shapes.push_back(*shape);
  }
  if (shapes.empty()) shapes.assign(default_shapes.begin(), default_shapes.end());
  std::vector<KernelCase> cases;
  // Products of one matrix stand together: it is packed once for them.
  for (KernelCase what : *products) {
    for (const ProductShape& shape : shapes) {
      for (const KernelTable* table : *tables) {
        if (const std::int64_t unit = required_multiple(what.scheme); shape.n_inputs % unit != 0) {
          return Error(fmt::format("{} inputs are no multiple of {}, the block of {}",
                                   shape.n_inputs, unit, to_string(what.scheme)))
              .in("--size");
        }
        what.kernels = table;
        what.shape = shape;
        cases.push_back(what);
      }
    }
  }
  return cases;
}

ordered_json to_json(const KernelRow& row) {
  constexpr double micro = 1e6;
  ordered_json object = {{"scheme", to_string(row.what.scheme)},
                         {"activations", name_of(row.what.activations)},
                         {"isa", name_of(row.what.kernels->isa)},
                         {"threads", row.n_threads},
                         {"shape", to_string(row.what.shape)},
                         {"batch", row.what.shape.n_tokens},
                         {"kernel", row.kernel},
                         {"weight_bytes", row.n_bytes},
                         {"us", row.median_seconds() * micro},
                         {"us_min", row.seconds.front() * micro},
                         {"us_max", row.seconds.back() * micro},
                         {"gbs", row.gbs},
                         {"gops", row.gops},
                         {"roof", name_of(row.roof)},
                         {"roof_rate", row.roof_rate},
                         {"of_roof", row.median_of_roof()},
                         {"of_roof_min", row.of_roof.front()},
                         {"of_roof_max", row.of_roof.back()}};
  if (row.of_vnni256 > 0) object["of_vnni256"] = row.of_vnni256;
  return object;
}

constexpr std::string_view table_head =
    "| scheme       | activations | isa         | threads | shape         |       us |   GB/s |   "
    "GOPS | of roof |    spread | roof        | of 256-bit VNNI |\n"
    "|--------------|-------------|-------------|--------:|---------------|---------:|-------:|---"
    "----:|--------:|----------:|-------------|----------------:|\n";

std::string to_text(const KernelRow& row) {
  constexpr double micro = 1e6;
  return fmt::format(
      "| {:<12} | {:<11} | {:<11} | {:>7} | {:<13} | {:>8.1f} | {:>6.1f} | {:>6.0f} | {:>5.1f} % "
      "| {:>9} | {:<11} | {:>15} |\n",
      to_string(row.what.scheme), name_of(row.what.activations), name_of(row.what.kernels->isa),
      row.n_threads, to_string(row.what.shape), row.median_seconds() * micro, row.gbs, row.gops,
      100 * row.median_of_roof(),
      fmt::format("{:.0f}-{:.0f}", 100 * row.of_roof.front(), 100 * row.of_roof.back()),
      fmt::format("{} {:.{}f}", name_of(row.roof), row.roof_rate, row.roof == Roof::read ? 1 : 0),
      row.of_vnni256 > 0 ? fmt::format("{:.1f} %", 100 * row.of_vnni256) : "-");
}

}  // namespace

void add_kernel_bench_options(CLI::App& command, KernelBenchRequest& request) {
  constexpr const char* group = "Kernels";
  CLI::Option* kernels =
      command.add_flag("--kernels", request.is_wanted,
                       "products alone: a line per scheme, activations, instruction "
                       "set, shape and team, each beside its roof");
  kernels->group(group);
  const auto add_list = [&](const char* name, std::vector<std::string>& words, const char* help) {
    command.add_option(name, words, help)->delimiter(',')->needs(kernels)->group(group);
  };
  add_list("--isa", request.isas, "instruction sets, or all (default: the one that runs)");
  add_list("--scheme", request.schemes,
           "schemes of the weights (default: those of docs/results.md)");
  add_list("--activations", request.activations,
           "f32, int8.g32, int8.g256, int8.token (default: each scheme's own)");
  add_list("--size", request.shapes,
           "tokens x outputs x inputs (512x2048x8192 and 1, 2, 4, 8 x8192x4096)");
  command
      .add_flag("--warm", request.is_warm, "leave the weights in the caches between repetitions")
      ->needs(kernels)
      ->group(group);
}

Exit run_kernel_bench(const KernelBenchRequest& request) {
  const auto cases = cases_of(request);
  if (!cases) return refuse(cases.error());
  std::vector<int> teams{request.n_threads};
  if (request.n_threads == 0) {
    teams = {default_thread_count().n_threads};
    if (teams.front() > 1) teams.push_back(1);
  }
  KernelBenchOptions options{.is_warm = request.is_warm};
  if (request.n_repetitions > 0) options.n_repetitions = request.n_repetitions;
  watch_interrupts();
  ordered_json rows = ordered_json::array();
  std::string lines;
  Progress progress("measuring");
  const auto n_total = static_cast<std::int64_t>(cases->size() * teams.size());
  std::int64_t n_done = 0;
  std::vector<std::unique_ptr<ThreadPool>> pools;
  for (const int n_threads : teams) pools.push_back(std::make_unique<ThreadPool>(n_threads));
  PackedMatrix w;
  for (std::size_t i = 0; i < cases->size(); ++i) {
    const KernelCase& what = (*cases)[i];
    if (i == 0 || !(*cases)[i - 1].has_weights_of(what)) {
      auto packed = random_weights(what.scheme, what.shape, *pools.front());
      if (!packed) return fail(Error(packed.error()).in(to_string(what.scheme)));
      w = *std::move(packed);
    }
    for (const auto& pool : pools) {
      if (!progress(n_done++, n_total, to_string(what.scheme))) return fail(Error("interrupted"));
      const KernelRow row = bench_kernel(what, w, options, *pool);
      rows.push_back(to_json(row));
      lines += to_text(row);
    }
  }
  if (request.json) {
    return print_result(
        ordered_json{{"machine", {{"cpu", cpu_name()}}}, {"cold", !request.is_warm}, {"rows", rows}}
            .dump() +
        "\n");
  }
  return print_result(fmt::format(
      "{}; weights {}; roof: 10^9 operations or bytes per second beside it\n\n{}{}", cpu_name(),
      request.is_warm ? "left in the caches" : "dropped from all caches before each reading",
      table_head, lines));
}

}  // namespace lowbit::app
