// SPDX-License-Identifier: Apache-2.0
// Memory for data that is written once and lives as long as a model: pieces of large slabs that ask
// the system for huge pages. A page fault costs more than packing a page does, and the kernels read
// whole matrices, for which small pages run out of the processor's address cache.
#pragma once

#include <cstddef>
#include <memory>

namespace lowbit {

class SlabMemory {
 public:
  /// n_bytes at a 64-byte border, uninitialized; a slab goes back when the last of its pieces goes.
  /// Throws std::bad_alloc as new does.
  std::shared_ptr<std::byte> take(std::size_t n_bytes);

 private:
  std::shared_ptr<std::byte> slab_;
  std::size_t n_slab_ = 0, n_taken_ = 0;
};

}  // namespace lowbit
