// SPDX-License-Identifier: Apache-2.0
// The numbers of all calibration tokens at one place of a model, a window at a time: in memory, or
// in a file beside the output, which is how calibration keeps its memory budget for any model. Read
// and written, not mapped: pages of a mapping would count as ours, and a full disk would be a
// signal instead of a sentence.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lowbit/base/result.h"

namespace lowbit {

class RowStore {
 public:
  /// path: of the file, which is kept and whose old bytes are kept too; "" for memory. A window has
  /// room for window_numbers.
  static Result<RowStore> create(const std::string& path, std::int64_t n_windows,
                                 std::int64_t window_numbers);
  RowStore() = default;
  RowStore(RowStore&& other) noexcept;
  RowStore& operator=(RowStore&& other) noexcept;
  ~RowStore();

  /// The first numbers of a window; at most window_numbers. Errors: the disk is full or broken.
  Status write(std::int64_t window, std::span<const float> numbers);
  Status read(std::int64_t window, std::span<float> numbers) const;

 private:
  std::string path_;
  int descriptor_ = -1;
  std::int64_t window_numbers_ = 0;
  std::vector<float> memory_;
};

}  // namespace lowbit
