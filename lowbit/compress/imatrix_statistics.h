// SPDX-License-Identifier: Apache-2.0
// Importance matrices as statistics and back: llama.cpp's file says E[x_j^2] by GGUF name, which is
// what every method needs that asks for activations and no Hessian.
#pragma once

#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/compress/statistics.h"
#include "lowbit/io/imatrix.h"
#include "lowbit/model/model_file.h"

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

}  // namespace lowbit
