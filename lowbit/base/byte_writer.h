// SPDX-License-Identifier: Apache-2.0
// Bytes put one after the other: the counterpart of ByteReader, for headers that are small enough
// to be made in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace lowbit {

class ByteWriter {
 public:
  /// A little-endian number.
  template <class T>
  void put(T value) {
    append(std::as_bytes(std::span(&value, 1)));
  }
  void put_text(std::string_view text) { append(std::as_bytes(std::span(text))); }
  /// The number of its bytes, as the format has it, and the text.
  template <class Count>
  void put_string(std::string_view text) {
    put(static_cast<Count>(text.size()));
    put_text(text);
  }
  void append(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  /// Zeros up to n_bytes in all.
  void pad_to(std::size_t n_bytes) { bytes_.resize(n_bytes); }

  std::span<const std::byte> bytes() const { return bytes_; }
  std::size_t n_bytes() const { return bytes_.size(); }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace lowbit
