// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/imatrix_statistics.h"

#include <fmt/format.h>

#include <algorithm>

#include "lowbit/model/tensor_names.h"

namespace lowbit {

Result<ImatrixStats> statistics_of(const Imatrix& imatrix, const ModelFile& model) {
  ImatrixStats result;
  for (const ModelTensor& tensor : model.tensors()) {
    if (!tensor.is_matrix()) continue;
    const auto name = gguf_from_canonical(tensor.name);
    const auto found = name ? imatrix.entries.find(*name) : imatrix.entries.end();
    if (found == imatrix.entries.end()) {
      // Embedding and head are left out by llama-imatrix unless it is asked for them.
      if (!role_of(tensor.name).empty()) result.missing.push_back(tensor.name);
      continue;
    }
    const Imatrix::Entry& entry = found->second;
    if (entry.counts.size() != 1 || entry.n_inputs() != tensor.cols()) {
      return Error(
          fmt::format("entry {} is about {} x {} inputs and {} has {}; the importance matrix was "
                      "made from another model",
                      *name, entry.counts.size(), entry.n_inputs(), tensor.name, tensor.cols()));
    }
    TensorStats& stats = result.statistics[tensor.name];
    stats.n_tokens = entry.counts[0];
    stats.mean_square = entry.mean_square();
  }
  if (result.statistics.empty()) {
    return Error(
        fmt::format("none of its {} entries is a matrix of {}; it was made from another "
                    "model",
                    imatrix.entries.size(), model.path()));
  }
  return result;
}

Imatrix imatrix_of(const ModelStats& statistics, std::int64_t chunk_size,
                   std::vector<std::string> datasets) {
  Imatrix imatrix;
  imatrix.chunk_size = chunk_size;
  imatrix.datasets = std::move(datasets);
  for (const auto& [canonical, stats] : statistics) {
    const auto name = gguf_from_canonical(canonical);
    if (!name || stats.mean_square.empty()) continue;
    Imatrix::Entry& entry = imatrix.entries[*name];
    entry.counts = {stats.n_tokens};
    entry.sum_square = stats.mean_square;
    for (float& sum : entry.sum_square) sum *= static_cast<float>(stats.n_tokens);
    imatrix.n_chunks = std::max(imatrix.n_chunks, stats.n_tokens / chunk_size);
  }
  return imatrix;
}

Result<CalibrationWindows> imatrix_chunks(std::string_view text, const Tokenizer& tokenizer,
                                          std::int64_t chunk_size, std::int64_t n_chunks) {
  const std::vector<TokenId> tokens =
      tokenizer.encode(text, /*add_bos=*/true, /*parse_special=*/false);
  const auto n_tokens = static_cast<std::int64_t>(tokens.size());
  constexpr std::int64_t least = 2;  // chunks
  if (n_tokens < least * chunk_size) {
    return Error(
        fmt::format("the calibration text has {} tokens and an importance matrix needs at "
                    "least {}; give a longer text or a smaller --chunk-size",
                    n_tokens, least * chunk_size));
  }
  std::int64_t n = n_tokens / chunk_size;
  if (n_chunks != 0) n = std::min(n, n_chunks);
  CalibrationWindows chunks;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto first = tokens.begin() + i * chunk_size;
    auto& chunk = chunks.emplace_back(first, first + chunk_size);
    if (tokenizer.adds_bos() && tokenizer.bos()) chunk.front() = *tokenizer.bos();
  }
  return chunks;
}

}  // namespace lowbit
