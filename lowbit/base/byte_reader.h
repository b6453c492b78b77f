// SPDX-License-Identifier: Apache-2.0
// A pull parser over mapped bytes with sticky bounds checks: read all the fields of a record, test
// ok() once. After the first read beyond the end every read gives zero and ok() stays false.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace lowbit {

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  bool ok() const { return ok_; }
  std::size_t position() const { return position_; }
  std::size_t n_left() const { return bytes_.size() - position_; }

  /// A little-endian number.
  template <class T>
  T get() {
    T value{};
    if (!take(sizeof value)) return value;
    std::memcpy(&value, bytes_.data() + position_ - sizeof value, sizeof value);
    return value;
  }

  /// n_bytes of text; stays valid as long as the bytes do.
  std::string_view text(std::uint64_t n_bytes) {
    if (!take(n_bytes)) return {};
    const auto count = static_cast<std::size_t>(n_bytes);
    return {reinterpret_cast<const char*>(bytes_.data() + position_ - count), count};
  }

 private:
  bool take(std::uint64_t n_bytes) {
    ok_ = ok_ && n_bytes <= n_left();
    if (ok_) position_ += static_cast<std::size_t>(n_bytes);
    return ok_;
  }

  std::span<const std::byte> bytes_;
  std::size_t position_ = 0;
  bool ok_ = true;
};

/// Text from a file as it may stand in a message: quoted, cut, without control characters or
/// broken UTF-8.
std::string shown(std::string_view text);

}  // namespace lowbit
