// SPDX-License-Identifier: Apache-2.0
#include "lowbit/io/gguf_format.h"

#include <fmt/format.h>

#include <bit>

namespace lowbit::gguf {

Result<std::uint64_t> alignment_of(const Metadata& metadata) {
  if (!metadata.contains(alignment_key)) return default_alignment;
  auto alignment = metadata.integer(alignment_key);
  if (!alignment) return std::move(alignment).error();
  const auto value = static_cast<std::uint64_t>(*alignment);
  if (!std::has_single_bit(value) || value > max_alignment) {
    return Error(fmt::format("{} is {}, expected a power of two up to {}", alignment_key,
                             *alignment, max_alignment));
  }
  return value;
}

}  // namespace lowbit::gguf
