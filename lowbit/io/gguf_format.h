// SPDX-License-Identifier: Apache-2.0
// The facts of the GGUF container that its reader and its writer share.
//
//   "GGUF"  u32 version  u64 n_tensors  u64 n_kv
//   n_kv x      {string key, u32 type, value}        string = u64 length, bytes
//   n_tensors x {string name, u32 n_dims, u64 dims[n_dims] innermost first, u32 type, u64 offset}
//   padding to the alignment, then the tensors, each at its offset from here and padded too
//
//   array value = u32 element type, u64 count, elements
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "lowbit/base/result.h"
#include "lowbit/io/metadata.h"

namespace lowbit::gguf {

inline constexpr std::string_view magic = "GGUF";
inline constexpr std::uint32_t version = 3, oldest_version = 2;
inline constexpr std::uint32_t max_dims = 4;
inline constexpr std::uint64_t default_alignment = 32, max_alignment = 1 << 20;
inline constexpr std::string_view alignment_key = "general.alignment";
inline constexpr std::string_view split_number_key = "split.no", split_count_key = "split.count",
                                  split_tensors_key = "split.tensors.count";

/// The stated alignment or the default; an error unless it is a power of two up to max_alignment.
Result<std::uint64_t> alignment_of(const Metadata& metadata);

inline constexpr std::uint32_t type_f32 = 0, type_nvfp4 = 40, type_stq1_0 = 42;

/// The tensor scale of an nvfp4 tensor is a tensor of one f32 beside it: x.weight -> x.scale.
inline std::string scale_name(std::string_view tensor_name) {
  constexpr std::string_view weight = ".weight";
  if (tensor_name.ends_with(weight)) tensor_name.remove_suffix(weight.size());
  return std::string(tensor_name) + ".scale";
}

}  // namespace lowbit::gguf
