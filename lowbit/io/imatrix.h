// SPDX-License-Identifier: Apache-2.0
// llama.cpp's importance matrices: for every matrix of a model the sum of x_j^2 over the tokens
// whose inputs x it saw. Two forms, told apart by their first bytes when read and by the file's
// name when written.
//
//   X.gguf  a GGUF file with general.type "imatrix", imatrix.datasets (strings),
//   imatrix.chunk_count
//           and imatrix.chunk_size (u32), and two f32 tensors per matrix:
//             NAME.in_sum2 (n_experts, in)   sum of x_j^2
//             NAME.counts  (n_experts, 1)    tokens that were summed
//   X.dat   (legacy, little-endian)
//             i32 n_entries
//             n_entries x {i32 n, char name[n], i32 n_chunks, i32 n_values, f32 values[n_values]}
//             i32 n_chunks, i32 n, char dataset[n]          (both may be missing)
//           values = E[x_j^2] * n_chunks; how long a chunk was is not in the file
//
// NAME is the GGUF name of the matrix: blk.0.attn_q.weight.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lowbit/base/result.h"

namespace lowbit {

/// Tokens per chunk where nobody says otherwise, and what the legacy form is taken to mean.
inline constexpr std::int64_t default_imatrix_chunk = 512;

struct Imatrix {
  struct Entry {
    std::vector<float> sum_square;     // (n_experts, in) row-major: sum of x_j^2
    std::vector<std::int64_t> counts;  // (n_experts): tokens; one entry for all but experts

    std::int64_t n_inputs() const {
      return counts.empty() ? 0 : static_cast<std::int64_t>(sum_square.size() / counts.size());
    }
    /// (n_experts, in): E[x_j^2]; 1 for an expert that saw no token.
    std::vector<float> mean_square() const;
  };
  std::map<std::string, Entry, std::less<>> entries;  // by GGUF name
  std::vector<std::string> datasets;                  // what text, most recent last
  std::int64_t chunk_size = default_imatrix_chunk;    // tokens
  std::int64_t n_chunks = 0;
};

/// Errors name the file and the entry: damaged, sums without counts, numbers that are negative or
/// not finite.
Result<Imatrix> read_imatrix(const std::string& path);

/// Whether the name says which form the file shall have: ".gguf" or ".dat".
Status check_imatrix_path(const std::string& path);
/// In the form of the name. The file appears whole or not at all.
Status write_imatrix(const std::string& path, const Imatrix& imatrix);

}  // namespace lowbit
