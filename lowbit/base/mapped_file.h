// SPDX-License-Identifier: Apache-2.0
// A file mapped read-only. The bytes stay valid while the object lives; moving keeps their address.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "lowbit/base/result.h"

namespace lowbit {

class MappedFile {
 public:
  /// Errors: unreadable path, not a regular file. An empty file maps to an empty span.
  static Result<MappedFile> open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, n_bytes_}; }
  const std::string& path() const { return path_; }

  /// Tells the system that these pages will be read soon: it starts reading them from the disk.
  void prefetch(std::span<const std::byte> range) const;
  /// Tells the system that these pages will not be read again soon (they leave resident memory).
  void drop_pages(std::span<const std::byte> range) const;

 private:
  MappedFile() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t n_bytes_ = 0;
};

/// Writes a file that appears whole or not at all: a nameless temporary in the folder of `path`
/// (a named one where the file system has no such thing), fsync, rename. Destroyed before commit()
/// it leaves nothing; a nameless one leaves nothing even when the process is killed.
class AtomicFile {
 public:
  static Result<AtomicFile> create(const std::string& path);
  /// The same with the temporary in another folder of the same file system, for a path whose own
  /// folder will only exist at commit_as().
  static Result<AtomicFile> create_in(const std::string& folder, const std::string& path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  ~AtomicFile();

  Status write(std::span<const std::byte> bytes);
  /// Anywhere: earlier bytes are overwritten, beyond the end the file grows (with zeros between).
  Status write_at(std::size_t offset, std::span<const std::byte> bytes);
  std::size_t n_written() const { return n_written_; }
  /// The file stands under its path; an older file there is replaced.
  Status commit();
  /// The same under another path on the same file system.
  Status commit_as(const std::string& path);

 private:
  AtomicFile() = default;
  Status write_all(std::size_t offset, std::span<const std::byte> bytes);
  void discard();

  std::string path_, temporary_;  // temporary_ is empty while the file is nameless
  int descriptor_ = -1;
  std::size_t n_written_ = 0;
};

/// A name beside `path` that no file has now, for temporaries: path.tmp-PID-N.
std::string temporary_name(const std::string& path);

/// "cannot ACTION 'PATH': reason", with what to do about full disks.
Error system_error(std::string_view action, const std::string& path, int error_number);

}  // namespace lowbit
