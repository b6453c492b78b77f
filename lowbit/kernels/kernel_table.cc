// SPDX-License-Identifier: Apache-2.0
#include "lowbit/kernels/kernel_table.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "lowbit/kernels/isa_tables.h"

namespace lowbit {
namespace {

struct Row {
  Isa isa;
  const KernelTable* (*table)();
  bool runs_by_default = true;
};

/// Best first; sets that run only when LOWBIT_ISA names them stand after those that are chosen.
/// amx_int8 has the bits of the others but never ran on the hardware; avx512_bf16 is approximate.
constexpr std::array rows {
#if defined(__x86_64__)
  Row{Isa::avx512_vnni, avx512_vnni_table}, Row{Isa::avx_vnni, avx_vnni_table},
      Row{Isa::avx512, avx512_table}, Row{Isa::avx2, avx2_table},
      Row{Isa::amx_int8, amx_int8_table, false}, Row{Isa::avx512_bf16, avx512_bf16_table, false},
#elif defined(__aarch64__)
  Row{Isa::neon_i8mm, neon_i8mm_table}, Row{Isa::neon_dotprod, neon_dotprod_table},
#endif
      Row{Isa::scalar, scalar_table},
};

struct Available {
  std::array<const KernelTable*, rows.size()> tables{};
  std::size_t n_tables = 0;
};

const Available& available() {
  static const Available found = [] {
    Available a;
    for (const Row& row : rows) {
      if (is_available(row.isa)) a.tables[a.n_tables++] = row.table();
    }
    return a;
  }();
  return found;
}

}  // namespace

std::span<const KernelTable* const> available_kernels() {
  return {available().tables.data(), available().n_tables};
}

std::span<const Isa> compiled_isas() {
  static constexpr auto isas = [] {
    std::array<Isa, rows.size()> list{};
    for (std::size_t i = 0; i < rows.size(); ++i) list[i] = rows[i].isa;
    return list;
  }();
  return isas;
}

bool runs_by_default(Isa isa) {
  return std::any_of(rows.begin(), rows.end(),
                     [&](const Row& row) { return row.isa == isa && row.runs_by_default; });
}

const KernelTable* kernels_for(Isa isa) {
  for (const KernelTable* table : available_kernels()) {
    if (table->isa == isa) return table;
  }
  return nullptr;
}

Result<const KernelTable*> select_kernels(std::string_view isa_name) {
  if (isa_name.empty()) return available_kernels().front();
  const std::optional<Isa> isa = isa_named(isa_name);
  if (isa) {
    if (const KernelTable* table = kernels_for(*isa)) return table;
  }
  std::string choice;
  for (const KernelTable* table : available_kernels()) {
    choice += choice.empty() ? "" : ", ";
    choice += name_of(table->isa);
  }
  const auto compiled = compiled_isas();
  const bool is_compiled =
      isa && std::find(compiled.begin(), compiled.end(), *isa) != compiled.end();
  const char* reason = !isa          ? "there is no instruction set '"
                       : is_compiled ? "this CPU or its operating system lacks '"
                                     : "this build has no kernels for '";
  return Error("LOWBIT_ISA: " + (reason + std::string(isa_name)) + "'; choose one of " + choice);
}

Result<const KernelTable*> select_kernels() {
  static const std::string forced = [] {
    const char* value = std::getenv("LOWBIT_ISA");
    return std::string(value == nullptr ? "" : value);
  }();
  return select_kernels(forced);
}

}  // namespace lowbit
