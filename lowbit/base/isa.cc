// SPDX-License-Identifier: Apache-2.0
// x86: CPU flags by cpuid; wide registers count only when the operating system saves them (xgetbv).
// Arm: what the kernel reports in the auxiliary vector, for user space cannot read the flags
// itself.
#include "lowbit/base/isa.h"

#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include <fstream>
#endif

namespace lowbit {
namespace {

#if defined(__x86_64__)
struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);  // zeros beyond the last leaf
  return r;
}

constexpr bool bit(unsigned word, int position) {
  return (word >> position & 1u) != 0;
}

/// Which register states the operating system saves (XCR0); only with OSXSAVE.
std::uint64_t saved_states() {
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

constexpr std::uint64_t ymm_states = 0x6;      // xmm and the upper halves of ymm
constexpr std::uint64_t zmm_states = 0xe6;     // and masks, upper zmm, zmm16..31
constexpr std::uint64_t amx_states = 0x60000;  // tile configuration and tile data

/// Linux saves 8 kB of tiles per thread only for processes that ask (arch_prctl, since 5.16).
bool may_use_tiles() {
#if defined(__linux__)
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

std::uint32_t detect() {
  const auto flag = [](Isa isa) { return 1u << static_cast<unsigned>(isa); };
  std::uint32_t found = flag(Isa::scalar);
  const Registers basic = cpuid(1, 0), extended = cpuid(7, 0), more = cpuid(7, 1);
  constexpr int fma = 12, osxsave = 27, avx = 28, f16c = 29;
  if (!bit(basic.ecx, osxsave) || !bit(basic.ecx, avx)) return found;
  const std::uint64_t states = saved_states();
  constexpr int avx2 = 5;
  const bool has_avx2 = (states & ymm_states) == ymm_states && bit(extended.ebx, avx2) &&
                        bit(basic.ecx, fma) && bit(basic.ecx, f16c);
  if (!has_avx2) return found;
  found |= flag(Isa::avx2);
  constexpr int avx_vnni = 4, avx512_bf16 = 5;
  if (bit(more.eax, avx_vnni)) found |= flag(Isa::avx_vnni);
  constexpr int avx512f = 16, avx512dq = 17, avx512bw = 30, avx512vl = 31, avx512_vnni = 11;
  if ((states & zmm_states) == zmm_states && bit(extended.ebx, avx512f) &&
      bit(extended.ebx, avx512dq) && bit(extended.ebx, avx512bw) && bit(extended.ebx, avx512vl)) {
    found |= flag(Isa::avx512);
    const bool has_vnni = bit(extended.ecx, avx512_vnni);
    if (has_vnni) found |= flag(Isa::avx512_vnni);
    // Every CPU with bfloats has VNNI, and the kernels use both.
    if (has_vnni && bit(more.eax, avx512_bf16)) found |= flag(Isa::avx512_bf16);
  }
  constexpr int amx_bf16 = 22, amx_tile = 24, amx_int8 = 25;
  const bool has_vnni = (found & flag(Isa::avx512_vnni)) != 0;  // what the kernels use beside tiles
  if (has_vnni && (states & amx_states) == amx_states && bit(extended.edx, amx_tile) &&
      may_use_tiles()) {
    if (bit(extended.edx, amx_int8)) found |= flag(Isa::amx_int8);
    if (bit(extended.edx, amx_bf16)) found |= flag(Isa::amx_bf16);
  }
  return found;
}

std::string read_cpu_name() {
  constexpr unsigned first_leaf = 0x80000002, last_leaf = 0x80000004;
  std::string name;
  for (unsigned leaf = first_leaf; leaf <= last_leaf; ++leaf) {
    const Registers r = cpuid(leaf, 0);
    for (const unsigned word : {r.eax, r.ebx, r.ecx, r.edx}) {
      for (int shift = 0; shift < 32; shift += 8) name += static_cast<char>(word >> shift & 0xff);
    }
  }
  name.resize(name.find('\0') == std::string::npos ? name.size() : name.find('\0'));
  const std::size_t first = name.find_first_not_of(' ');
  if (first == std::string::npos) return "unknown x86-64";
  return name.substr(first, name.find_last_not_of(' ') - first + 1);
}
#elif defined(__aarch64__)
std::uint32_t detect() {
  const auto flag = [](Isa isa) { return 1u << static_cast<unsigned>(isa); };
  std::uint32_t found = flag(Isa::scalar);
  // The kernels are compiled for Armv8.2 with the dot product; its other parts are asked for too.
  constexpr unsigned long dotprod = HWCAP_ASIMDDP | HWCAP_ATOMICS | HWCAP_ASIMDRDM | HWCAP_CRC32;
  if ((getauxval(AT_HWCAP) & dotprod) != dotprod) return found;
  found |= flag(Isa::neon_dotprod);
  if ((getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0) found |= flag(Isa::neon_i8mm);
  return found;
}

/// The part number of the first CPU: Arm has no brand string.
std::string read_cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string implementer, part;
  for (std::string line; std::getline(file, line) && part.empty();) {
    const std::size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    if (line.starts_with("CPU implementer")) implementer = line.substr(colon + 2);
    if (line.starts_with("CPU part")) part = line.substr(colon + 2);
  }
  if (part.empty()) return "unknown aarch64";
  return "aarch64 implementer " + implementer + " part " + part;
}
#else
std::uint32_t detect() {
  return 1u << static_cast<unsigned>(Isa::scalar);
}
std::string read_cpu_name() {
  return "unknown CPU";
}
#endif

}  // namespace

std::optional<Isa> isa_named(std::string_view name) {
  for (std::size_t i = 0; i < isa_names.size(); ++i) {
    if (isa_names[i] == name) return static_cast<Isa>(i);
  }
  return std::nullopt;
}

bool is_available(Isa isa) {
  static const std::uint32_t found = detect();
  return (found >> static_cast<unsigned>(isa) & 1u) != 0;
}

std::string_view cpu_name() {
  static const std::string name = read_cpu_name();
  return name;
}

}  // namespace lowbit
