// SPDX-License-Identifier: Apache-2.0
// Importance matrices as statistics and back: llama.cpp's file says E[x_j^2] by GGUF name, which is
// what every method needs that asks for activations and no Hessian.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/compress/statistics.h"
#include "lowbit/io/imatrix.h"
#include "lowbit/model/model_file.h"
#include "lowbit/model/tokenizer.h"

namespace lowbit {

struct ImatrixStats {
  ModelStats statistics;             // mean_square and n_tokens alone
  std::vector<std::string> missing;  // matrices of layers that the file does not know
};

/// Errors: an entry of another length than the model's rows, several experts, a file in which no
/// matrix of the model stands.
Result<ImatrixStats> statistics_of(const Imatrix& imatrix, const ModelFile& model);

/// What stands in the statistics of matrices that have a GGUF name.
Imatrix imatrix_of(const ModelStats& statistics, std::int64_t chunk_size,
                   std::vector<std::string> datasets);

/// The text as llama-imatrix reads it: chunks of chunk_size tokens one after another, the first
/// token of each replaced by BOS where the model wants one; what is left at the end is not read.
/// n_chunks: at most so many; 0: all. Errors: fewer tokens than two chunks, which that tool refuses
/// too.
Result<CalibrationWindows> imatrix_chunks(std::string_view text, const Tokenizer& tokenizer,
                                          std::int64_t chunk_size, std::int64_t n_chunks);

}  // namespace lowbit
