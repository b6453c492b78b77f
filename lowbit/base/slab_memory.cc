// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/slab_memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>

namespace lowbit {
namespace {

constexpr std::size_t huge_page = std::size_t{2} << 20, slab_bytes = 16 * huge_page;
constexpr std::size_t alignment = 64;

std::size_t round_up(std::size_t n_bytes, std::size_t unit) {
  return (n_bytes + unit - 1) / unit * unit;
}

/// Pages that are never touched cost nothing, so a slab begins at the border of a huge page.
std::shared_ptr<std::byte> map(std::size_t n_bytes) {
  const std::size_t n_mapped = n_bytes + huge_page;
  void* mapped =
      ::mmap(nullptr, n_mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  ::madvise(mapped, n_mapped, MADV_HUGEPAGE);  // where there are none, small pages serve
  auto* first = static_cast<std::byte*>(mapped);
  const auto past = static_cast<std::size_t>(reinterpret_cast<std::uintptr_t>(first) % huge_page);
  std::byte* aligned = first + (huge_page - past) % huge_page;
  return {aligned, [first, n_mapped](std::byte*) { ::munmap(first, n_mapped); }};
}

}  // namespace

std::shared_ptr<std::byte> SlabMemory::take(std::size_t n_bytes) {
  n_bytes = round_up(n_bytes, alignment);
  if (n_bytes > slab_bytes / 2) return map(n_bytes);
  if (n_bytes > n_slab_ - n_taken_) {
    slab_ = map(slab_bytes);
    n_slab_ = slab_bytes;
    n_taken_ = 0;
  }
  std::byte* piece = slab_.get() + std::exchange(n_taken_, n_taken_ + n_bytes);
  return {slab_, piece};
}

}  // namespace lowbit
