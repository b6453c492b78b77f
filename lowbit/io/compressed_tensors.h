// SPDX-License-Identifier: Apache-2.0
// The compressed-tensors convention of safetensors, which transformers and vLLM load: what its
// reader and its writer share. A matrix NAME.weight (N, K) in a scheme is
//
//   pack-quantized   NAME.weight_packed I32 (N, ceil(K bits / 32))  codes from the lowest bit up,
//   in
//                                       offset binary, every row from a new word
//   int-quantized    NAME.weight I8 (N, K), two's complement
//   float-quantized  NAME.weight F8_E4M3 (N, K)
//   all              NAME.weight_scale  (1), (N, 1), (N, K/g) or (ceil(N/b), ceil(K/b))
//   with a zero      NAME.weight_zero_point: packed I32 (ceil(N bits / 32), K/g), a column's codes
//                                       from the lowest bit up; I8 (N, K/g) where weights are I8
//   packed           NAME.weight_shape  I64 (2): N, K
//
//   w = (v - zero) * scale
//
// and config.json's quantization_config says which module has which scheme. Widths that do not
// divide a word are left out: readers of different years disagree on how they are packed.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/io/json.h"

namespace lowbit::compressed_tensors {

inline constexpr std::string_view quant_method = "compressed-tensors";
inline constexpr std::string_view weight_suffix = ".weight";
/// What readers expect in a plain float.
inline constexpr std::string_view embedding_tensor = "model.embed_tokens.weight",
                                  head_tensor = "lm_head.weight";

enum class Format : std::uint8_t { pack_quantized, int_quantized, float_quantized };
std::string_view name_of(Format format);
std::optional<Format> format_named(std::string_view name);

/// What the convention can say of weights, and in which format weights of a scheme are written when
/// the activations of their matrix products are quantized too or are not. Errors: what is in the
/// way and which schemes there are.
Result<Format> format_of(const Scheme& scheme, bool has_activations);

/// {"num_bits", "type", "symmetric", "strategy", ...} of weights.
Json weights_of(const Scheme& scheme);
/// The same back; scale_dtype: F16, BF16 or F32. Errors: what lowbit has no scheme for.
Result<Scheme> scheme_of(const Json& weights, std::string_view scale_dtype);
/// {"num_bits": 8, ...} of activations with one scale per token; null where the convention has no
/// words for the scheme.
std::optional<Json> activations_of(const Scheme& scheme);

/// One tensor of the file.
struct Plane {
  std::string suffix;  // after NAME
  std::string dtype;
  std::vector<std::int64_t> shape;

  std::int64_t n_bytes() const;
};
/// In the order: codes, scale, zero where there is one, shape where packed.
std::vector<Plane> planes_of(const Scheme& scheme, Format format, std::int64_t rows,
                             std::int64_t cols);

/// Of all of them, where activations are not quantized.
std::int64_t stored_bytes(const Scheme& scheme, std::int64_t rows, std::int64_t cols);

/// The bytes of plane `index` of planes_of.
std::vector<std::byte> bytes_of(const QuantizedTensor& tensor, Format format, std::size_t index);
/// Reads them back into a tensor of the scheme and shape.
void read_bytes(std::span<const std::byte> bytes, Format format, std::size_t index,
                QuantizedTensor& tensor);

}  // namespace lowbit::compressed_tensors
