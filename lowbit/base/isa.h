// SPDX-License-Identifier: Apache-2.0
// The instruction sets that kernels are written for, and which of them this CPU and operating
// system have.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace lowbit {

/// An enumerator, its command-line word and its kernel file are the same word.
enum class Isa : std::uint8_t {
  scalar,
  avx2,
  avx_vnni,
  avx512,
  avx512_vnni,
  avx512_bf16,
  amx_int8,
  amx_bf16,
  neon_dotprod,
  neon_i8mm,
};

inline constexpr std::array<std::string_view, 10> isa_names{
    "scalar",      "avx2",     "avx_vnni", "avx512",       "avx512_vnni",
    "avx512_bf16", "amx_int8", "amx_bf16", "neon_dotprod", "neon_i8mm"};

constexpr std::string_view name_of(Isa isa) {
  return isa_names[static_cast<std::size_t>(isa)];
}
std::optional<Isa> isa_named(std::string_view name);

/// A set whose products with f32 activations keep a derived bound instead of the bits that all
/// others share (docs/design.md, idea C); it runs only when it is named.
constexpr bool is_approximate(Isa isa) {
  return isa == Isa::avx512_bf16 || isa == Isa::amx_bf16;
}

/// Whether this machine can run the instruction set (CPU flags and operating system state); cached.
bool is_available(Isa isa);

/// CPU brand string, e.g. for result tables.
std::string_view cpu_name();

}  // namespace lowbit
