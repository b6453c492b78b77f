// SPDX-License-Identifier: Apache-2.0
// The folder in which a calibrated run keeps what it has finished, OUTPUT.work/: the rounded
// tensors of each block, the hidden states that enter the next one, and a manifest that says what
// they belong to. A later run with the same key goes on after the last block of the manifest; any
// other key, and any damage, starts anew. The manifest is replaced as a whole after everything it
// names, so a run may be killed anywhere.
//
//   manifest.json    version, key, finished blocks, hash of the hidden states, notes, names
//   block-NNNN/      a model folder in our own convention: the tensors of one block
//   hidden-0, -1     hidden states of all windows; the blocks take turns
//   inputs           scratch of the current stage
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/formats/quantized_tensor.h"

namespace lowbit {

class WorkFolder {
 public:
  using Tensors = std::vector<std::pair<std::string, QuantizedTensor>>;

  /// key: everything the result depends on. Makes the folder, or takes up what an earlier run left
  /// there. Errors: the folder cannot be made, or it holds files that are not ours.
  static Result<WorkFolder> open(const std::string& folder, const std::string& key,
                                 ThreadPool& pool);

  const std::string& folder() const { return folder_; }
  std::int64_t n_finished() const { return n_finished_; }
  /// (tensor, text) of all finished blocks.
  const std::vector<std::pair<std::string, std::string>>& notes() const { return notes_; }

  /// Block n_finished() is done; hidden_file (a path in the folder, or "") is what the next needs.
  Status finish_block(const Tensors& tensors, const std::string& hidden_file,
                      std::vector<std::pair<std::string, std::string>> notes, ThreadPool& pool);

  bool has(std::string_view name) const { return blocks_.contains(name); }
  Result<QuantizedTensor> load(std::string_view name, ThreadPool& pool) const;

  /// Deletes the folder and what is in it.
  Status remove();

 private:
  WorkFolder() = default;
  Status read_manifest(ThreadPool& pool);
  Status write_manifest() const;
  std::string block_path(std::int64_t block) const;
  void start_anew();

  std::string folder_, key_, hidden_file_, hidden_hash_;
  std::int64_t n_finished_ = 0;
  std::vector<std::pair<std::string, std::string>> notes_;
  std::map<std::string, std::int64_t, std::less<>> blocks_;  // of each tensor
};

}  // namespace lowbit
