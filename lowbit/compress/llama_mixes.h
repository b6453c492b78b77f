// SPDX-License-Identifier: Apache-2.0
// llama.cpp's quantization names that are mixes: Q4_K_M is q4_k with some tensors in q6_k, by the
// tensor's role, its layer, the heads that share a key and whether the inputs are known. What goes
// where is a fact of src/llama-quant.cpp; here it is one table, and a test compares it with what
// llama-quantize does to every tensor. The experts' rows of its rules are left out, as no
// architecture here has any.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "lowbit/formats/scheme.h"
#include "lowbit/model/config.h"

namespace lowbit {

struct LlamaMix {
  std::string_view name;    // as llama-quantize spells it
  std::string_view scheme;  // of whatever the table does not say otherwise
};
std::span<const LlamaMix> llama_mix_list();

/// In any case, Q3_K, Q4_K and Q5_K being short for their _M. Null for other names. Some names are
/// schemes too when written small (q4_0: every matrix in it); who reads both asks for a scheme
/// first.
const LlamaMix* llama_mix_named(std::string_view name);

/// Scheme of a matrix, by its canonical name, before its row length is looked at: llama_fallback
/// follows where it does not fit. calibrated: something is known about the inputs (an imatrix).
Scheme llama_mix_scheme(const LlamaMix& mix, const ModelConfig& config,
                        std::string_view canonical_name, std::int64_t cols, bool calibrated);

/// What llama-quantize takes where rows are not whole blocks of the scheme: a type with blocks of
/// 32, and f16 after that. Nothing for f16 and for schemes it has no fallback for.
std::optional<Scheme> llama_fallback(const Scheme& scheme);

/// Whether llama-quantize refuses to make such a matrix without an imatrix.
bool llama_wants_imatrix(const LlamaMix& mix, const Scheme& scheme,
                         std::string_view canonical_name);

}  // namespace lowbit
