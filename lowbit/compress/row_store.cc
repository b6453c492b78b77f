// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/row_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "lowbit/base/assert.h"
#include "lowbit/base/mapped_file.h"

namespace lowbit {

Result<RowStore> RowStore::create(const std::string& path, std::int64_t n_windows,
                                  std::int64_t window_numbers) {
  RowStore store;
  store.path_ = path;
  store.window_numbers_ = window_numbers;
  if (path.empty()) {
    store.memory_.resize(static_cast<std::size_t>(n_windows * window_numbers));
    return store;
  }
  constexpr mode_t mode = 0644;
  store.descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, mode);
  if (store.descriptor_ < 0) return system_error("create", path, errno);
  return store;
}

RowStore::RowStore(RowStore&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      window_numbers_(other.window_numbers_),
      memory_(std::move(other.memory_)) {}

RowStore& RowStore::operator=(RowStore&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(window_numbers_, other.window_numbers_);
  std::swap(memory_, other.memory_);
  return *this;
}

RowStore::~RowStore() {
  if (descriptor_ >= 0) close(descriptor_);
}

Status RowStore::write(std::int64_t window, std::span<const float> numbers) {
  LOWBIT_ASSERT(static_cast<std::int64_t>(numbers.size()) <= window_numbers_);
  if (descriptor_ < 0) {
    std::ranges::copy(numbers, memory_.begin() + window * window_numbers_);
    return ok();
  }
  std::span<const std::byte> bytes = std::as_bytes(numbers);
  auto at = static_cast<off_t>(window * window_numbers_ * std::int64_t{sizeof(float)});
  while (!bytes.empty()) {
    const ssize_t n = pwrite(descriptor_, bytes.data(), bytes.size(), at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return system_error("write", path_, n < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    at += n;
  }
  return ok();
}

Status RowStore::read(std::int64_t window, std::span<float> numbers) const {
  LOWBIT_ASSERT(static_cast<std::int64_t>(numbers.size()) <= window_numbers_);
  if (descriptor_ < 0) {
    std::copy_n(memory_.begin() + window * window_numbers_, numbers.size(), numbers.begin());
    return ok();
  }
  std::span<std::byte> bytes = std::as_writable_bytes(numbers);
  auto at = static_cast<off_t>(window * window_numbers_ * std::int64_t{sizeof(float)});
  while (!bytes.empty()) {
    const ssize_t n = pread(descriptor_, bytes.data(), bytes.size(), at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error("read", path_, errno);
    if (n == 0) return Error("'" + path_ + "' is shorter than it was; remove it and start again");
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    at += n;
  }
  return ok();
}

}  // namespace lowbit
